"""A ledger in PostgreSQL as an end of a copy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import Table

from ledger.errors import LedgerError
from ledger.store.postgres_connection import Driver, connect
from ledger.store.postgres_errors import FAILURES, as_ledger_error, is_unstorable
from ledger.store.postgres_statements import CLOSE_RANGE
from ledger.store.postgres_url import PostgresUrl
from ledger.store.sqlite_copying import ROWS, order_of

__all__ = ["PostgresEnd", "postgres_end"]

# The other end may be slow to read or write meanwhile.
PATIENT: Final = "SET LOCAL idle_in_transaction_session_timeout = 0"


COLUMNS: Final = (
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped "
    "ORDER BY attnum"
)


class PostgresEnd:
    """One connection in one transaction."""

    def __init__(self, database: Driver) -> None:
        self._database = database

    async def page(
        self, table: Table, by: Sequence[str], after: Sequence[Any] | None, limit: int
    ) -> Sequence[Sequence[Any]]:
        """Return rows in an order, from the one after."""
        columns = ", ".join(f'"{column.name}"' for column in table.c)
        order = ", ".join(by)
        places = ", ".join(f"${place}" for place in range(2, 2 + len(by)))
        since = "" if after is None else f"WHERE ({order}) > ({places})"
        text = f"SELECT {columns} FROM {table.name} {since} ORDER BY {order} LIMIT $1"  # noqa: S608 - our own names
        return await self._database.fetch(text, limit, *(after or ()))

    async def put(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows."""
        columns = [column.name for column in table.c]
        await self._database.copy_records_to_table(table.name, records=rows, columns=columns)

    async def texts(self, places: Sequence[tuple[str, str]]) -> Sequence[Sequence[Any]]:
        """Return the payloads at these places."""
        text = (
            "SELECT task_id, slot, salt, bytes FROM payloads "
            "WHERE (task_id, slot) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
        )
        return await self._database.fetch(text, [task_id for task_id, _ in places], [slot for _, slot in places])

    async def listed(self, name: str) -> AsyncIterator[tuple[Sequence[str], Sequence[Sequence[Any]]]]:
        """Yield the columns and rows of a table or view."""
        found = await self._database.fetch(COLUMNS, name)
        columns = [row[0] for row in found]
        if not columns:
            yield columns, ()
            return
        text = f'SELECT * FROM "{name}" ORDER BY {order_of(columns)}'  # noqa: S608 - our own names
        await self._database.execute(f"DECLARE listed CURSOR FOR {text}")
        rows = await self._database.fetch(f"FETCH {ROWS} FROM listed")
        yield columns, rows
        while rows := await self._database.fetch(f"FETCH {ROWS} FROM listed"):
            yield columns, rows

    async def run(self, statements: Sequence[str]) -> None:
        """Run statements that answer nothing."""
        for statement in statements:
            await self._database.execute(statement)

    async def clear_salts(self) -> None:
        """Make room for other salts."""
        await self._database.execute("DELETE FROM salts")


@asynccontextmanager
async def postgres_end(url: PostgresUrl, *, writes: bool) -> AsyncIterator[PostgresEnd]:
    """Open a database in a transaction, committed when the block ends well.

    Raises:
        LedgerError: it cannot be read or written, or what was put into it is refused by its guards.
    """
    database = await connect(url, command_within_s=None)
    try:
        isolation = "read_committed" if writes else "repeatable_read"
        async with database.transaction(isolation=isolation, readonly=not writes):
            await database.execute(PATIENT)
            if writes:
                await database.execute("LOCK TABLE events, tasks, salts IN SHARE ROW EXCLUSIVE MODE")
                await database.execute(CLOSE_RANGE)
            yield PostgresEnd(database)
    except FAILURES as error:
        if is_unstorable(error):
            said = "a row was refused; `dispatch-ledger verify` looks at its source"
            raise LedgerError(f"{url}: {said}: {url.hide(str(error))}") from error
        raise as_ledger_error(error, url) from error
    finally:
        database.terminate()
