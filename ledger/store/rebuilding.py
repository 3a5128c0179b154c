"""Make the projections of a ledger again from its events, and its views and indexes with them: in one transaction.

Whoever reads meanwhile sees the old rows, whoever looks afterwards the new ones; a process that is killed in the midst
leaves the old ones. Nobody can append until it is done, so it is refused while workers are at work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex

from ledger.envelope import Recorded
from ledger.errors import LedgerBusy, LedgerMissing
from ledger.store import tables as t
from ledger.store.copying import End, open_end, pages
from ledger.store.opening import open_store, parse_url
from ledger.store.projection import project_stream
from ledger.store.views import INDEXES, POSTGRES_VIEWS, SQLITE_VIEWS

__all__ = ["Rebuilt", "furnishings", "rebuild"]

SILENT_MS: Final = 20_000
"""A worker whose heart has not beaten for so long is at work no more."""
WORKERS_MAX: Final = 10_000
NAMES: Final = tuple(table.name for table in t.PROJECTIONS)
LOCK: Final = f"LOCK TABLE events, {', '.join(NAMES)} IN EXCLUSIVE MODE"
"""Others may read."""
PUT: Final = 1000
"""Rows of one projection that are held before they are written."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the projections were made from."""

    events: int
    tasks: int


async def rebuild(name: str, *, now_ms: Callable[[], int], progress: Callable[[int], object] | None = None) -> Rebuilt:
    """Make all projections again from the events.

    Args:
        name: the name of a ledger.
        now_ms: the clock that it is opened with.
        progress: called with the number of events of each stream that is done.

    Raises:
        LedgerMissing: there is none.
        LedgerBusy: workers are at work, or somebody else keeps it locked.
        LedgerCorrupt: its guards do not stand.
        EventInvalid: an event cannot be read; nothing was changed.
        LedgerError: it cannot be written; nothing was changed.
    """
    place = parse_url(name)
    if isinstance(place, Path) and not place.exists():
        raise LedgerMissing(f"there is no ledger at {place}")
    await (await open_store(name, create=False, now_ms=now_ms)).aclose()
    events = tasks = 0
    async with open_end(place, writes=True) as end:
        if not isinstance(place, Path):
            await end.run([LOCK])
        await _refuse_company(end, str(place), now_ms())
        await end.run([f"DELETE FROM {table}" for table in NAMES])  # noqa: S608 - our own names
        await end.run(furnishings(is_file=isinstance(place, Path)))
        waiting = _Waiting(end)
        async for stream in _streams(end):
            events += len(stream)
            if stream[0].type == "task.submitted":
                tasks += 1
                await waiting.take(stream)
            if progress is not None:
                progress(len(stream))
        await waiting.write()
    return Rebuilt(events, tasks)


async def _refuse_company(end: End, place: str, now_ms: int) -> None:
    """Refuse a ledger that somebody works on.

    Raises:
        LedgerBusy: a worker was heard of lately.
    """
    beat = list(t.workers.c.keys()).index("beat_at_ms")
    rows = await end.page(t.workers, ["worker"], None, WORKERS_MAX)
    living = sum(row[beat] > now_ms - SILENT_MS for row in rows)
    if living:
        raise LedgerBusy(
            f"{place}: {living} at work on it within the last {SILENT_MS // 1000} s; stop the workers, then rebuild"
        )


def furnishings(*, is_file: bool) -> list[str]:
    """Return the statements that make what is missing of the indexes, and the views as they have to be."""
    dialect = sqlite.dialect() if is_file else postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
    others = [
        str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect))
        for table in t.METADATA.sorted_tables
        for index in table.indexes
        if index.name not in INDEXES
    ]
    made = [part for name, text in INDEXES.items() for part in (f"DROP INDEX IF EXISTS {name}", text)]
    if is_file:
        views = [part for name, text in SQLITE_VIEWS.items() for part in (f"DROP VIEW IF EXISTS {name}", text)]
    else:  # others' views may stand on ours
        views = [text.replace("CREATE VIEW", "CREATE OR REPLACE VIEW") for text in POSTGRES_VIEWS.values()]
    return others + made + views


class _Waiting:
    """Rows that are to be written, some of each table at a time."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._rows: dict[str, list[tuple[object, ...]]] = {table.name: [] for table in t.PROJECTIONS}

    async def take(self, stream: list[Recorded]) -> None:
        """Take a stream's rows."""
        projected = project_stream(stream)
        for table in t.PROJECTIONS:
            rows = getattr(projected, table.name)
            self._rows[table.name] += [tuple(row[column.name] for column in table.c) for row in rows]
        if max(map(len, self._rows.values())) >= PUT:
            await self.write()

    async def write(self) -> None:
        """Write what waits."""
        for table in t.PROJECTIONS:
            if self._rows[table.name]:
                await self._end.put(table, self._rows[table.name])
                self._rows[table.name] = []


async def _streams(end: End) -> AsyncIterator[list[Recorded]]:
    """Yield the streams, one after the other; of one that is no task's no more than a page."""
    stream: list[Recorded] = []
    async for rows, _ in pages(t.events, end, ("task_id", "version")):
        for row in rows:
            recorded = Recorded(*row)
            if stream and stream[0].task_id != recorded.task_id:
                yield stream
                stream = []
            stream.append(recorded)
        if stream and stream[0].type != "task.submitted":
            yield stream
            stream = []
    if stream:
        yield stream
