"""Put the configuration's own prices before the source's."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ledger.errors import ConfigurationError
from ledger.prices.book import PriceBook, written_book
from ledger.prices.rates import written_exact, written_usd
from ledger.prices.tables import PriceTable, RatesTable

__all__ = ["with_own"]

PARTS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")

Written = dict[str, Any]


def with_own(book: PriceBook, listed: Mapping[str, list[Written]], own: Mapping[str, PriceTable]) -> PriceBook:
    """Return the book with our own prices; ``listed`` is what it was made of.

    Raises:
        ConfigurationError: ``inference_geo`` alone is given for a model that the book has no price for.
    """
    if not own:
        return book
    first: dict[str, list[Written]] = {}
    for name, table in sorted(own.items()):
        provider, _, model = name.partition("/")
        source = book.names.get(provider, provider)
        made = _priced(model, table) if table.input_usd_per_mtok is not None else _at_places(book, listed, name, table)
        first.setdefault(source, []).append(made)
    providers = {name: [*first.get(name, ()), *listed.get(name, ())] for name in (*listed, *first)}
    return written_book(book.names, providers)


def _priced(model: str, table: PriceTable) -> Written:
    """Return a model at our own prices; a part that has none has an unknown one."""
    rates = {part: _rate(part, table) for part in PARTS}
    return {
        "id": model,
        "match": {"equals": model.lower()},
        "prices": [{"when": None, "rates": rates}],
        "variants": [],
        "geos": _factors(table),
    }


def _at_places(book: PriceBook, listed: Mapping[str, list[Written]], name: str, table: PriceTable) -> Written:
    """Return the source's model under one name, with our factors by place."""
    provider, _, model = name.partition("/")
    found = book.model(provider, model)
    if found is None:
        raise ConfigurationError(f'prices."{name}".inference_geo: no price of this model is known to be multiplied')
    source = next(one for one in listed[book.names.get(provider, provider)] if one["id"] == found.id)
    return source | {"match": {"equals": model.lower()}, "geos": _factors(table)}


def _factors(table: PriceTable) -> Written:
    return {geo.lower(): written_exact(Fraction(factor)) for geo, factor in sorted(table.inference_geo.items())}


def _rate(part: str, table: PriceTable) -> Any:
    """Return a part's rate; in a step that leaves it out it stays as it was below."""
    base = _usd(part, table)
    if base is None:
        return None
    above, price = [], base
    for step in table.above:
        given = _usd(part, step)
        price = price if given is None else given
        above.append([step.input_tokens, written_usd(price)])
    return {"base": written_usd(base), "above": above} if above else written_usd(base)


def _usd(part: str, table: RatesTable) -> Decimal | None:
    value: Decimal | None = getattr(table, f"{part}_usd_per_mtok")
    return value
