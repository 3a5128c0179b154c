"""From a tier to what answers for it: provider, model, fallback, limits; and what a task is pinned to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import Any, Final

from ledger.breakers import BreakerSettings
from ledger.config import Config
from ledger.config.tables import circle
from ledger.errors import ConfigurationError, RequestRefused
from ledger.policy import PPM, Limits, Policy, Step, Tier

__all__ = ["Entry", "ModelRegistry", "ModelTier", "TierUnknown", "nano_usd"]

ATTEMPTS_MAX: Final = 1000
"""Of one task, orphaned and interrupted ones included: more than any route that can be configured asks for."""
SHOWN_MAX: Final = 40
JUDGE: Final[Tier] = "sonnet"
ABILITY: Final[dict[Tier, int]] = {"flash": 0, "pro": 1, "haiku": 1, "sonnet": 2, "opus": 3}
"""How able a tier is, for one that is no rung of the ladder itself: pro stands beside haiku."""
# Wide enough for any decimal a person writes, whatever the caller's own context is.
WIDE: Final = Context(prec=60)


class TierUnknown(RequestRefused, ValueError):
    """A name that no tier has."""


CONCURRENCY_MAX: Final = 64


class ModelTier(StrEnum):
    """A rung of price and ability; ``ModelTier("Flash")`` finds it in any case."""

    FLASH = "flash"
    PRO = "pro"
    HAIKU = "haiku"
    SONNET = "sonnet"
    OPUS = "opus"

    @classmethod
    def _missing_(cls, value: object) -> ModelTier:
        for tier in cls:
            if isinstance(value, str) and value.lower() == tier.value:
                return tier
        shown = repr(value) if isinstance(value, str) and len(value) <= SHOWN_MAX else f"a {type(value).__name__}"
        raise TierUnknown(f"{shown} is no tier, expected one of {', '.join(cls)}", field="model_tier")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the registry knows of a tier."""

    tier: ModelTier
    provider: str
    model: str
    fallback: ModelTier | None
    timeout_ms: int
    concurrency: int
    """Calls at once to its provider, over all processes that share the ledger."""


class ModelRegistry:
    """The tiers as they are configured.

    Args:
        config: the configuration; None is the defaults.

    Raises:
        ConfigurationError: the fallbacks make a circle.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = Config() if config is None else config
        # A configuration that was checked has no circle; one put together with ``model_copy`` may have.
        chain = circle(self.config.tiers)
        if chain is not None:
            raise ConfigurationError(f"the fallbacks make a circle: {' -> '.join(chain)}")

    def entry(self, tier: ModelTier | str) -> Entry:
        """Return what answers for a tier.

        Raises:
            TierUnknown: no tier has this name.
        """
        known = ModelTier(tier)
        table = getattr(self.config.tiers, known.value)
        return Entry(
            tier=known,
            provider=table.provider,
            model=table.model,
            fallback=None if table.fallback is None else ModelTier(table.fallback),
            timeout_ms=_scaled(table.timeout_s, 1000),
            concurrency=self.concurrency(table.provider),
        )

    def route(self, tier: ModelTier | str, retry_count: int | None = None) -> tuple[Step, ...]:
        """Return a task's steps: the tier with its retries, then each fallback with one try.

        Args:
            tier: the tier asked for.
            retry_count: retries after the first try on the first step; None is the configuration's.
        """
        steps = [self._step(tier, self._tries(retry_count))]
        fallback = self.entry(tier).fallback
        while fallback is not None:
            steps.append(self._step(fallback, 1))
            fallback = self.entry(fallback).fallback
        return tuple(steps)

    def judge(self, retry_count: int | None = None) -> tuple[Step, ...]:
        """Return who judges: one step, without a fallback."""
        return (self._step(JUDGE, self._tries(retry_count)),)

    def ladder(self, tier: ModelTier | str, retry_count: int = 0) -> tuple[Step, ...]:
        """Return the rungs above a tier, upwards; one that is no rung goes to those that are abler than it.

        Args:
            tier: the tier asked for.
            retry_count: retries after the first try on each rung.
        """
        known: Tier = ModelTier(tier).value
        rungs = self.config.escalation.ladder
        if known in rungs:
            above = rungs[rungs.index(known) + 1 :]
        else:
            above = tuple(rung for rung in rungs if ABILITY[rung] > ABILITY[known])
        return tuple(self._step(rung, 1 + retry_count) for rung in above)

    def policy(self) -> Policy:
        """Return how failures are answered, in ms and ppm, rounded half to even."""
        retry = self.config.retry
        return Policy(
            backoff_initial_ms=_scaled(retry.backoff_initial_s, 1000),
            backoff_multiplier_ppm=_scaled(retry.backoff_multiplier, PPM),
            backoff_max_ms=_scaled(retry.backoff_max_s, 1000),
            jitter_ppm=_scaled(retry.jitter, PPM),
            retry_after_max_ms=_scaled(retry.retry_after_max_s, 1000),
            on_unknown=retry.on_unknown,
            max_orphans=retry.max_orphans,
            on_truncated=retry.on_truncated,
        )

    def limits(self) -> Limits:
        """Return what a whole task may use."""
        usd = self.config.budget.max_usd_per_task
        return Limits(attempts=ATTEMPTS_MAX, cost_nano_usd=None if usd is None else nano_usd(usd))

    def breakers(self) -> BreakerSettings:
        """Return when a provider's model is left alone, and how long."""
        table = self.config.breakers
        return BreakerSettings(table.failures, _scaled(table.open_s, 1000), _scaled(table.open_max_s, 1000))

    def concurrency(self, provider: str) -> int:
        """Return how many calls may run at once to a provider, over all processes that share the ledger."""
        return self.config.providers.named(provider).concurrency

    def usual_concurrency(self, tiers: Iterable[ModelTier | str] = ModelTier) -> int:
        """Return the calls that may run at once to the providers of these tiers together, at most 64."""
        providers = {self.entry(tier).provider for tier in tiers}
        return max(1, min(CONCURRENCY_MAX, sum(map(self.concurrency, providers))))

    def settings(self, provider: str) -> dict[str, Any]:
        """Return what a provider's clients are made with: its table without ``concurrency``, in plain Python."""
        settings: dict[str, Any] = _plain(self.config.providers.named(provider).settings())
        return settings

    def _tries(self, retry_count: int | None) -> int:
        return 1 + (self.config.retry.retry_count if retry_count is None else retry_count)

    def _step(self, tier: ModelTier | str, tries: int) -> Step:
        entry = self.entry(tier)
        return Step(
            tier=entry.tier.value, provider=entry.provider, model=entry.model, tries=tries, timeout_ms=entry.timeout_ms
        )


def nano_usd(usd: Decimal) -> int:
    """Return an amount of USD, which has nine decimals at most, in nano-USD."""
    return _scaled(usd, 10**9)


def _scaled(value: Decimal, scale: int) -> int:
    """Return a decimal in a smaller unit, rounded half to even."""
    return int(WIDE.multiply(value, Decimal(scale)).to_integral_value(ROUND_HALF_EVEN, WIDE))


def _plain(value: Any) -> Any:
    """Return a copy with every decimal as the number that TOML and Python would have."""
    match value:
        case Decimal():
            return float(value)
        case dict():
            return {key: _plain(part) for key, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
        case _:
            return value
