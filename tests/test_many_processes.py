"""Many processes on one SQLite file: nothing is lost, nobody starves, and who has to wait does not stand still."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from ledger import Config, Executor, Ledger
from ledger.envelope import Limit
from ledger.errors import LedgerBusy
from ledger.ports import Ports
from ledger.store.opening import BUSY_DEADLINE_S, open_sqlite
from ledger.store.protocol import Store
from ledger.store.sqlite import SqliteStore
from tests.contracts.appends import Clock, submission, ticks
from tests.ledgers import fresh_ledger
from tests.processes import append_flat_out, claim_all, held, start_some, together
from tests.world import Scripted, World

STALL_MAX_S: Final = 0.2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a fresh ledger's file."""
    return fresh_ledger(tmp_path)


@pytest.mark.parametrize(
    ("processes", "for_s", "share_min"),
    [
        # In so short a time chance rules: what is promised is shown by the long one.
        pytest.param(6, 1.0, 0.1, id="short"),
        pytest.param(16, 10.0, 0.3, id="long", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_and_nobody_starves(path: Path, processes: int, for_s: float, share_min: float) -> None:
    """Flat out, with no error that reaches a caller: every acknowledged event is there, every wait is bearable."""
    shares = together(processes, append_flat_out, path, for_s)
    appended = [share.appended for share in shares]
    with closing(sqlite3.connect(path)) as database:
        stored = database.execute("SELECT count(*), max(position) FROM events").fetchone()
    assert (sum(appended), sum(appended)) == stored
    assert min(appended) > share_min * max(appended)
    assert max(share.longest_wait_s for share in shares) < 2


def test_limits_hold_across_processes(path: Path) -> None:
    """Of thirty starts in five processes at one instant seven get in."""
    assert sum(together(5, start_some, path, 6, Limit("simulated", 7))) == 7


async def test_limits_hold_across_stores(path: Path) -> None:
    """So do they for two stores of one process on one file."""
    stores = [await open_sqlite(path, create=False, now_ms=Clock()) for _ in range(2)]
    got_in = await asyncio.gather(*(start_some(store, n, 20, Limit("simulated", 9)) for n, store in enumerate(stores)))
    assert sum(got_in) == 9
    for store in stores:
        await store.aclose()


async def test_claims_hold_across_processes(path: Path) -> None:
    """No task is given to two of five processes, and none is left."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    task_ids = [f"t{number:03}" for number in range(60)]
    for task_id in task_ids:
        await store.append(submission(task_id))
    await store.aclose()
    claimed = await asyncio.to_thread(together, 5, claim_all, path, 3)
    assert task_ids == sorted(task_id for mine in claimed for task_id in mine)


@contextmanager
def never_stalled() -> Iterator[None]:
    """Fail if the event loop stands still for longer than may be."""
    stalls = [0.0]

    async def watch() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.01)
            stalls.append(time.monotonic() - begun)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert max(stalls) < STALL_MAX_S


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
@pytest.mark.parametrize(
    ("for_s", "deadline_s"),
    [
        pytest.param(0.6, BUSY_DEADLINE_S / 10, id="short"),
        pytest.param(10.0, BUSY_DEADLINE_S, id="long", marks=pytest.mark.slow),
    ],
)
async def test_a_lock_is_waited_for(path: Path, how: str, for_s: float, deadline_s: float) -> None:
    """Another program's lock holds up appends, beats and claims, and nothing else; then all of them succeed."""
    store = await open_sqlite(path, create=False, now_ms=Clock(), busy_deadline_s=deadline_s)
    await store.append(submission("t"))
    begun = time.monotonic()
    with held(path, for_s, how), never_stalled():
        writes = asyncio.gather(store.append(ticks("s", 0)), store.beat("w"), store.claim("w", [None], 1, 60_000))
        assert len(await store.read("t")) == 1
        stream, _, claimed = await writes
    assert time.monotonic() - begun >= for_s
    assert (len(stream), claimed) == (1, ("t",))
    await store.aclose()


class Impatient(Ledger):
    """A ledger that waits less long than is usual."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__("unused")
        self._opened = store

    async def store(self) -> Store:
        """Return the store that was given."""
        return self._opened


@pytest.mark.parametrize(
    ("for_s", "deadline_s"),
    [
        pytest.param(4.0, BUSY_DEADLINE_S / 50, id="short"),
        pytest.param(40.0, BUSY_DEADLINE_S, id="long", marks=pytest.mark.slow),
    ],
)
async def test_a_lock_that_is_kept_is_told_before_any_call(tmp_path: Path, for_s: float, deadline_s: float) -> None:
    """``LedgerBusy``, when the time is over and not much later; nobody was called, and nothing is left behind."""
    world = World(tmp_path)
    path = fresh_ledger(tmp_path)
    store = await open_sqlite(path, create=False, now_ms=Ports().now_ms, busy_deadline_s=deadline_s)
    executor = Executor(Impatient(store), Config(), build=lambda provider, model, _: Scripted(world, provider, model))
    begun = time.monotonic()
    with held(path, for_s), never_stalled():
        with pytest.raises(LedgerBusy):
            await executor.execute("flash", "hello")
        assert deadline_s <= time.monotonic() - begun < deadline_s + 1
    assert world.calls == []
    await executor.aclose()
    assert await store.newest() == 0
    await store.aclose()
