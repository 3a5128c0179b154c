"""What attempts were charged, cost as far as is known now, and would have cost under other prices.

Three readings of the same events; nothing is written. The usage is what is known now, settlements included, and unknown
stays unknown: an attempt without whole counts costs NULL under any prices, and has an exposure where both its own bound
and the other prices are known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, NamedTuple

from ledger import events as e
from ledger.canonical import INT64_MAX
from ledger.parts import Outcome, UsageRow, UsageSource
from ledger.prices.book import PriceBook
from ledger.prices.costing import Charge, charge
from ledger.prices.quotes import Dearest, dearest_of
from ledger.reports.outcomes import Attempt, Ending, books_of, endings, pages_of_attempts, starts
from ledger.reports.reading import Snapshot

__all__ = ["Money", "Prices", "Repriced", "charged_then", "charged_under", "repriced", "translated"]

BOUNDED: Final = frozenset({"count_unknown", "usage_missing"})
"""Reasons for which a cost that is unknown still has a bound."""

Money = tuple[str, int, int | None, int | None]
"""Task, attempt, its cost and its exposure in nano-USD."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What usage is priced by instead.

    Attributes:
        book: the prices.
        at_ms: the instant whose prices hold for all; None is each attempt's own start.
        against: provider and model that all the tokens are priced as; None is who answered. That is an estimate:
            another model counts other tokens for the same text, writes longer or shorter answers, keeps another cache
            and fails elsewhere; its standard service tier is assumed.
    """

    book: PriceBook
    at_ms: int | None = None
    against: tuple[str, str] | None = None

    def instant(self, started_at_ms: int) -> int:
        """Return the instant whose prices an attempt is charged."""
        return started_at_ms if self.at_ms is None else self.at_ms


class Repriced(NamedTuple):
    """An attempt with its money three times."""

    attempt: Attempt
    then: Charge
    """As its outcome was charged when it was recorded."""
    now: Charge
    """As known now, settled or not."""
    under: Charge
    """Under the other prices."""


async def repriced(snapshot: Snapshot, prices: Prices, since_ms: int, until_ms: int) -> AsyncIterator[list[Repriced]]:
    """Give the attempts that started from ``since_ms`` to before ``until_ms``, each once, in pages.

    Raises:
        LedgerError: the ledger cannot be read.
        EventInvalid: an event cannot be read.
    """
    books: Mapping[str, PriceBook] | None = None
    async for attempts in pages_of_attempts(snapshot, since_ms, until_ms):
        ended = await endings(snapshot, attempts)
        page = [_repriced(prices, attempt, ended[attempt.key]) for attempt in attempts]
        unknown = [one.attempt for one in page if _is_bounded(one.under)]
        if unknown:
            books = await books_of(snapshot) if books is None else books
            begun = await starts(snapshot, unknown)
            bounds = {one.key: _bound(prices, books, one, begun.get(one.key)) for one in unknown}
            page = [_with_bound(one, prices, bounds.get(one.attempt.key)) for one in page]
        yield page


async def charged_under(
    snapshot: Snapshot, prices: Prices, since_ms: int, until_ms: int
) -> AsyncIterator[Sequence[Money]]:
    """Give each attempt of a time with its money under other prices, in pages.

    Raises:
        LedgerError: the ledger cannot be read.
        EventInvalid: an event cannot be read.
    """
    async for page in repriced(snapshot, prices, since_ms, until_ms):
        yield [(*one.attempt.key, one.under.cost_nano_usd, one.under.exposure_nano_usd) for one in page]


async def charged_then(snapshot: Snapshot, since_ms: int, until_ms: int) -> AsyncIterator[Sequence[Money]]:
    """Give each attempt of a time with its money as it was first recorded, before anything was settled, in pages.

    Raises:
        LedgerError: the ledger cannot be read.
        EventInvalid: an event cannot be read.
    """
    async for attempts in pages_of_attempts(snapshot, since_ms, until_ms):
        ended = await endings(snapshot, attempts)
        charges = [(one.key, _then(one, ended[one.key])) for one in attempts]
        yield [(*key, then.cost_nano_usd, then.exposure_nano_usd) for key, then in charges]


class _Used(NamedTuple):
    """What a call used, as far as is known."""

    rows: tuple[UsageRow, ...] = ()
    source: UsageSource = "unknown"
    served_model: str | None = None


def _repriced(prices: Prices, attempt: Attempt, ended: Sequence[Ending]) -> Repriced:
    now = Charge(attempt.cost_nano_usd, attempt.exposure_nano_usd, attempt.price_book)
    return Repriced(attempt, _then(attempt, ended), now, _under(prices, attempt, _used(ended)))


def _then(attempt: Attempt, ended: Sequence[Ending]) -> Charge:
    match ended:
        case [Outcome() as first, *_]:
            return Charge(first.cost_nano_usd, first.exposure_nano_usd, first.price_book)
        case [e.AttemptOrphaned() as first, *_]:
            return Charge(None, first.exposure_nano_usd, None)
        case _:
            return Charge(None, attempt.exposure_nano_usd, None)


def _used(ended: Sequence[Ending]) -> _Used:
    """Return the newest counts; where a settlement has none, those before stand."""
    used = _Used()
    for event in ended:
        if isinstance(event, Outcome):
            is_silent = event.usage_source == "unknown" and not event.usage
            rows, source = (used.rows, used.source) if is_silent else (event.usage, event.usage_source)
            used = _Used(rows, source, event.served_model or used.served_model)
    return used


def _under(prices: Prices, attempt: Attempt, used: _Used) -> Charge:
    provider, model, rows = attempt.provider, used.served_model or attempt.request_model, used.rows
    if prices.against is not None:
        provider, model = prices.against
        elsewhere = {"model": None, "service_tier": None, "inference_geo": None}
        rows = tuple(row.model_copy(update=elsewhere) for row in rows)
    return charge(prices.book, provider, model, rows, used.source, prices.instant(attempt.started_at_ms), None)


def _is_bounded(under: Charge) -> bool:
    return under.cost_nano_usd is None and under.reason in BOUNDED


def _with_bound(one: Repriced, prices: Prices, bound: int | None) -> Repriced:
    if bound is None or not _is_bounded(one.under):
        return one
    return one._replace(under=replace(one.under, exposure_nano_usd=bound, price_book=prices.book.digest))


def _bound(
    prices: Prices, books: Mapping[str, PriceBook], attempt: Attempt, started: e.AttemptStarted | None
) -> int | None:
    """Return an attempt's bound under the other prices.

    The bytes that a bound is made of are in no event. So its own is multiplied by how much dearer the other prices are,
    of input or of output, whichever is more: never too low.
    """
    own = None if started is None or started.price_book is None else books.get(started.price_book)
    if own is None or started is None or started.upper_bound_nano_usd is None:
        return None
    provider, model = prices.against or (attempt.provider, attempt.request_model)
    before = dearest_of(own, attempt.provider, attempt.request_model, attempt.started_at_ms)
    after = dearest_of(prices.book, provider, model, prices.instant(attempt.started_at_ms))
    return None if before is None or after is None else translated(started.upper_bound_nano_usd, before, after)


def translated(bound: int, before: Dearest, after: Dearest) -> int | None:
    """Return an upper bound under other prices; None where what was free is not any more, or beyond 64 bits."""
    times = Fraction(0)
    for old, new in ((before.input, after.input), (before.output, after.output)):
        if new and not old:
            return None
        if new:
            times = max(times, Fraction(new * before.over, old * after.over))
    translated = -(-bound * times.numerator // times.denominator)
    return translated if translated <= INT64_MAX else None
