"""Reading an SQLite ledger in SQL at one instant, on a reader's thread, so that a long statement can be broken off."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ledger.store.snapshots import NOTHING, Snapshot, SumTooLarge
from ledger.store.sqlite_connection import OneHop
from ledger.store.sqlite_reads import legible

__all__ = ["in_snapshot"]

T = TypeVar("T")

Rows = list[tuple[Any, ...]]

LOOK_UP_EVERY: Final = 100_000
"""Steps of SQLite's machine, about a millisecond, between two looks at whether anybody still waits."""


async def in_snapshot(reader: OneHop, work: Callable[[Snapshot], Awaitable[T]]) -> T:
    """Do a piece of work in a transaction that only reads.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    snapshot = _Snapshot(reader)
    try:
        return await work(snapshot)
    finally:
        snapshot.is_over = True
        await reader.run(_end)


class _Snapshot:
    def __init__(self, reader: OneHop) -> None:
        self._reader = reader
        self.is_over = False

    async def rows(self, text: str, wanted: Mapping[str, Any] = NOTHING) -> Rows:
        """Return the rows of a statement."""
        (found,) = await self.each(text, [wanted])
        return found

    async def each(self, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[Rows]:
        """Return the rows of one statement for each set of parameters."""
        return await self._reader.run(partial(legible, work=partial(self._each, text=text, wanted=wanted)))

    def _each(self, database: sqlite3.Connection, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[Rows]:
        if not database.in_transaction:
            database.execute("BEGIN")
        database.set_progress_handler(lambda: self.is_over, LOOK_UP_EVERY)
        try:
            return [database.execute(text, one).fetchall() for one in wanted]
        except sqlite3.OperationalError as error:
            # A code of its own it has not: this is the one failure that SQLite tells by its words alone.
            if str(error) == "integer overflow":
                raise SumTooLarge("a sum in this ledger has more than 64 bits") from error
            raise
        finally:
            database.set_progress_handler(None, 0)


def _end(database: sqlite3.Connection) -> None:
    if database.in_transaction:
        database.execute("ROLLBACK")
