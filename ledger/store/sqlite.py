"""The store in an SQLite file: one writer, a few readers, everything else in the modules beside this one."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.envelope import Append, Cap, Payload, Recorded, Stream
from ledger.errors import LedgerCorrupt, LedgerError
from ledger.store import sqlite_reads as reads
from ledger.store import sqlite_workers as crew
from ledger.store.protocol import Problem, Projected, Spent, TaskQuery, Worker
from ledger.store.sealing import check
from ledger.store.snapshots import Snapshot
from ledger.store.sqlite_connection import OneHop, checked_out, engine
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.sqlite_limits import spent
from ledger.store.sqlite_snapshot import in_snapshot
from ledger.store.sqlite_witness import BEREFT, arm, disarm, has_log, is_armed, settle
from ledger.store.sqlite_writer import Writer
from ledger.store.waiting import Patience

__all__ = ["SqliteStore"]

T = TypeVar("T")

READERS: Final = 4
CLOSE_WITHIN_S: Final = 10.0


class SqliteStore:
    """An open ledger; made by ``ledger.store.opening.open_sqlite``.

    Args:
        path: the file, which exists and has the schema.
        now_ms: the clock of ``recorded_at_ms``, UTC milliseconds.
        busy_deadline_s: how long others may hold the lock before ``LedgerBusy``.
    """

    def __init__(self, path: Path, *, now_ms: Callable[[], int], busy_deadline_s: float) -> None:
        self._path = str(path)
        self._busy_deadline_s = busy_deadline_s
        self._pid = os.getpid()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._now_ms = now_ms
        self._key_salt: bytes | None = None
        self._bereft = False
        self._readers = engine(path, writer=False, connections=READERS, busy_deadline_s=busy_deadline_s)
        self._writers = engine(path, writer=True, connections=1, busy_deadline_s=busy_deadline_s)
        self._idle: list[tuple[AsyncConnection, OneHop]] = []
        self._permits = asyncio.Semaphore(READERS)
        self._writer = Writer(self._writers, self._path, now_ms, busy_deadline_s)

    async def append(self, append: Append) -> Stream:
        """Append all events or none, durably, and return the whole stream."""
        self._refuse_unusable()
        check(append)
        return await self._writer.append(append)

    async def read(self, task_id: str) -> Stream:
        """Return the stream."""
        return await self.run(partial(reads.stream, task_id=task_id))

    async def payload(self, task_id: str, slot: str) -> Payload | None:
        """Return one text of a task."""
        return await self.run(partial(reads.payload, task_id=task_id, slot=slot))

    async def payloads(self, task_id: str) -> tuple[Payload, ...]:
        """Return all texts of a task, by slot."""
        return await self.run(partial(reads.payloads, task_id=task_id))

    async def task_of_key(self, key_digest: bytes) -> str | None:
        """Return the task that a key names."""
        return await self.run(partial(reads.task_of_key, digest=key_digest))

    async def key_salt(self) -> bytes:
        """Return the salt of the keys; it never changes, so it is read once."""
        if self._key_salt is None:
            self._key_salt = await self.run(reads.key_salt)
        return self._key_salt

    async def page(self, after_position: int, limit: int) -> Sequence[Recorded]:
        """Return events by position."""
        return await self.run(partial(reads.page, after=after_position, limit=limit))

    async def newest(self) -> int:
        """Return the position of the newest event."""
        return await self.run(reads.newest)

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        """Return events by stream."""
        return await self.run(partial(reads.streams, after=after, limit=limit))

    async def find(self, part: str) -> Sequence[str]:
        """Return at most two tasks; a whole id is found alone."""
        return await self.run(partial(reads.find, part=part))

    async def tasks(self, query: TaskQuery) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``tasks``, newest first."""
        return await self.run(partial(reads.tasks, query=query))

    async def projected(self, task_id: str) -> Projected:
        """Return the projections' rows of one task."""
        return await self.run(partial(reads.projected, task_id=task_id))

    async def projected_task_ids(self, after: str, limit: int) -> Sequence[str]:
        """Return the ids that anything but an event names, sorted."""
        return await self.run(partial(reads.projected_task_ids, after=after, limit=limit))

    async def now_ms(self) -> int:
        """Return the instant by the clock that was given."""
        return self._now_ms()

    async def beat(self, worker: str) -> None:
        """Say that a worker lives, and that the file is nothing without its log."""
        await self.write(partial(crew.beat, worker=worker))
        await self._writer.run(arm, bare=True)

    async def refuse_bereft(self, *, had_log: bool) -> None:
        """Refuse a file that was copied or restored without its write-ahead log; see ``sqlite_witness``.

        Raises:
            LedgerCorrupt: the newest events are missing.
        """
        if not await self.run(is_armed):
            return
        # Another process may have begun to write since the file was looked at, and be about to take its mark back.
        self._bereft = not (had_log or has_log(Path(self._path)))
        if self._bereft:
            raise LedgerCorrupt(BEREFT.format(path=self._path))
        with suppress(LedgerError):
            await self._writer.run(disarm, bare=True)

    async def leave(self, worker: str) -> None:
        """Forget a worker and its claims."""
        await self.write(partial(crew.leave, worker=worker))

    async def workers(self) -> Sequence[Worker]:
        """Return who has beaten and not left, by name."""
        return await self.run(partial(crew.workers, now_ms=self._now_ms()))

    async def owners(self) -> Sequence[str | None]:
        """Return whose the open tasks are; None first."""
        return await self.run(crew.owners)

    async def claim(self, worker: str, owners: Sequence[str | None], limit: int, for_ms: int) -> Sequence[str]:
        """Reserve due tasks of these owners; while there are none the write lock is left to others."""
        wish = crew.Wish(worker, owners, limit, for_ms)
        if not await self.run(partial(crew.due, now_ms=self._now_ms(), wish=wish)):
            return ()
        return await self.write(partial(crew.claim, wish=wish))

    async def unclaim(self, worker: str, task_ids: Sequence[str]) -> None:
        """Give claims back."""
        await self.write(partial(crew.unclaim, worker=worker, task_ids=task_ids))

    async def ended_attempts(self, provider: str, model: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``attempts``, the last to end first."""
        return await self.run(partial(crew.ended_attempts, provider=provider, model=model, limit=limit))

    async def spent(self, cap: Cap, task_id: str, at_ms: int) -> Spent:
        """Return what stands against a cap."""
        return await self.run(partial(spent, cap=cap, task_id=task_id, at_ms=at_ms))

    async def check(self) -> Sequence[Problem]:
        """Return what is wrong with the guards, the schema and the file's pages."""
        return await self.run(reads.check)

    async def write(self, work: Callable[[sqlite3.Connection, int], T]) -> T:
        """Run a function of the connection and the instant in a transaction of its own; what it did is durable then.

        Raises:
            LedgerError: the file cannot be written.
        """
        self._refuse_unusable()
        return await self._writer.run(work)

    async def snapshot(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Do a piece of work on the ledger as it stands at one instant; see ``Askable``."""
        return await self._read(partial(in_snapshot, work=work))

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function that only reads on a reader's thread, patiently while the file is locked.

        Raises:
            LedgerError: the file cannot be read.
        """
        return await self._read(lambda reader: reader.run(partial(reads.legible, work=work)))

    async def _read(self, work: Callable[[OneHop], Awaitable[T]]) -> T:
        """Lend out a reader, patiently while the file is locked."""
        patience = Patience(self._busy_deadline_s)
        while True:
            try:
                async with self._permits:
                    self._refuse_unusable()
                    return await self._lent(work)
            except sqlite3.Error as error:
                if not is_busy(error) or patience.is_over():
                    raise as_ledger_error(error, self._path) from error
            await patience.wait()

    async def _lent(self, work: Callable[[OneHop], Awaitable[T]]) -> T:
        reader = self._idle.pop() if self._idle else await checked_out(self._readers)
        try:
            return await work(reader[1])
        finally:
            self._idle.append(reader)

    async def aclose(self) -> None:
        """Write what waits, then let go of the file, within a bound; it goes on when the caller is cancelled."""
        if self._pid != os.getpid():
            return
        self._closed = True
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="ledger-close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.aclose(CLOSE_WITHIN_S)
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                for _ in range(READERS):
                    await self._permits.acquire()
                if self._idle and not self._bereft:
                    await self._idle[-1][1].run(partial(settle, path=Path(self._path)))
                while self._idle:
                    await self._idle.pop()[0].close()
                await self._readers.dispose()
                await self._writers.dispose()
        except TimeoutError as error:
            raise LedgerError(f"{self._path}: a disk or a lock kept the ledger from closing in time") from error
        finally:
            for _ in range(READERS):
                self._permits.release()

    def _refuse_unusable(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._path}: the ledger is closed")
        if self._pid != os.getpid():
            raise LedgerError(f"{self._path} was opened before this process was forked; open it again in the child")
