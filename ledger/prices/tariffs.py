"""What one request is charged by: a model's rates in force at its start, for its service tier and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ledger.prices.book import Model, Rates, Variant
from ledger.prices.rates import Rate

__all__ = ["Tariff", "Unpriced", "dearest", "tariff_of"]

Unpriced = Literal["service_tier_unpriced", "inference_geo_unpriced"]

INPUT_PARTS: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h")
OUTPUT_PARTS: Final = ("output", "output_reasoning")
BROADER: Final = {
    "input": ("input",),
    "cache_read": ("cache_read", "input"),
    "cache_write_5m": ("cache_write_5m", "cache_write", "input"),
    "cache_write_1h": ("cache_write_1h", "cache_write", "input"),
    "output": ("output",),
    "output_reasoning": ("output_reasoning", "output"),
}
STANDARD: Final = frozenset({"standard", "default", "on_demand"})
"""Service tiers, in lower case, that a model's own rates are for."""
ANYWHERE: Final = frozenset({"", "global", "not_available"})
"""Places of inference that change no price."""
ANSWERED: Final = frozenset({"service_tier", "processing", "inference_geo"})
"""What an answer can say of its request; a variant that asks for anything else is one we never send for."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """The rate of each disjoint part of a usage, None where nobody knows it, and a factor on all of them."""

    rates: Mapping[str, Rate | None]
    factor: Fraction = Fraction(1)

    def part(self, name: str) -> Rate | None:
        """Return the rate of a part, or of the next broader one that has a rate."""
        return next((self.rates[key] for key in BROADER[name] if key in self.rates), None)

    @property
    def splits_output(self) -> bool:
        """Say whether thinking has a rate of its own."""
        return "output_reasoning" in self.rates


def tariff_of(model: Model, at_ms: int, service_tier: str | None, inference_geo: str | None) -> Tariff | Unpriced:
    """Return what a request is charged by, or why that is not known.

    A service tier or a place that the book has no rates for is not charged as the usual one: it costs something else.
    """
    context = _context(service_tier, inference_geo)
    variants = [one for one in model.variants if one.when.holds(at_ms) and one.fits.items() <= context.items()]
    if not _is_priced(service_tier, STANDARD, ("service_tier", "processing"), variants):
        return "service_tier_unpriced"
    geo = (inference_geo or "").lower()
    factor = model.geos.get(geo)
    if factor is None and not _is_priced(inference_geo, ANYWHERE, ("inference_geo",), variants):
        return "inference_geo_unpriced"
    return Tariff(_overridden(model.standard(at_ms), variants), Fraction(1) if factor is None else factor)


def dearest(model: Model, at_ms: int) -> tuple[Fraction | None, Fraction | None]:
    """Return the dearest price of an input token and of an output token, in nano-USD for a million.

    Of every size, cache use, service tier and place that the book knows for the model at that instant; None where it
    knows no price.
    """
    standard = model.standard(at_ms)
    reachable = (one for one in model.variants if one.when.holds(at_ms) and one.fits.keys() <= ANSWERED)
    tariffs = [Tariff(standard), *(Tariff(_overridden(standard, [one])) for one in reachable)]
    factor = max((Fraction(1), *model.geos.values()))
    return _dearest(tariffs, INPUT_PARTS, factor), _dearest(tariffs, OUTPUT_PARTS, factor)


def _dearest(tariffs: list[Tariff], parts: tuple[str, ...], factor: Fraction) -> Fraction | None:
    rates = (tariff.part(part) for tariff in tariffs for part in parts)
    highest = max((rate.dearest for rate in rates if rate is not None), default=None)
    return None if highest is None else highest * factor


def _context(service_tier: str | None, inference_geo: str | None) -> dict[str, str]:
    """Return what an answer says of its request, in the source's words: Anthropic's batches are a service tier."""
    context = {"service_tier": service_tier, "inference_geo": inference_geo}
    if service_tier == "batch":
        context["processing"] = "batch"
    return {key: value for key, value in context.items() if value is not None}


def _is_priced(value: str | None, usual: frozenset[str], keys: tuple[str, ...], variants: list[Variant]) -> bool:
    return value is None or value.lower() in usual or any(key in one.fits for one in variants for key in keys)


def _overridden(standard: Rates, variants: list[Variant]) -> Rates:
    rates = dict(standard)
    for variant in reversed(variants):
        rates.update(variant.rates)
    return rates
