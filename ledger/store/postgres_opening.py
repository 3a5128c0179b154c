"""From the URL of a database to an open store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ledger.errors import LedgerCorrupt, LedgerMissing
from ledger.store.postgres import PostgresStore
from ledger.store.postgres_migrations import create as create_ledger
from ledger.store.postgres_schema import inspect, problems, refuse
from ledger.store.postgres_url import PostgresUrl
from ledger.store.sqlite_schema import Found

__all__ = ["open_postgres"]

BUSY_DEADLINE_S: Final = 30.0


async def open_postgres(
    url: PostgresUrl,
    *,
    create: bool,
    guarded: bool = True,
    busy_deadline_s: float = BUSY_DEADLINE_S,
    now_ms: Callable[[], int] | None = None,
) -> PostgresStore:
    """Open a ledger, its guards checked; with ``create`` one that does not exist is made in the database named.

    Args:
        url: the database.
        create: make the tables where there are none.
        guarded: False is for those who only look: fallen guards do not keep it from being opened.
        busy_deadline_s: how long locks and a server that is away are waited for.
        now_ms: a clock instead of the server's, for tests.

    Raises:
        LedgerMissing: there is none, and ``create`` is False; or there is no such database.
        LedgerCorrupt: the tables are somebody else's, or the guards do not stand.
        LedgerVersion: its schema is older or newer than this program's.
        LedgerError: the server cannot be used.
    """
    store = PostgresStore(url, busy_deadline_s=busy_deadline_s, now_ms=now_ms)
    try:
        await _refuse_content(store, url, create=create)
        if guarded:
            await _refuse_unguarded(store, url)
    except BaseException:
        await store.aclose()
        raise
    return store


async def _refuse_content(store: PostgresStore, url: PostgresUrl, *, create: bool) -> None:
    """Refuse what is no ledger of ours; where nothing was made yet, whoever may create makes it."""
    found, revision = await store.run(inspect)
    if found is Found.EMPTY and create:
        await create_ledger(url)
        found, revision = await store.run(inspect)
    if found is Found.EMPTY:
        raise LedgerMissing(f"there is no ledger in {url}; the first command that writes makes it")
    refuse(url, found, revision)


async def _refuse_unguarded(store: PostgresStore, url: PostgresUrl) -> None:
    fallen = await store.run(problems)
    if fallen:
        raise LedgerCorrupt(f"{url}: {'; '.join(problem.detail for problem in fallen)}")
