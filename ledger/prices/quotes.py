"""What was worked out from a book once: prices as integers over one denominator, for the few models that are called.

``ledger.prices.costing`` says what a cost is; this makes the usual case of it quick, to the same last digit. What takes
thought (an unknown count, an unknown price, thinking with a price of its own) is left to it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Final

from ledger.parts import UsageRow
from ledger.prices.book import Model, PriceBook, When
from ledger.prices.rates import MTOK
from ledger.prices.tariffs import Tariff, Unpriced, dearest, tariff_of

__all__ = ["Dearest", "Quote", "dearest_of", "quote_of"]

REMEMBERED_MAX: Final = 2048
"""A provider says which model served; one that makes up names is not to fill the memory."""
PARTS: Final = {
    "input": "input_uncached_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write_5m": "cache_write_5m_tokens",
    "cache_write_1h": "cache_write_1h_tokens",
    "output": "output_tokens",
}
"""What has a price, and the count of a usage's row that it is for."""

Era = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Priced:
    """A model, and the instants at which its prices change."""

    model: Model
    from_ms: tuple[int, ...]
    daily: tuple[When, ...]

    def era(self, at_ms: int) -> Era:
        """Return what is the same for all instants with the same prices."""
        return bisect_right(self.from_ms, at_ms), *(int(when.holds(at_ms)) for when in self.daily)


@dataclass(frozen=True, slots=True)
class Quote:
    """A tariff, and its prices of a token by size of the request, as integers over ``over``."""

    tariff: Tariff
    over: int
    starts: tuple[int, ...]
    """Sizes of the input above which other prices hold, ascending."""
    prices: tuple[tuple[int, ...], ...]
    """One entry more than ``starts``: of uncached input, cache read, the two cache writes, output; () is unknown."""
    unpriced: tuple[str, ...] = ()
    """The counts whose price nobody knows, 0 in ``prices``: no matter as long as there are none of these tokens."""

    def numerator(self, row: UsageRow) -> int | None:
        """Return what a row cost, times ``over``; None where that takes thought."""
        plain, read, output = row.input_uncached_tokens, row.cache_read_tokens, row.output_tokens
        short, long = row.cache_write_5m_tokens, row.cache_write_1h_tokens
        if plain is None or read is None or short is None or long is None or output is None or not self.prices:
            return None
        for name in self.unpriced:
            if getattr(row, name):
                return None
        price = self.prices[bisect_left(self.starts, plain + read + short + long)]
        total = plain * price[0] + output * price[4]
        return total + read * price[1] + short * price[2] + long * price[3] if read or short or long else total


@dataclass(frozen=True, slots=True)
class Dearest:
    """The dearest prices of an input and of an output token, as integers over ``over``."""

    input: int
    output: int
    over: int


def quote_of(
    book: PriceBook, provider: str, model: str, service_tier: str | None, inference_geo: str | None, at_ms: int
) -> Quote | Unpriced | None:
    """Return what a request is charged by, or why that is not known; None where the model has no price."""
    priced = _priced(book, provider, model)
    if priced is None:
        return None
    key = ("quote", provider, model, service_tier, inference_geo, priced.era(at_ms))
    found: Quote | Unpriced | None = book.worked_out.get(key)
    if found is None:
        tariff = tariff_of(priced.model, at_ms, service_tier, inference_geo)
        found = tariff if isinstance(tariff, str) else _quoted(tariff)
        _keep(book, key, found)
    return found


def dearest_of(book: PriceBook, provider: str, model: str, at_ms: int) -> Dearest | None:
    """Return the dearest prices of a model at an instant; None where it has none."""
    priced = _priced(book, provider, model)
    if priced is None:
        return None
    key = ("dearest", provider, model, priced.era(at_ms))
    if key not in book.worked_out:
        _keep(book, key, _dearest(*dearest(priced.model, at_ms)))
    found: Dearest | None = book.worked_out[key]
    return found


def _priced(book: PriceBook, provider: str, name: str) -> Priced | None:
    key = ("model", provider, name)
    if key not in book.worked_out:
        model = book.model(provider, name)
        _keep(book, key, None if model is None else _dated(model))
    found: Priced | None = book.worked_out[key]
    return found


def _dated(model: Model) -> Priced:
    whens = [*(price.when for price in model.prices), *(variant.when for variant in model.variants)]
    from_ms = sorted({when.from_ms for when in whens if when.daily_ms is None and when.from_ms is not None})
    return Priced(model, tuple(from_ms), tuple(when for when in whens if when.daily_ms is not None))


def _quoted(tariff: Tariff) -> Quote:
    rates = [tariff.part(part) for part in PARTS]
    known = [rate for rate in rates if rate is not None]
    starts = sorted({start for rate in known for start, _ in rate.above})
    if tariff.splits_output:
        return Quote(tariff, 1, (), ())
    sizes = [0, *(start + 1 for start in starts)]
    nothing = Fraction(0)
    exact = [[nothing if rate is None else rate.at(size) * tariff.factor / MTOK for rate in rates] for size in sizes]
    over = lcm(*(price.denominator for prices in exact for price in prices))
    prices = tuple(tuple(_whole(price * over) for price in one) for one in exact)
    unpriced = tuple(count for count, rate in zip(PARTS.values(), rates, strict=True) if rate is None)
    return Quote(tariff, over, tuple(starts), prices, unpriced)


def _dearest(input_price: Fraction | None, output_price: Fraction | None) -> Dearest | None:
    if input_price is None or output_price is None:
        return None
    over = lcm(input_price.denominator, output_price.denominator) * MTOK
    return Dearest(_whole(input_price * over / MTOK), _whole(output_price * over / MTOK), over)


def _whole(exact: Fraction) -> int:
    return exact.numerator


def _keep(book: PriceBook, key: tuple[object, ...], value: object) -> None:
    if len(book.worked_out) >= REMEMBERED_MAX:
        book.worked_out.clear()
    book.worked_out[key] = value
