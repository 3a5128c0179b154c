"""What a call cost, and the most it can: exact rationals, rounded once for an attempt, half to even.

Unknown is never zero. A cost is None where one of a row's counts is, unless that count cannot matter: the part costs
nothing in a request of any size that the known counts allow. A price by size needs the whole input, so there an unknown
input count leaves the other parts unknown too, unless the known ones are past the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ledger.canonical import INT64_MAX
from ledger.parts import UsageRow, UsageSource
from ledger.prices.book import PriceBook
from ledger.prices.quotes import dearest_of, quote_of
from ledger.prices.rates import MTOK, Rate
from ledger.prices.tariffs import Tariff, Unpriced

__all__ = ["INPUT_SPARE", "Charge", "Cost", "Reason", "charge", "cost", "upper_bound"]

INPUT_SPARE: Final = 2_048
"""Input tokens beyond one a byte, for what the provider or its client adds."""

Reason = Literal["usage_missing", "count_unknown", "model_unpriced", "part_unpriced"] | Unpriced
"""Why a cost is unknown; ``part_unpriced`` is a kind of token without a price."""


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost in nano-USD, or why it is unknown; ``exact`` is what was rounded."""

    nano_usd: int | None
    exact: Fraction | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """The money of an outcome, under the names that its event has."""

    cost_nano_usd: int | None
    exposure_nano_usd: int | None
    price_book: str | None
    reason: Reason | None = None


def charge(
    book: PriceBook,
    provider: str,
    model: str,
    usage: Sequence[UsageRow],
    usage_source: UsageSource,
    at_ms: int,
    upper_bound_nano_usd: int | None,
) -> Charge:
    """Return the money of an outcome.

    What was not billed cost nothing. Counts that the provider did not give to the end (partial, estimated, unknown)
    are no cost but an exposure, the start's upper bound; where a price is what is missing, there is no bound either.

    Args:
        book: the prices that the attempt started under.
        provider: the attempt's.
        model: the served model, else the requested one; for rows without a model of their own.
        usage: one row for each model that the call billed.
        usage_source: where the counts are from.
        at_ms: the attempt's start.
        upper_bound_nano_usd: as the start has it.
    """
    if usage_source == "not_billed":
        return Charge(0, None, None)
    rows = usage if usage_source == "provider" else ()
    found = cost(book, provider, model, rows, at_ms)
    if found.nano_usd is not None:
        return Charge(found.nano_usd, None, book.digest)
    if found.reason not in ("usage_missing", "count_unknown") or upper_bound_nano_usd is None:
        return Charge(None, None, None, found.reason)
    return Charge(None, upper_bound_nano_usd, book.digest, found.reason)


def cost(book: PriceBook, provider: str, model: str, rows: Sequence[UsageRow], at_ms: int) -> Cost:
    """Return what these rows of one attempt cost together at the prices in force when it started."""
    total: Fraction | None = None
    for row in rows:
        exact = _row_cost(book, provider, model if row.model is None else row.model, row, at_ms)
        if not isinstance(exact, Fraction):
            return Cost(None, reason=exact)
        total = exact if total is None else total + exact
    if total is None:
        return Cost(None, reason="usage_missing")
    nano_usd = round(total)
    # More than 64 bits of money is no price's doing: a count is wrong.
    return Cost(nano_usd, total) if nano_usd <= INT64_MAX else Cost(None, reason="count_unknown")


def upper_bound(
    book: PriceBook, provider: str, model: str, prompt_bytes: int, system_bytes: int, max_tokens: int, at_ms: int
) -> int | None:
    """Return the most that a call can cost, in nano-USD, rounded up; None without a price, or beyond 64 bits."""
    price = dearest_of(book, provider, model, at_ms)
    if price is None:
        return None
    tokens = prompt_bytes + system_bytes + INPUT_SPARE
    bound = -((tokens * price.input + max_tokens * price.output) // -price.over)
    return bound if bound <= INT64_MAX else None


def _row_cost(book: PriceBook, provider: str, model: str, row: UsageRow, at_ms: int) -> Fraction | Reason:
    quote = quote_of(book, provider, model, row.service_tier, row.inference_geo, at_ms)
    if quote is None:
        return "model_unpriced"
    if isinstance(quote, str):
        return quote
    numerator = quote.numerator(row)
    return _charged(quote.tariff, row) if numerator is None else Fraction(numerator, quote.over)


def _charged(tariff: Tariff, row: UsageRow) -> Fraction | Reason:
    inputs = {
        "input": row.input_uncached_tokens,
        "cache_read": row.cache_read_tokens,
        "cache_write_5m": row.cache_write_5m_tokens,
        "cache_write_1h": row.cache_write_1h_tokens,
    }
    size = sum(count or 0 for count in inputs.values())
    is_whole = None not in inputs.values()
    total = Fraction(0)
    for part, count in (inputs | _outputs(tariff, row)).items():
        exact = _part_cost(tariff.part(part), count, size, is_whole=is_whole)
        if not isinstance(exact, Fraction):
            return exact
        total += exact
    return total * tariff.factor / MTOK


def _outputs(tariff: Tariff, row: UsageRow) -> dict[str, int | None]:
    """Return the output's disjoint parts: thinking is apart only where it has a rate of its own."""
    if not tariff.splits_output or row.output_tokens == 0:
        return {"output": row.output_tokens}
    if row.output_tokens is None or row.reasoning_tokens is None or row.reasoning_tokens > row.output_tokens:
        return {"output": None, "output_reasoning": None}
    return {"output": row.output_tokens - row.reasoning_tokens, "output_reasoning": row.reasoning_tokens}


def _part_cost(rate: Rate | None, count: int | None, size: int, *, is_whole: bool) -> Fraction | Reason:
    """Return what a part costs in millionths of nano-USD; ``size`` is the least input where it is not whole."""
    if count == 0:
        return Fraction(0)
    if rate is None:
        return "count_unknown" if count is None else "part_unpriced"
    prices = [rate.at(size)] if is_whole else list(rate.from_size(size))
    if not any(prices):
        return Fraction(0)
    if count is None or len(prices) > 1:
        return "count_unknown"
    return count * prices[0]
