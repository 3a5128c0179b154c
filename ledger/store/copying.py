"""Copy a whole ledger into an empty one, on the same engine or the other: every row as it is, in one transaction.

Events keep their positions, with the gaps between them, and their hashes; the guards of the new ledger look at each.
Texts, keys and salts come along, and the projections, so that `verify` can compare them. What the copy holds is read
back and compared with what was read before anything is committed: a copy is whole, or the ledger stays empty.
Workers and claims are left behind: they say who is at work just now, and elsewhere nobody is.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sqlalchemy import Table

from ledger.envelope import Recorded, Stream
from ledger.errors import ConfigurationError, LedgerCorrupt, LedgerError
from ledger.store import tables as t
from ledger.store.opening import driver_needed, open_store, parse_url
from ledger.store.postgres_url import PostgresUrl
from ledger.store.sqlite_copying import sqlite_end

__all__ = ["Copied", "End", "Key", "Rows", "copy_ledger", "open_end", "pages", "refuse_content", "streams"]

PAGE: Final = 1000
TABLES: Final = (t.salts, t.events, t.payloads, t.keys, *t.PROJECTIONS)

Rows = Sequence[Sequence[Any]]
Key = Sequence[Any]
"""The values that name a row."""


class End(Protocol):
    """A ledger that is copied from or to, in a transaction."""

    async def page(self, table: Table, by: Sequence[str], after: Key | None, limit: int) -> Rows:
        """Return rows in the order of ``by``, from the one after; all columns in the table's order."""
        ...

    async def put(self, table: Table, rows: Rows) -> None:
        """Insert rows."""
        ...

    async def texts(self, places: Sequence[tuple[str, str]]) -> Rows:
        """Return the payloads at these places, each a task and a slot, in any order."""
        ...

    def listed(self, name: str) -> AsyncIterator[tuple[Sequence[str], Rows]]:
        """Yield the columns and rows of a table or view, some at a time, in the order of its first columns."""
        ...

    async def run(self, statements: Sequence[str]) -> None:
        """Run statements that answer nothing."""
        ...

    async def clear_salts(self) -> None:
        """Make room for the salts of the other end."""
        ...


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied."""

    events: int
    newest: int
    """The position of the newest event."""
    tasks: int
    texts: int


async def copy_ledger(
    source: str, target: str, *, now_ms: Callable[[], int], progress: Callable[[int], object] | None = None
) -> Copied:
    """Copy a ledger into one that is new or empty.

    Args:
        source: the name of a ledger; it may be in use, and what is appended meanwhile is not copied.
        target: the name of a ledger; it is made if there is none.
        now_ms: the clock that ledgers are opened with.
        progress: called with the number of events copied so far.

    Raises:
        ConfigurationError: a name is none of a ledger, or both are the same.
        LedgerMissing: there is no such source.
        LedgerCorrupt: an end's guards do not stand, or the source's events do not pass them.
        LedgerError: an end cannot be used, the target is not empty, or it holds something else than was written.
    """
    ends = parse_url(source), parse_url(target)
    if ends[0] == ends[1] or _is_one_file(*ends):
        raise ConfigurationError(f"{ends[0]} cannot be copied into itself; name another ledger")
    for name, create in ((source, False), (target, True)):
        await (await open_store(name, create=create, now_ms=now_ms)).aclose()
    async with open_end(ends[0], writes=False) as old, open_end(ends[1], writes=True) as new:
        await refuse_content(new, ends[1])
        await new.clear_salts()
        copied = {}
        for table in TABLES:
            told = progress if table is t.events else None
            copied[table.name] = await _copy(table, old, new, ends[1], told)
    events, last = copied["events"]
    return Copied(events, last[0] if last else 0, copied["tasks"][0], copied["payloads"][0])


def _is_one_file(source: Path | PostgresUrl, target: Path | PostgresUrl) -> bool:
    return isinstance(source, Path) and isinstance(target, Path) and target.exists() and source.samefile(target)


def open_end(place: Path | PostgresUrl, *, writes: bool) -> AbstractAsyncContextManager[End]:
    """Open a ledger in a transaction, committed when the block ends well; the file or database is there.

    Raises:
        LedgerError: it cannot be read or written.
    """
    if isinstance(place, Path):
        return sqlite_end(place, writes=writes)
    with driver_needed():
        from ledger.store.postgres_copying import postgres_end  # noqa: PLC0415 - the driver is an extra
    return postgres_end(place, writes=writes)


async def refuse_content(end: End, place: Path | PostgresUrl) -> None:
    """Refuse an end that holds anything.

    Raises:
        LedgerError: it is not empty.
    """
    for table in TABLES:
        if table is not t.salts and await end.page(table, _key(table), None, 1):
            raise LedgerError(f"{place} is not empty: its table {table.name} has rows; name a new ledger")


async def _copy(
    table: Table, old: End, new: End, place: Path | PostgresUrl, progress: Callable[[int], object] | None
) -> tuple[int, Key | None]:
    """Copy a table, compare it, and return the number of its rows and what names the last."""
    count, sent = 0, hashlib.sha256()
    last: Key | None = None
    async for rows, key in pages(table, old):
        await new.put(table, rows)
        count, last = count + len(rows), key
        _digest(sent, rows)
        if progress is not None:
            progress(count)
    arrived = hashlib.sha256()
    async for rows, _ in pages(table, new):
        _digest(arrived, rows)
    if sent.digest() != arrived.digest():
        raise LedgerCorrupt(f"{place}: the table {table.name} holds something else than was written; nothing was kept")
    return count, last


async def pages(
    table: Table, end: End, by: Sequence[str] = (), after: Key | None = None
) -> AsyncIterator[tuple[Rows, Key]]:
    """Yield the rows, page by page, with what names the last of each; in the order of ``by``, else of their key."""
    by = by or _key(table)
    places = [list(table.c.keys()).index(name) for name in by]
    while rows := await end.page(table, by, after, PAGE):
        after = [rows[-1][place] for place in places]
        yield rows, after


def _key(table: Table) -> Sequence[str]:
    """Return the columns that name a row."""
    return ["digest"] if table is t.keys else [column.name for column in table.primary_key.columns]


def _digest(so_far: Any, rows: Rows) -> None:
    for row in rows:
        so_far.update(repr(tuple(row)).encode())


async def streams(end: End) -> AsyncIterator[Stream]:
    """Yield every stream whole, holding one page and one stream at a time."""
    held: list[Recorded] = []
    async for rows, _ in pages(t.events, end, ["task_id", "version"]):
        for recorded in (Recorded(*row) for row in rows):
            if held and held[0].task_id != recorded.task_id:
                yield tuple(held)
                held = []
            held.append(recorded)
    if held:
        yield tuple(held)
