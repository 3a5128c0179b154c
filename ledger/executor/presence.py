"""Who works on this ledger: each worker's lock file on its host, and its row with a heartbeat in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from ledger.errors import LedgerError
from ledger.ports import Ports
from ledger.state import CLOCK_SET_BACK_MS
from ledger.store.protocol import Store, Worker

try:
    import fcntl
except ImportError:  # a system without file locks: heartbeats alone have to do
    fcntl = None  # type: ignore[assignment]  # a module that is not there

__all__ = ["BEAT_S", "SILENT_MS", "Heartbeat", "HostLock", "Others", "Sign"]

BEAT_S: Final = 5.0
SILENT_MS: Final = 20_000
"""A worker that has not been heard of for so long is taken for dead, unless its lock file says otherwise."""
LOOK_MS: Final = 250
"""How long a look at the workers' rows is good for."""
LEAVE_S: Final = 10.0
LOCK: Final = ".lock"


class Sign(Enum):
    """What is known of a worker."""

    LIVES = "lives"
    SILENT = "silent"
    """Not heard of, and nothing on this host proves its death."""
    GONE = "gone"


class HostLock:
    """A worker's lock file on this host; held, it proves that the process lives, and free, that it does not.

    Args:
        worker: whose it is, ``worker:<uuid>``.
    """

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self._held: tuple[Path, int] | None = None

    def take(self, folder: Path | None) -> None:
        """Make the file and lock it, once; where that cannot be, the heartbeat has to do."""
        if folder is not None and self._held is None:
            path = lock_path(folder, self.worker)
            descriptor = _locked(path)
            self._held = None if descriptor is None else (path, descriptor)

    def release(self) -> None:
        """Remove the file, then let go of it."""
        if self._held is not None:
            (path, descriptor), self._held = self._held, None
            _unlinked(path)
            os.close(descriptor)


class Heartbeat:
    """A worker's row in the ledger, renewed in one event loop until it is taken back."""

    def __init__(self, worker: str, store: Store) -> None:
        self._worker = worker
        self._store = store
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write the row, and go on doing so.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        await self._store.beat(self._worker)
        self._beating = asyncio.create_task(self._beat(), name="ledger-heartbeat")

    async def stop(self) -> None:
        """Take the row back, within a bound; what fails is left to those who look."""
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.wait({self._beating}, timeout=LEAVE_S)
        self._beating = None
        with contextlib.suppress(LedgerError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._store.leave(self._worker)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(LedgerError):  # a beat that is missed is written five seconds later
                await self._store.beat(self._worker)


class Others:
    """Which workers live, as far as the ledger and this host can tell."""

    def __init__(self, worker: str, store: Store, folder: Path | None, ports: Ports) -> None:
        self._worker = worker
        self._store = store
        self._folder = folder
        self._ports = ports
        self._rows: Mapping[str, Worker] = {}
        self._looked_ms: int | None = None

    async def sign(self, worker: str) -> Sign:
        """Say what is known of a worker; oneself always lives."""
        if worker == self._worker:
            return Sign.LIVES
        row = (await self._workers()).get(worker)
        held = None if self._folder is None else _is_held(lock_path(self._folder, worker))
        if row is None or held is False:
            return Sign.GONE
        set_back = row.silent_ms < -CLOCK_SET_BACK_MS and not held
        return Sign.SILENT if row.silent_ms > SILENT_MS or set_back else Sign.LIVES

    def forget(self, worker: str) -> None:
        """Remove the lock file of a worker that is gone and has nothing in flight any more."""
        if self._folder is not None:
            _unlinked(lock_path(self._folder, worker))

    async def _workers(self) -> Mapping[str, Worker]:
        now = self._ports.now_ms()
        if self._looked_ms is None or not 0 <= now - self._looked_ms < LOOK_MS:
            self._rows = {row.name: row for row in await self._store.workers()}
            self._looked_ms = now
        return self._rows


def lock_path(folder: Path, worker: str) -> Path:
    """Return a worker's lock file."""
    return folder / (worker.removeprefix("worker:").replace(os.sep, "_") + LOCK)


def _locked(path: Path) -> int | None:
    """Make the file and lock it until this process ends; None where it cannot be, and the heartbeat has to do."""
    if fcntl is None:
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_held(path: Path) -> bool | None:
    """Say whether somebody on this host holds the lock; None where there is no such file here."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _unlinked(path: Path) -> None:
    """Remove the file, and the folder with the last one."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
