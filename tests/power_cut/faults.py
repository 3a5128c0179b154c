"""A program whose disk fails at a chosen write or sync, and which looks at what that did.

Called as ``python -m tests.power_cut.faults DEED FOLDER FAULT...`` with the shim preloaded. It fails at the first
write, at the second, and so on until the deed is done without reaching the failure, and says a line for each fault: how
many times it failed and how often that was told.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ledger.audit import verify
from ledger.errors import LedgerError, LedgerFull
from ledger.store.opening import open_sqlite
from ledger.store.sqlite import SqliteStore
from tests.contracts.appends import Clock
from tests.ledgers import fresh_ledger
from tests.lives import life
from tests.power_cut.child import on_writer
from tests.world import World, rows

__all__ = ["FAULTS"]


class Fault(NamedTuple):
    """How calls fail: which ('w' writes, 's' syncs), with what, after half of the bytes, and whether for good."""

    kind: str
    error: int
    half: bool
    lasting: bool


FAULTS: Final = {
    "full": Fault("w", errno.ENOSPC, half=False, lasting=True),
    "full after half a write": Fault("w", errno.ENOSPC, half=True, lasting=True),
    "one write lost": Fault("w", errno.EIO, half=False, lasting=False),
    "one sync lost": Fault("s", errno.EIO, half=False, lasting=False),
    "no sync": Fault("s", errno.EIO, half=False, lasting=True),
}

CHECKPOINT_PAGES: Final = 60
SHIM: Final = ctypes.CDLL(None)


@contextmanager
def failing(fault: Fault, at: int) -> Iterator[None]:
    """Let the at-th call from here on fail; afterwards the disk is well again."""
    SHIM.shim_fail(ord(fault.kind), ctypes.c_long(at), fault.error, fault.half, fault.lasting)
    try:
        yield
    finally:
        SHIM.shim_fail(0, ctypes.c_long(0), 0, 0, 0)


def reached(at: int) -> bool:
    """Say whether the call that had to fail was made."""
    return int(SHIM.shim_calls()) >= at


async def append(folder: Path, name: str) -> None:
    """Fail while a task is appended step by step; each time its appends are then repeated."""
    fault, ledger = FAULTS[name], fresh_ledger(folder)
    store = await open_sqlite(ledger, create=False, now_ms=Clock())
    await on_writer(store, f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    at, told, hit = 0, 0, True
    while hit:
        at += 1
        written = 0
        with failing(fault, at):
            try:
                for step in life(f"t{at}"):
                    await store.append(step)
                    written += len(step.events)
            except LedgerFull:
                told += 1
            hit = reached(at)
        await whole_or_not(store, f"t{at}", written)
    assert (await verify(store)).problems == ()
    await store.aclose()
    sys.stdout.write(f"{name},{at - 1},{told}\n")


async def whole_or_not(store: SqliteStore, task_id: str, written: int) -> None:
    """Find what was acknowledged and no part of anything else; then the same appends succeed."""
    steps = life(task_id)
    ends = [step.expected_version + len(step.events) for step in steps]
    found = len(await store.read(task_id))
    assert found in (0, *ends)
    assert found >= written
    for step in steps:
        await store.append(step)
    assert len(await store.read(task_id)) == ends[-1]


async def execute(folder: Path, name: str) -> None:
    """Fail while a task is executed: no call after the failure, none unrecorded; a program that starts later works."""
    fault, world = FAULTS[name], World(folder)
    at, told, hit = 0, 0, True
    called_after: list[bool] = []
    world.watch = lambda _: called_after.append(reached(at))
    fresh_ledger(folder).rename(world.path)
    while hit:
        at += 1
        async with world.executor(checked=False) as executor:
            with failing(fault, at):
                try:
                    await executor.execute("haiku", f"attacked {at}")
                except LedgerError:
                    told += 1
                hit = reached(at)
        if not hit or at % 5 == 0:
            async with world.executor() as executor:
                assert (await executor.execute("haiku", f"afterwards {at}")).success
        assert not any(called_after), f"a call was made after write {at} had failed"
        assert len(rows(world.path, "SELECT * FROM attempts")) >= len(world.calls)
    world.path.unlink()
    sys.stdout.write(f"{name},{at - 1},{told}\n")


async def main(deed: str, folder: str, *faults: str) -> None:
    """Do a deed with each of the faults."""
    for name in faults:
        await {"append": append, "execute": execute}[deed](Path(folder), name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
