"""Reading in SQL: the same rows from both engines, all at one instant, and a long statement that can be broken off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from ledger.errors import LedgerCorrupt, LedgerError
from ledger.reports.reading import Snapshot, reading
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_store
from ledger.store.protocol import Store
from tests.contracts.appends import Clock, submission
from tests.ledgers import fresh_ledger
from tests.postgres_server import database

COUNTED = "SELECT COUNT(*), SUM(created_at_ms * 0 + 2) FROM tasks WHERE tier_requested = :tier"
ENDLESS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT COUNT(*) FROM n
"""


@pytest.fixture(params=["sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open ledger with two tasks."""
    async with database() as url:
        place = str(fresh_ledger(tmp_path)) if request.param == "sqlite" else url
        opened = await open_store(place, create=False, now_ms=Clock())
        for task_id in ("a", "b"):
            await opened.append(submission(task_id))
        yield opened
        await opened.aclose()


async def test_sums_are_integers(store: Store) -> None:
    """Parameters go by name, and a sum is an integer on every engine."""

    async def work(snapshot: Snapshot) -> object:
        return await snapshot.each(COUNTED, [{"tier": "flash"}, {"tier": "opus"}])

    assert repr([[(2, 4)], [(0, None)]]) == repr(await reading(store, work))


async def test_everything_is_read_at_one_instant(store: Store) -> None:
    """What is appended meanwhile is seen by the next snapshot only."""

    async def work(snapshot: Snapshot) -> list[int]:
        before = await snapshot.rows(COUNTED, {"tier": "flash"})
        await store.append(submission(f"c{time.monotonic_ns()}"))
        return [before[0][0], (await snapshot.rows(COUNTED, {"tier": "flash"}))[0][0]]

    assert [2, 2] == await reading(store, work)
    assert [3, 3] == await reading(store, work)


async def test_nothing_can_be_written(store: Store) -> None:
    """A snapshot is for reading, whatever it is asked."""
    with pytest.raises(LedgerError):
        await reading(store, lambda snapshot: snapshot.rows("DELETE FROM task_labels"))
    assert ("a", "b") == await store.projected_task_ids("", 10)


async def test_a_statement_that_fits_no_table(store: Store) -> None:
    """It is an error of the ledger's, and the store goes on."""
    with pytest.raises(LedgerCorrupt):
        await reading(store, lambda snapshot: snapshot.rows("SELECT nothing FROM tasks"))
    assert len(await store.read("a")) == 1


async def test_a_long_statement_is_broken_off(store: Store) -> None:
    """Whoever is cancelled has its reader back at once, and the store closes in time."""
    asking = asyncio.create_task(reading(store, lambda snapshot: snapshot.rows(ENDLESS)))
    await asyncio.sleep(0.05)
    asking.cancel()
    began = time.monotonic()
    with suppress(asyncio.CancelledError):
        await asking
    assert len(await store.read("a")) == 1
    await store.aclose()
    assert time.monotonic() - began < 5


async def test_a_ledger_in_memory_is_refused() -> None:
    """It knows no SQL, and says so."""
    with pytest.raises(LedgerError, match="cannot be asked in SQL"):
        await reading(MemoryStore(now_ms=Clock()), lambda snapshot: snapshot.rows("SELECT 1"))
