"""A program whose power will be cut; it writes a line for each thing that it was promised.

Called as ``python -m tests.power_cut.child DEED LEDGER MARKS HOW`` with the shim preloaded.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ledger.errors import LedgerFull
from ledger.store.opening import open_sqlite
from ledger.store.sqlite import SqliteStore
from ledger.store.upgrade import Migrations, upgrade
from tests.contracts.appends import Clock
from tests.lives import life

__all__ = ["NAMES", "on_writer"]

NAMES: Final = ("a", "b", "c", "d", "e", "f")
CHECKPOINT_PAGES: Final = 40
"""So few that the log is folded back, and begun anew, several times while the program runs."""

Mark = Callable[[str], object]


async def on_writer(store: SqliteStore, pragma: str) -> Any:
    """Set something on the connection that writes."""
    driver = await store._writer._driver()  # noqa: SLF001 - a fault has to be put where nobody else can reach
    return await driver.run(lambda database: database.execute(pragma).fetchone())


async def live(store: SqliteStore, task_id: str, mark: Mark, weakness: str = "") -> None:
    """Append a task's events step by step; the mark of an append is its last event's id.

    The weakness ``early`` marks before the append is there, for a test of the test.
    """
    for append in life(task_id):
        if weakness == "early":
            mark(append.events[-1].event_id)
        await store.append(append)
        if weakness != "early":
            mark(append.events[-1].event_id)


async def append(path: Path, mark: Mark, weakness: str) -> None:
    """Fill a ledger, closing it once in between; the weakness ``normal`` does not wait for the disk."""
    for names in (NAMES[:3], NAMES[3:]):
        store = await open_sqlite(path, create=False, now_ms=Clock())
        await on_writer(store, f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        if weakness == "normal":
            await on_writer(store, "PRAGMA synchronous = NORMAL")
        await asyncio.gather(*(live(store, name, mark, weakness) for name in names))
        await store.aclose()


async def insist(path: Path, mark: Mark, names: str) -> None:
    """Go on with ledgers, each in a folder named by which of its syncs fails; what was refused is appended again."""
    for name in names.split():
        store = await open_sqlite(path / name / "ledger.db", create=False, now_ms=Clock())
        await on_writer(store, f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        mark(f"{name}/")
        ctypes.CDLL(None).shim_fail(ord("s"), ctypes.c_long(int(name)), errno.EIO, 0, 0)
        for append in (*life("a"), *life("b")):
            try:
                await store.append(append)
            except LedgerFull:
                await store.append(append)
            prefixed(mark, name, append.events[-1].event_id)
        await store.aclose()


async def create(path: Path, mark: Mark, _: str) -> None:
    """Make a ledger and use it."""
    store = await open_sqlite(path, create=True, now_ms=Clock())
    mark("created")
    await live(store, "a", mark)
    await store.aclose()


async def recover(path: Path, mark: Mark, names: str) -> None:
    """Open what a cut has left, each in a folder of its own, and go on with it."""
    for name in names.split():
        mark(f"{name}/")
        store = await open_sqlite(path / name / "ledger.db", create=True, now_ms=Clock())
        await live(store, "z", partial(prefixed, mark, name))
        await store.aclose()


def prefixed(mark: Mark, name: str, line: str) -> None:
    """Mark a line as one of a ledger's."""
    mark(f"{name}/{line}")


async def migrate(path: Path, mark: Mark, migrations: str) -> None:
    """Bring a ledger up to date with the migrations in a folder, while somebody else has it open."""
    folder = Path(migrations)
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await live(store, "c", mark)
    await asyncio.to_thread(upgrade, path, Migrations(folder, (folder / "revisions").read_text().split()))
    mark("upgraded")
    await store.aclose()


def main(deed: str, ledger: str, marks: str, how: str) -> None:
    """Do one of the deeds."""
    descriptor = os.open(marks, os.O_WRONLY | os.O_CREAT, 0o600)
    deeds = {"append": append, "insist": insist, "create": create, "recover": recover, "migrate": migrate}
    asyncio.run(deeds[deed](Path(ledger), lambda line: os.write(descriptor, f"{line}\n".encode()), how))


if __name__ == "__main__":
    main(*sys.argv[1:])
