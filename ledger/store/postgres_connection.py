"""Connections to PostgreSQL: bounded waits, settings that are read back, and a pool of SQLAlchemy's around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ledger.errors import LedgerError, LedgerFull
from ledger.store.postgres_errors import FAILURES, as_ledger_error
from ledger.store.postgres_url import PostgresUrl

__all__ = ["CONNECT_WITHIN_S", "Driver", "checked_out", "connect", "engine", "let_go"]

CONNECT_WITHIN_S: Final = 10.0
COMMAND_WITHIN_S: Final = 15.0
"""How long a server may be silent before its connection counts as lost."""
VERSION_MIN: Final = 140_000


class Driver(Protocol):
    """What is used of a connection of asyncpg's, which has no types of its own."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement, or several without arguments, and return the tag of the last."""
        ...

    async def executemany(self, query: str, args: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each set of arguments."""
        ...

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> Sequence[Any]:  # noqa: ASYNC109 - the driver's own name
        """Return all rows; ``timeout`` replaces the session's bound of a command."""
        ...

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Return the first row, None if there is none."""
        ...

    async def fetchval(self, query: str, *args: Any) -> Any:
        """Return the first value of the first row, None if there is none."""
        ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Sequence[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        """Insert rows by COPY."""
        ...

    def transaction(
        self, *, isolation: str | None = None, readonly: bool = False
    ) -> AbstractAsyncContextManager[object]:
        """Run a block in a transaction."""
        ...

    def is_closed(self) -> bool:
        """Say whether the connection is gone."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's own name
        """Take leave of the server."""
        ...

    def terminate(self) -> None:
        """Drop the connection without a word to the server."""
        ...


# A session that was cut off in mid-transaction holds locks that others wait for: the server gives it up by itself.
SETTINGS: Final[Mapping[str, str]] = {
    "application_name": "dispatch-ledger",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_user_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
READ_BACK: Final = """
SELECT current_setting('synchronous_commit'), current_setting('server_encoding'),
    current_setting('server_version_num')::int, current_setting('default_transaction_isolation'), pg_is_in_recovery()
"""


async def connect(url: PostgresUrl, command_within_s: float | None = COMMAND_WITHIN_S) -> Driver:
    """Connect and set the session up.

    Raises:
        LedgerError: the server cannot be reached, or is not one that can keep a ledger.
        ConfigurationError: the URL is none of a database.
    """
    try:
        connection: Driver = await asyncpg.connect(
            url.dsn, timeout=CONNECT_WITHIN_S, command_timeout=command_within_s, server_settings=dict(SETTINGS)
        )
    except (*FAILURES, ValueError) as error:
        raise as_ledger_error(error, url) from error
    try:
        _refuse(url, *await connection.fetchrow(READ_BACK))
    except FAILURES as error:
        connection.terminate()
        raise as_ledger_error(error, url) from error
    except BaseException:
        connection.terminate()
        raise
    return connection


def _refuse(url: PostgresUrl, commits: str, encoding: str, version: int, isolation: str, is_standby: bool) -> None:  # noqa: FBT001 - a row's column
    """Refuse a server on which what is acknowledged could be lost, or read wrongly."""
    if commits != "on":
        raise LedgerError(f"{url}: synchronous_commit is {commits}, and what is recorded could be lost: it must be on")
    if isolation != "read committed":
        raise LedgerError(f"{url}: default_transaction_isolation is {isolation}; it must be read committed")
    if encoding != "UTF8":
        raise LedgerError(f"{url}: this database is kept in {encoding}; a ledger needs one with ENCODING 'UTF8'")
    if version < VERSION_MIN:
        raise LedgerError(f"{url}: the server is older than PostgreSQL {VERSION_MIN // 10_000}")
    if is_standby:
        # It replays commits in their order, and positions are not in that order: a reader could miss some.
        raise LedgerFull(f"{url} is a standby, from which no ledger can be read without gaps; name the primary server")


async def checked_out(engine: AsyncEngine) -> tuple[AsyncConnection, Driver]:
    """Take a connection out of the pool to keep; SQL goes to the driver, past SQLAlchemy.

    Raises:
        LedgerError: no connection can be made.
        asyncpg.PostgresError: the server went away while SQLAlchemy looked at it; or another of ``FAILURES``.
    """
    try:
        connection = await engine.connect()
    except DBAPIError as error:
        cause = None if error.orig is None else error.orig.__cause__
        if isinstance(cause, FAILURES):
            raise cause from None
        raise
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise TypeError(f"expected a connection of asyncpg, not {type(driver).__name__}")
    known: Driver = driver
    return connection, known


async def let_go(connection: AsyncConnection, driver: Driver) -> None:
    """Give up a connection that is in doubt, without waiting for its server."""
    driver.terminate()
    await connection.invalidate()
    await connection.close()


def engine(url: PostgresUrl, connections: int, command_within_s: float | None = COMMAND_WITHIN_S) -> AsyncEngine:
    """Return an engine whose connections are made when first needed, and not reset when given back."""
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, command_within_s),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return=None,
    )
