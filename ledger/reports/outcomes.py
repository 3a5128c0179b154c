"""Attempts with the events of how they ended, page by page: for what the tables do not hold, as a usage's rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ledger import events as e
from ledger.parts import Outcome
from ledger.prices.book import PriceBook
from ledger.prices.shelf import STREAM, read_published
from ledger.reports.reading import Snapshot
from ledger.system_events import PriceBookPublished
from ledger.upcasting import decode

__all__ = ["PAGE", "Attempt", "Ending", "Key", "books_of", "endings", "pages_of_attempts", "starts"]

PAGE: Final = 250
"""Attempts that are read at once."""

ATTEMPTS: Final = (
    "SELECT a.task_id, a.attempt, a.purpose, a.tier, a.provider, a.request_model, a.response_model, a.started_at_ms,"
    " a.cost_nano_usd, a.exposure_nano_usd, a.price_book FROM attempts a"
    " WHERE (a.task_id, a.attempt) > (:task_id, :attempt)"
    " AND a.started_at_ms >= :since_ms AND a.started_at_ms < :until_ms"
    " ORDER BY a.task_id, a.attempt LIMIT :rows"
)
TASKS: Final = ", ".join(f":task_{place}" for place in range(PAGE))
EVENTS: Final = f"SELECT e.task_id, e.type, e.schema_version, e.data FROM events e WHERE e.task_id IN ({TASKS})"  # noqa: S608 - names of parameters
ENDINGS: Final = f"{EVENTS} AND e.type IN (:kind_0, :kind_1, :kind_2, :kind_3) ORDER BY e.task_id, e.version"
STARTS: Final = f"{EVENTS} AND e.type = :kind_0 ORDER BY e.task_id, e.version"
BOOKS: Final = "SELECT e.type, e.schema_version, e.data FROM events e WHERE e.task_id = :stream ORDER BY e.version"

Key = tuple[str, int]
"""Task and attempt."""
Ending = Outcome | e.AttemptOrphaned


class Attempt(NamedTuple):
    """What the table of attempts says of one."""

    task_id: str
    attempt: int
    purpose: str
    tier: str
    provider: str
    request_model: str
    response_model: str | None
    started_at_ms: int
    cost_nano_usd: int | None
    exposure_nano_usd: int | None
    price_book: str | None

    @property
    def key(self) -> Key:
        """Return which attempt it is."""
        return self.task_id, self.attempt


async def pages_of_attempts(snapshot: Snapshot, since_ms: int, until_ms: int) -> AsyncIterator[list[Attempt]]:
    """Give the attempts that started from ``since_ms`` to before ``until_ms``, by task and number.

    The order is that of the table's key, so that all pages together pass the table once; task ids begin with a time.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    task_id, attempt = "", 0
    while True:
        wanted = {"since_ms": since_ms, "until_ms": until_ms, "task_id": task_id, "attempt": attempt, "rows": PAGE}
        page = [Attempt(*row) for row in await snapshot.rows(ATTEMPTS, wanted)]
        if page:
            yield page
        if len(page) < PAGE:
            return
        task_id, attempt = page[-1].key


async def endings(snapshot: Snapshot, attempts: Sequence[Attempt]) -> Mapping[Key, Sequence[Ending]]:
    """Return how attempts, a page of them at the most, ended, each with what was settled later.

    Raises:
        LedgerError: the ledger cannot be read.
        EventInvalid: an event cannot be read.
    """
    kinds = [kind.TYPE for kind in (e.AttemptSucceeded, e.AttemptFailed, e.AttemptOrphaned, e.AttemptSettled)]
    found: dict[Key, list[Ending]] = {one.key: [] for one in attempts}
    for task_id, event in await _events(snapshot, ENDINGS, kinds, attempts):
        if isinstance(event, Outcome | e.AttemptOrphaned) and (task_id, event.attempt) in found:
            found[task_id, event.attempt].append(event)
    return found


async def starts(snapshot: Snapshot, attempts: Sequence[Attempt]) -> Mapping[Key, e.AttemptStarted]:
    """Return the starts of attempts, a page of them at the most.

    Raises:
        LedgerError: the ledger cannot be read.
        EventInvalid: an event cannot be read.
    """
    found = await _events(snapshot, STARTS, [e.AttemptStarted.TYPE], attempts)
    return {(task_id, event.attempt): event for task_id, event in found if isinstance(event, e.AttemptStarted)}


async def books_of(snapshot: Snapshot) -> Mapping[str, PriceBook]:
    """Return the ledger's price books by their digests.

    Raises:
        LedgerError: the ledger cannot be read, or a book is not as it was published.
        EventInvalid: an event cannot be read.
    """
    events = [decode(*row) for row in await snapshot.rows(BOOKS, {"stream": STREAM})]
    return {event.price_book: read_published(event) for event in events if isinstance(event, PriceBookPublished)}


async def _events(
    snapshot: Snapshot, text: str, kinds: Sequence[str], attempts: Sequence[Attempt]
) -> list[tuple[str, e.Event]]:
    """Return events of these attempts' tasks; places that are left over name the last task again."""
    tasks = list(dict.fromkeys(one.task_id for one in attempts))
    tasks += tasks[-1:] * (PAGE - len(tasks))
    wanted: dict[str, Any] = {f"task_{place}": task for place, task in enumerate(tasks)}
    wanted |= {f"kind_{place}": kind for place, kind in enumerate(kinds)}
    return [(task_id, decode(*stored)) for task_id, *stored in await snapshot.rows(text, wanted)]
