"""Who lives: a lock file on this host, a row with a heartbeat in the ledger, and what each of them proves."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ledger.errors import LedgerFull
from ledger.executor.presence import Heartbeat, HostLock, Others, Sign, lock_path
from ledger.ports import Ports
from ledger.store.memory import MemoryStore
from tests.contracts.appends import Clock
from tests.mortals import HastyLoop

ME: Final = "worker:me"
OTHER: Final = "worker:other"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(now_ms=clock)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workers"


@pytest.fixture
def others(store: MemoryStore, folder: Path, clock: Clock) -> Others:
    return Others(ME, store, folder, Ports(now_ms=clock))


@contextmanager
def locked(folder: Path, lock: str) -> Iterator[None]:
    """Let the other's lock file be held, free or missing."""
    taken = HostLock(OTHER)
    if lock == "held":
        taken.take(folder)
    elif lock == "free":
        folder.mkdir()
        lock_path(folder, OTHER).touch()
    yield
    taken.release(left=True)


@pytest.mark.parametrize(
    ("lock", "silent_ms", "sign"),
    [
        pytest.param("held", 0, Sign.LIVES, id="lock held, row fresh"),
        pytest.param("held", None, Sign.LIVES, id="lock held, no row: just coming or leaving"),
        pytest.param("held", 20_001, Sign.QUIET, id="lock held, row old"),
        pytest.param("free", 0, Sign.GONE, id="lock free, row fresh"),
        pytest.param("free", None, Sign.GONE, id="lock free, no row"),
        pytest.param("free", 20_001, Sign.GONE, id="lock free, row old"),
        pytest.param("missing", 0, Sign.LIVES, id="on another host, row fresh"),
        pytest.param("missing", 20_000, Sign.LIVES, id="on another host, row not yet old"),
        pytest.param("missing", 20_001, Sign.QUIET, id="on another host, row old"),
        pytest.param("missing", None, Sign.GONE, id="on another host, no row: it has left"),
        pytest.param("missing", 86_400_001, Sign.QUIET, id="on another host, not heard of for a day"),
        pytest.param("held", 86_400_001, Sign.QUIET, id="lock held, not heard of for a day"),
        pytest.param("missing", -60_000, Sign.LIVES, id="clock set back a minute"),
        pytest.param("missing", -60_001, Sign.QUIET, id="clock set back further"),
    ],
)
async def test_what_is_known_of_a_worker(
    store: MemoryStore, others: Others, folder: Path, clock: Clock, lock: str, silent_ms: int | None, sign: Sign
) -> None:
    """A free lock proves death, a missing row good order; an old row is looked at twice."""
    with locked(folder, lock):
        if silent_ms is not None:
            await store.beat(OTHER)
            clock.now_ms += silent_ms
        assert await others.sign(OTHER) is sign
        assert await others.sign(ME) is Sign.LIVES


@pytest.mark.parametrize("beats", [False, True], ids=["stands still", "moves"])
@pytest.mark.parametrize("lock", ["held", "missing"])
def test_a_heartbeat_is_watched_before_a_lease_is_over(
    store: MemoryStore, others: Others, folder: Path, clock: Clock, lock: str, *, beats: bool
) -> None:
    """A clock that jumps an hour silences nobody whose heartbeat moves, whether it jumps once or again and again."""

    async def watched() -> set[Sign]:
        await store.beat(OTHER)
        signs = set()
        for _ in range(15):
            clock.now_ms += 3_600_000
            signs.add(await others.sign(OTHER))
            await asyncio.sleep(0.01)
            if beats:
                await store.beat(OTHER)
                signs.add(await others.sign(OTHER))
        return signs

    with locked(folder, lock), asyncio.Runner(loop_factory=HastyLoop) as runner:
        signs = runner.run(watched())
    assert (Sign.SILENT in signs) is not beats
    assert signs <= {Sign.QUIET, Sign.SILENT, Sign.LIVES}


async def test_who_came_since_the_last_look_lives(store: MemoryStore, others: Others) -> None:
    """A look is remembered for a moment; nobody is taken for dead because of that."""
    await store.beat("worker:first")
    assert await others.sign("worker:first") is Sign.LIVES
    await store.beat(OTHER)
    assert await others.sign(OTHER) is Sign.LIVES


async def test_two_who_look_at_once_see_the_same(store: MemoryStore, others: Others, folder: Path) -> None:
    """A look at a free lock does not make it look held to others."""
    await store.beat(OTHER)
    with locked(folder, "free"):
        descriptor = os.open(lock_path(folder, OTHER), os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # what a look takes for an instant
        assert await others.sign(OTHER) is Sign.GONE
        os.close(descriptor)


def is_gone(folder: Path) -> bool:
    return not folder.exists()


async def test_the_dead_are_found_by_what_they_left(store: MemoryStore, others: Others, folder: Path) -> None:
    """By a row, or by a lock file alone: one that died before its first heartbeat; then both are forgotten."""
    with locked(folder, "free"):
        lock_path(folder, "worker:early").touch()
        await store.beat(OTHER)
        assert await others.gone() == ("worker:early", OTHER)
        for worker in await others.gone():
            others.forget(worker)
    assert is_gone(folder)


def test_a_lock_file_is_ours_alone_and_goes_with_us(folder: Path) -> None:
    """0600, in a folder of 0700 that goes with the last one; to take it twice is to take it once."""
    first, second = HostLock(ME), HostLock(OTHER)
    for lock in (first, first, second):
        lock.take(folder)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())}
    assert modes == {"workers": 0o700, "me.lock": 0o600, "other.lock": 0o600}
    first.release(left=True)
    first.release(left=True)
    assert [path.name for path in folder.iterdir()] == ["other.lock"]
    second.release(left=True)
    assert not folder.exists()


def test_without_a_place_for_it_the_heartbeat_has_to_do(tmp_path: Path) -> None:
    """No folder, or one that cannot be made, is no error."""
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file" / "workers"):
        lock = HostLock(ME)
        lock.take(folder)
        lock.release(left=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_row_is_there_as_long_as_its_worker(store: MemoryStore, clock: Clock) -> None:
    """Written before anything else is done, and taken back at the end, also twice."""
    heartbeat = Heartbeat(ME, store, Ports(now_ms=clock))
    await heartbeat.start()
    assert [worker.name for worker in await store.workers()] == [ME]
    assert await heartbeat.stop()
    assert await heartbeat.stop()
    assert list(await store.workers()) == []


class Refusing(MemoryStore):
    """A store that lets nobody leave."""

    async def leave(self, worker: str) -> None:
        """Refuse."""
        raise LedgerFull("the disk is full")


async def test_a_row_that_cannot_be_taken_back_is_left_with_a_free_lock(clock: Clock, folder: Path) -> None:
    """Without an error: whoever looks finds a row whose lock is free."""
    store = Refusing(now_ms=clock)
    heartbeat, lock = Heartbeat(OTHER, store, Ports(now_ms=clock)), HostLock(OTHER)
    lock.take(folder)
    await heartbeat.start()
    lock.release(left=await heartbeat.stop())
    assert await Others(ME, store, folder, Ports(now_ms=clock)).gone() == (OTHER,)
