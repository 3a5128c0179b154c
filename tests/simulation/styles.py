"""What goes wrong in a world: each draws one style, since one kind of fault alone goes deeper than all at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from ledger import Config

__all__ = ["STYLES", "Fault", "Style", "configured"]

Fault = Literal["crash", "pause", "interrupt", "jump", "full", "outage", "cancel", "release"]


@dataclass(frozen=True, slots=True)
class Style:
    """Faults, and how often they come; rates are in a thousand."""

    name: str
    at_points: int = 0
    """At each point of the protocol: before and after each commit, when a request is sent, when its answer is here."""
    strikes: tuple[Fault, ...] = ("crash",)
    """What may come at a point."""
    timed: tuple[Fault, ...] = ()
    """What comes at any instant."""
    gaps_s: tuple[float, ...] = (10.0,)
    """Between two of them."""
    most: int = 0
    """Faults in one world."""
    trouble: int = 250
    """Of the provider."""
    poison: int = 0
    """A job whose every call kills its worker."""


STYLES: Final = (
    Style("quiet", trouble=100),
    Style(
        "mixed",
        at_points=40,
        strikes=("crash", "pause"),
        timed=("crash", "pause", "interrupt", "jump", "full", "outage", "cancel", "release"),
        gaps_s=(10.0, 0.1, 1.0, 3.0, 30.0),
        most=8,
    ),
    Style(
        "crash storm",
        at_points=150,
        timed=("crash", "crash", "interrupt", "release"),
        gaps_s=(5.0, 0.05, 0.5, 2.0),
        most=12,
        trouble=500,
        poison=350,
    ),
    Style("pauses", at_points=150, strikes=("pause",), timed=("pause", "crash"), gaps_s=(10.0, 0.5, 3.0), most=8),
    Style("clock jumps", at_points=20, timed=("jump",), gaps_s=(5.0, 0.5, 2.0), most=6, trouble=500),
    Style("disk full", at_points=30, timed=("full", "full", "crash", "cancel"), gaps_s=(5.0, 0.1, 1.0), most=6),
    Style("provider outage", timed=("outage", "crash"), gaps_s=(10.0, 0.1, 1.0), most=4, trouble=600),
)


@lru_cache(64)
def configured(on_unknown: str, max_orphans: int, concurrency: int, failures: int, cap_usd: float | None) -> Config:
    """Return a configuration; its attempts are short, so that a world is."""
    return Config.from_mapping(
        {
            "retry": {
                "on_unknown": on_unknown,
                "max_orphans": max_orphans,
                "backoff_initial_s": 5,
                "backoff_max_s": 20,
            },
            "tiers": {tier: {"timeout_s": 5} for tier in ("flash", "haiku", "sonnet", "opus")},
            "providers": {"gemini": {"concurrency": concurrency}, "anthropic": {"concurrency": 2 * concurrency}},
            "breakers": {"failures": failures},
            "budget": {} if cap_usd is None else {"max_usd_per_day": cap_usd},
        }
    )
