"""Who works on this ledger: each worker's lock file on its host, and its row with a heartbeat in the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from ledger.errors import DispatchError
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
"""A worker that has not been heard of for so long is silent, unless it is the clock that jumped."""
FORGOTTEN_MS: Final = 86_400_000
"""A worker of another host that was not heard of for a day is dead."""
WATCH_S: Final = 10.0
"""So long a row is watched before it is said that it does not move."""
LOOK_MS: Final = 250
"""How long a look at the workers' rows is good for."""
LEAVE_S: Final = 10.0
LOCK: Final = ".lock"
NAMELESS: Final = ".new"
TRIES: Final = 5


class Sign(Enum):
    """What is known of a worker."""

    LIVES = "lives"
    QUIET = "quiet"
    """Not heard of by the clock; whether its heartbeat moves is being watched."""
    SILENT = "silent"
    """Not heard of, and its heartbeat does not move; nothing on this host proves its death."""
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

    def release(self, *, left: bool = True) -> None:
        """Let go of the file; it stays, free, for those who look, unless the worker has ``left`` the ledger."""
        if self._held is not None:
            (path, descriptor), self._held = self._held, None
            if left:
                _unlinked(path)
            os.close(descriptor)


class Heartbeat:
    """A worker's row in the ledger, renewed in one event loop until it is taken back."""

    def __init__(self, worker: str, store: Store, ports: Ports) -> None:
        self._worker = worker
        self._store = store
        self._ports = ports
        self._beating: asyncio.Task[None] | None = None
        self.ahead_ms = 0
        """How far the ledger's clock is ahead of this host's, as of the last beat."""

    async def start(self) -> None:
        """Write the row, and go on doing so.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        await self._once()
        self._beating = asyncio.create_task(self._beat(), name="ledger-heartbeat")

    async def stop(self) -> bool:
        """Take the row back, within a bound; say whether that is done, what fails is left to those who look."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating}, timeout=LEAVE_S)
            self._beating = None
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._store.leave(self._worker)
            except (DispatchError, TimeoutError):
                return False
        return True

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            with contextlib.suppress(DispatchError, OSError):  # a beat that is missed is written five seconds later
                await self._once()

    async def _once(self) -> None:
        await self._store.beat(self._worker)
        self.ahead_ms = await self._store.now_ms() - self._ports.now_ms()


class Others:
    """Which workers live, as far as the ledger and this host can tell."""

    def __init__(self, worker: str, store: Store, folder: Path | None, ports: Ports) -> None:
        self._worker = worker
        self._store = store
        self._folder = folder
        self._ports = ports
        self._rows: Mapping[str, Worker] = {}
        self._looked_ms: int | None = None
        self._watched: dict[str, tuple[int, float]] = {}
        """By worker: a count of beats, and since when it has been the same, by the loop's clock."""

    async def sign(self, worker: str) -> Sign:
        """Say what is known of a worker; oneself always lives."""
        if worker == self._worker:
            return Sign.LIVES
        held = None if self._folder is None else _is_held(lock_path(self._folder, worker))
        row = (await self._workers()).get(worker)
        if row is None and held is None:
            row = (await self._workers(anew=True)).get(worker)  # it may have come since the last look
        if held is False or (row is None and held is None):
            return Sign.GONE
        if row is None:
            return Sign.LIVES  # it is just coming, or just leaving
        stands_still = self._stands_still(row)
        if -CLOCK_SET_BACK_MS <= row.silent_ms <= SILENT_MS:
            return Sign.LIVES
        if stands_still and row.silent_ms > FORGOTTEN_MS and not held:
            return Sign.GONE
        return Sign.SILENT if stands_still else Sign.QUIET

    def renew(self) -> None:
        """Look again at the next question, however short ago the last look was."""
        self._looked_ms = None

    async def gone(self) -> tuple[str, ...]:
        """Return the workers that have left a row or a lock file and are certainly dead."""
        left = {*await self._workers(), *_lock_owners(self._folder)}
        return tuple([worker for worker in sorted(left) if await self.sign(worker) is Sign.GONE])

    def forget(self, worker: str) -> None:
        """Remove the lock file of a worker that is gone, and what was seen of its row."""
        self._rows = {name: row for name, row in self._rows.items() if name != worker}
        self._watched.pop(worker, None)
        if self._folder is not None:
            _unlinked(lock_path(self._folder, worker))

    def _stands_still(self, row: Worker) -> bool:
        """Say that a row has not moved since a while, by a clock that never jumps."""
        now = asyncio.get_running_loop().time()
        beats, since = self._watched.get(row.name, (row.beats, now))
        if beats != row.beats:
            beats, since = row.beats, now
        self._watched[row.name] = beats, since
        return now - since >= WATCH_S

    async def _workers(self, *, anew: bool = False) -> Mapping[str, Worker]:
        now = self._ports.now_ms()
        if anew or self._looked_ms is None or not 0 <= now - self._looked_ms < LOOK_MS:
            self._rows = {row.name: row for row in await self._store.workers()}
            self._looked_ms = now
        return self._rows


def lock_path(folder: Path, worker: str) -> Path:
    """Return a worker's lock file."""
    return folder / (worker.removeprefix("worker:").replace(os.sep, "_") + LOCK)


def _lock_owners(folder: Path | None) -> list[str]:
    """Return whose lock files lie in a folder."""
    return [] if folder is None else [f"worker:{path.stem}" for path in folder.glob(f"*{LOCK}")]


def _locked(path: Path) -> int | None:
    """Make the file and lock it until this process ends; None where it cannot be, and the heartbeat has to do.

    It gets its name when it is locked: nobody ever sees it free, and takes it for a dead worker's.
    """
    if fcntl is None:
        return None
    nameless = path.with_suffix(NAMELESS)
    for _ in range(TRIES):
        descriptor = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(nameless, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nameless.rename(path)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
            if not isinstance(error, FileNotFoundError):
                return None
            # Whoever left last has just taken the folder away.
        else:
            return descriptor
    return None


def _is_held(path: Path) -> bool | None:
    """Say whether somebody on this host holds the lock; None where there is no such file here."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who look at once see the same
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
