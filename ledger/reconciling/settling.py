"""From what an export says of an attempt to the event that settles it, and the event into the ledger.

Counts win: whole counts are priced by the book that the attempt's start names, at the instant of the start, as its
outcome would have been; an export's costs are often rounded. Without whole counts, or without a price, the export's
cost is taken, and no price book is named.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from ledger import commands as c
from ledger import events as e
from ledger.canonical import INT64_MAX
from ledger.envelope import Stream
from ledger.executor.transact import Desk, state_of
from ledger.parts import Outcome
from ledger.prices.book import PriceBook
from ledger.prices.costing import charge
from ledger.prices.shelf import Published, read_published
from ledger.reconciling.matching import Match
from ledger.state import Absent

__all__ = ["Shelf", "account_of", "settle"]

RAW_MAX: Final = 4_096
"""Characters of an export's row that are kept."""


class Shelf:
    """The ledger's price books by digest, each read when it is wanted."""

    def __init__(self, books: tuple[Published, ...]) -> None:
        self._published = {one.event.price_book: one.event for one in books}
        self._read: dict[str, PriceBook] = {}

    def book(self, digest: str | None) -> PriceBook | None:
        """Return a book; None where the ledger has none of that digest.

        Raises:
            LedgerCorrupt: it is not as it was published.
        """
        event = None if digest is None else self._published.get(digest)
        if event is None:
            return None
        if event.price_book not in self._read:
            self._read[event.price_book] = read_published(event)
        return self._read[event.price_book]


@dataclass(frozen=True, slots=True)
class _Attempt:
    started: e.AttemptStarted
    at_ms: int
    ended: Outcome | e.AttemptOrphaned | None

    @property
    def served_model(self) -> str | None:
        return self.ended.served_model if isinstance(self.ended, Outcome) else None


def account_of(stream: Stream, match: Match, shelf: Shelf) -> e.AttemptSettled | str:
    """Return the event that settles an attempt, or why there is none.

    Raises:
        LedgerCorrupt: a price book is not as it was published.
    """
    attempt = _attempt(stream, match.unknown.attempt)
    state = state_of(stream)
    if attempt is None or isinstance(state, Absent) or state.task.loose_end(match.unknown.attempt) is None:
        return "it has been settled meanwhile"
    cost, digest = _cost(attempt, match, shelf)
    if cost is None:
        return "no price of it is known, and no cost is given" if match.usage else "no whole counts and no cost"
    bound = match.unknown.exposure_nano_usd
    if match.by == "model_and_day" and (bound is None or cost > bound):
        return "its bound is unknown" if bound is None else "the difference is more than it can have cost"
    return e.AttemptSettled.model_validate(_fields(attempt, match) | {"cost_nano_usd": cost, "price_book": digest})


async def settle(desk: Desk, task_id: str, stream: Stream, settled: e.AttemptSettled) -> bool:
    """Append the event; False where another has settled the attempt meanwhile.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    state = state_of(stream)
    if isinstance(state, Absent):
        return False
    command = c.Settle(settled, desk.seen(state.task.submitted.policy))
    after = await desk.transact(task_id, command, known=stream)
    return len(after) > len(stream) and any(one.event() == settled for one in after[len(stream) :])


def _attempt(stream: Stream, number: int) -> _Attempt | None:
    started: e.AttemptStarted | None = None
    at_ms, ended = 0, None
    for recorded in stream:
        event = recorded.event()
        if isinstance(event, e.AttemptStarted) and event.attempt == number:
            started, at_ms = event, recorded.recorded_at_ms
        elif isinstance(event, Outcome | e.AttemptOrphaned) and event.attempt == number:
            ended = event
    return None if started is None else _Attempt(started, at_ms, ended)


def _cost(attempt: _Attempt, match: Match, shelf: Shelf) -> tuple[int | None, str | None]:
    """Return the cost and the digest of the book that it was made with."""
    book = shelf.book(attempt.started.price_book)
    if book is not None and match.usage:
        model = attempt.served_model or attempt.started.request_model
        charged = charge(book, attempt.started.provider, model, match.usage, "provider", attempt.at_ms, None)
        if charged.cost_nano_usd is not None:
            return charged.cost_nano_usd, charged.price_book
    if match.cost_nano_usd is None:
        return None, None
    cost = round(match.cost_nano_usd)
    return (cost, None) if cost <= INT64_MAX else (None, None)


def _fields(attempt: _Attempt, match: Match) -> dict[str, Any]:
    """Return what an account says besides the money; a provider's bill says nothing of how a call ended."""
    is_answer = isinstance(attempt.ended, e.AttemptSucceeded) or (
        isinstance(attempt.ended, e.AttemptSettled) and attempt.ended.outcome == "succeeded"
    )
    billed_model = match.usage[0].model if match.usage else None
    raw = json.dumps(list(match.raw), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    fields: dict[str, Any] = dict.fromkeys(e.AttemptSettled.model_fields)
    return fields | {
        "attempt": match.unknown.attempt,
        "via": "reconciled",
        "outcome": "succeeded" if is_answer else "failed",
        "served_model": attempt.served_model or billed_model,
        "usage": match.usage,
        "usage_source": "provider" if match.usage else "unknown",
        "raw_usage": raw if len(raw) <= RAW_MAX else None,
        "request_id": match.unknown.request_id,
    }
