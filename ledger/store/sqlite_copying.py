"""A ledger in a file as an end of a copy."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table

from ledger.errors import LedgerError
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.waiting import Patience

__all__ = ["ROWS", "SqliteEnd", "order_of", "sqlite_end"]

BUSY_DEADLINE_S: Final = 30.0
ROWS: Final = 1000
ORDERED: Final = 4
"""Columns that put every table and view in order."""


def order_of(columns: Sequence[str]) -> str:
    """Return what to order a table or view by, so that it comes out the same each time."""
    return ", ".join(str(place) for place in range(1, min(len(columns), ORDERED) + 1))


class SqliteEnd:
    """One connection in one transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    async def page(
        self, table: Table, by: Sequence[str], after: Sequence[Any] | None, limit: int
    ) -> Sequence[Sequence[Any]]:
        """Return rows in an order, from the one after."""
        columns = ", ".join(f'"{column.name}"' for column in table.c)
        order = ", ".join(by)
        since = "" if after is None else f"WHERE ({order}) > ({', '.join('?' * len(by))})"
        text = f"SELECT {columns} FROM {table.name} {since} ORDER BY {order} LIMIT ?"  # noqa: S608 - our own names
        return await asyncio.to_thread(lambda: self._database.execute(text, (*(after or ()), limit)).fetchall())

    async def put(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows."""
        columns = ", ".join(f'"{column.name}"' for column in table.c)
        places = ", ".join("?" * len(table.c))
        text = f"INSERT INTO {table.name} ({columns}) VALUES ({places})"  # noqa: S608 - our own names
        await asyncio.to_thread(self._database.executemany, text, [tuple(row) for row in rows])

    async def texts(self, places: Sequence[tuple[str, str]]) -> Sequence[Sequence[Any]]:
        """Return the payloads at these places."""

        def read() -> list[Any]:
            text = "SELECT task_id, slot, salt, bytes FROM payloads WHERE task_id = ? AND slot = ?"
            return [row for place in places for row in self._database.execute(text, place)]

        return await asyncio.to_thread(read)

    async def listed(self, name: str) -> AsyncIterator[tuple[Sequence[str], Sequence[Sequence[Any]]]]:
        """Yield the columns and rows of a table or view."""
        columns = [row[1] for row in self._database.execute(f'PRAGMA table_info("{name}")')]
        if not columns:
            yield columns, ()
            return
        text = f'SELECT * FROM "{name}" ORDER BY {order_of(columns)}'  # noqa: S608 - our own names
        cursor = await asyncio.to_thread(self._database.execute, text)
        rows = await asyncio.to_thread(cursor.fetchmany, ROWS)
        yield columns, rows
        while rows := await asyncio.to_thread(cursor.fetchmany, ROWS):
            yield columns, rows

    async def run(self, statements: Sequence[str]) -> None:
        """Run statements that answer nothing."""
        for statement in statements:
            await asyncio.to_thread(self._database.execute, statement)

    async def clear_salts(self) -> None:
        """Make room for other salts."""
        await asyncio.to_thread(self._database.execute, "DELETE FROM salts")


@asynccontextmanager
async def sqlite_end(path: Path, *, writes: bool) -> AsyncIterator[SqliteEnd]:
    """Open a file in a transaction, committed when the block ends well.

    Raises:
        LedgerError: it cannot be read or written, or what was put into it is refused by its guards.
    """
    try:
        database = connect(path, writer=writes)
        try:
            await _begin(database, "BEGIN IMMEDIATE" if writes else "BEGIN")
            yield SqliteEnd(database)
            await asyncio.to_thread(database.execute, "COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")
            database.close()
    except sqlite3.IntegrityError as error:
        said = "a row was refused; `dispatch-ledger verify` looks at its source"
        raise LedgerError(f"{path}: {said}: {error}") from error
    except sqlite3.Error as error:
        raise as_ledger_error(error, str(path)) from error


async def _begin(database: sqlite3.Connection, text: str) -> None:
    patience = Patience(BUSY_DEADLINE_S)
    while True:
        try:
            database.execute(text)
        except sqlite3.Error as error:
            if not is_busy(error) or patience.is_over():
                raise
        else:
            return
        await patience.wait()
