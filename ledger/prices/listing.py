"""Price books as people and programs read them: a model's rates at an instant, and how two books differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import orjson

from ledger.prices.book import Model, PriceBook
from ledger.prices.rates import Rate
from ledger.prices.tariffs import Tariff, tariff_of

__all__ = ["SHOWN", "Change", "changes", "described", "models_of", "usd"]

SHOWN: Final = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
NANO: Final = 10**9
DECIMALS: Final = 18


@dataclass(frozen=True, slots=True)
class Change:
    """A model that two books have otherwise: ``added``, ``removed`` or ``changed``."""

    provider: str
    model: str
    kind: str
    parts: Mapping[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]
    """The rates that differ at the instant, before and after; none where only dates or rules do."""


def models_of(book: PriceBook) -> Iterator[tuple[str, Model]]:
    """Give a book's models with their source's provider; of two with the same id the first is the one in force."""
    for provider, models in sorted(book.providers.items()):
        yield from ((provider, model) for model in {one.id: one for one in reversed(models)}.values())


def described(model: Model, at_ms: int) -> dict[str, Any]:
    """Return what a model's tokens cost at an instant, by size, service tier and place, and when that changes."""
    standard = Tariff(model.standard(at_ms))
    tiers = []
    for variant in model.variants:
        if variant.when.holds(at_ms):
            tariff = Tariff({**standard.rates, **variant.rates})
            tiers.append({"for": dict(variant.fits), "rates": _rates(tariff)})
    whens = [*(price.when for price in model.prices), *(variant.when for variant in model.variants)]
    return {
        "listed_as": model.id,
        "rates": _rates(standard),
        "service_tiers": tiers,
        "inference_geo": {geo: usd(factor) for geo, factor in model.geos.items()},
        "by_time_of_day": any(when.daily_ms is not None for when in whens),
        "changes_at_ms": sorted({when.from_ms for when in whens if when.from_ms is not None and when.from_ms > at_ms}),
    }


def changes(before: PriceBook, after: PriceBook, at_ms: int) -> list[Change]:
    """Return what differs between two books, by provider and model; () where they charge alike for ever."""
    olds, news = _written(before), _written(after)
    found = []
    for provider, model in sorted({*olds, *news}):
        old, new = olds.get((provider, model)), news.get((provider, model))
        if old == new:
            continue
        kind = "added" if old is None else "removed" if new is None else "changed"
        found.append(Change(provider, model, kind, _parts(before, after, (provider, model), at_ms)))
    return found


def usd(nano_usd: Fraction) -> str:
    """Return a price for a million tokens in USD, exact to eighteen decimals."""
    scaled = round(nano_usd * 10**DECIMALS)
    whole, rest = divmod(scaled, 10**DECIMALS)
    decimals = f"{rest:0{DECIMALS}d}".rstrip("0")
    return f"{whole}.{decimals}" if decimals else str(whole)


def _rates(tariff: Tariff) -> dict[str, Any]:
    parts = (*SHOWN, "output_reasoning") if tariff.splits_output else SHOWN
    return {part: _rate(tariff.part(part)) for part in parts}


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    above = [{"input_tokens": start, "usd_per_mtok": usd(price / NANO)} for start, price in rate.above]
    return {"usd_per_mtok": usd(rate.base / NANO), "above": above}


def _written(book: PriceBook) -> dict[tuple[str, str], Any]:
    listed: Mapping[str, list[dict[str, Any]]] = orjson.loads(book.text)["providers"]
    return {(provider, one["id"]): one for provider, models in listed.items() for one in reversed(models)}


def _parts(
    before: PriceBook, after: PriceBook, name: tuple[str, str], at_ms: int
) -> Mapping[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    old, new = (_at(book, name, at_ms) for book in (before, after))
    return {part: (old.get(part), new.get(part)) for part in {**old, **new} if old.get(part) != new.get(part)}


def _at(book: PriceBook, name: tuple[str, str], at_ms: int) -> dict[str, Any]:
    model = next((one for one in book.providers.get(name[0], ()) if one.id == name[1]), None)
    if model is None or not model.prices:
        return {}
    tariff = tariff_of(model, at_ms, None, None)
    return {} if isinstance(tariff, str) else _rates(tariff)
