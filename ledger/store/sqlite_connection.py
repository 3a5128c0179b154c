"""Connections to an SQLite file: one thread each, one hop for a whole function, pragmas that are read back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from ledger.errors import LedgerError
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.waiting import Patience

__all__ = ["OneHop", "checked_out", "connect", "engine"]

T = TypeVar("T")

COMMON: Final[Mapping[str, int]] = {
    "busy_timeout": 0,  # a blocked call cannot be cancelled: we wait ourselves, outside SQLite
    "foreign_keys": 1,
    "recursive_triggers": 1,  # INSERT OR REPLACE then meets the guard against DELETE as well
    "trusted_schema": 0,
    "secure_delete": 1,
}
WRITER: Final[Mapping[str, int]] = {
    **COMMON,
    "synchronous": 2,
    "journal_size_limit": 64 << 20,
    "wal_autocheckpoint": 8192,  # pages: the writer does it sooner by itself, with the mark of ``sqlite_witness``
}
READER: Final[Mapping[str, int]] = {**COMMON, "query_only": 1}


class OneHop(aiosqlite.Connection):
    """A connection that hands a whole function to its thread: every hop between threads costs more than the SQL."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on the connection's thread; when the caller is cancelled it still runs to its end."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # typed by ``work``
        return result


def connect(path: Path, *, writer: bool) -> sqlite3.Connection:
    """Open an existing file and set up the connection; never creates one.

    Raises:
        LedgerError: a pragma did not take.
        sqlite3.Error: the file cannot be opened.
    """
    connection = sqlite3.connect(
        path.absolute().as_uri() + "?mode=rw", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        _set_up(connection, path, writer=writer)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, path: Path, *, writer: bool) -> None:
    for name, value in (WRITER if writer else READER).items():
        connection.execute(f"PRAGMA {name} = {value}")
        (actual,) = connection.execute(f"PRAGMA {name}").fetchone()
        if actual != value:
            raise LedgerError(f"SQLite {sqlite3.sqlite_version} did not take {name} = {value}: it is {actual}")
    if writer:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise LedgerError(f"{path}: this file system cannot hold a write-ahead log; journal_mode is {mode}")


async def checked_out(engine: AsyncEngine) -> tuple[AsyncConnection, OneHop]:
    """Take a connection out of the pool to keep: going through the pool costs more than most statements.

    Raises:
        LedgerError: the file cannot be opened.
    """
    connection = await engine.connect()
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not isinstance(driver, OneHop):
        raise TypeError(f"expected our own connection, not {type(driver).__name__}")
    return connection, driver


def engine(path: Path, *, writer: bool, connections: int, busy_deadline_s: float) -> AsyncEngine:
    """Return an engine whose driver connections are ``OneHop``; opened at first use, not reset when given back."""

    async def create() -> OneHop:
        patience = Patience(busy_deadline_s)
        while True:
            made = OneHop(lambda: connect(path, writer=writer), iter_chunk_size=64)
            # A thread that is stuck in the disk must not keep the process from ending.
            made._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does for the connections that it makes itself
            try:
                await made
            except sqlite3.Error as error:
                if not is_busy(error) or patience.is_over():
                    raise as_ledger_error(error, str(path)) from error
                await patience.wait()
            else:
                return made

    return create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=create,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return=None,
    )
