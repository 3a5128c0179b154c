"""The one writer of a store: it takes waiting appends in groups, one transaction each, and answers after COMMIT."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledger.envelope import Append, Stream
from ledger.errors import DispatchError, LedgerError
from ledger.store.sqlite_append import append_group
from ledger.store.sqlite_connection import OneHop, checked_out
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from ledger.store.sqlite_witness import arm
from ledger.store.waiting import Patience

__all__ = ["Writer"]

T = TypeVar("T")

GROUP_MAX: Final = 48
"""Appends in one transaction; without a cap all callers march in step and wait for the slowest."""
GROUP_WHOLE: Final = 32
"""Up to here all that wait go together, of more only half: while one half is written the other half calls."""
LOOK_AHEAD: Final = 4 * GROUP_MAX
"""Waiting appends looked through for a group; those of a stream that is in the group already are passed over."""
MARK_AFTER: Final = 5000
"""Pages in the log until it is written back with the mark: before SQLite does it by itself, without one."""
PAGES_OF_GROUP: Final = 24
PAGES_OF_APPEND: Final = 3
"""What a transaction adds to the log, and each append in it besides its texts: as measured, rounded up."""
PAGE: Final = 4096
YIELD_MAX_S: Final = 0.002
"""The most that a writer leaves the lock to other processes after it had to wait for them."""
CONTENDED_FOR_S: Final = 1.0


class Waiting(NamedTuple):
    """An append and whom to tell."""

    append: Append
    told: asyncio.Future[Stream]
    since_s: float


class Work(NamedTuple):
    """A function for a transaction of its own, and whom to tell."""

    run: Callable[[sqlite3.Connection, int], Any]
    told: asyncio.Future[Any]
    since_s: float
    bare: bool
    """In no transaction."""


class Writer:
    """All that one process writes to one file."""

    def __init__(self, engine: AsyncEngine, path: str, now_ms: Callable[[], int], busy_deadline_s: float) -> None:
        self._engine = engine
        self._path = path
        self._now_ms = now_ms
        self._busy_deadline_s = busy_deadline_s
        self._waiting: deque[Waiting] = deque()
        self._works: deque[Work] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connection: tuple[AsyncConnection, OneHop] | None = None
        self._closing = False
        self._contended_until_s = 0.0
        self._unmarked = 0

    async def append(self, append: Append) -> Stream:
        """Hand over an append and wait for its fate; once handed over it is written whatever becomes of the caller."""
        told: asyncio.Future[Stream] = self._promised()
        self._waiting.append(Waiting(append, told, time.monotonic()))
        self._wake.set()
        return await told

    async def run(self, work: Callable[[sqlite3.Connection, int], T], *, bare: bool = False) -> T:
        """Run a function of the connection and the instant in a transaction of its own, or none, between two groups."""
        told: asyncio.Future[T] = self._promised()
        self._works.append(Work(work, told, time.monotonic(), bare))
        self._wake.set()
        return await told

    def _promised(self) -> asyncio.Future[Any]:
        if self._closing:
            raise LedgerError("the ledger is closed")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ledger-writer")
        return asyncio.get_running_loop().create_future()

    async def aclose(self, within_s: float) -> None:
        """Write what waits, then stop; what is not written within the bound is refused."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=within_s)
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=within_s)
        untold: list[Waiting | Work] = [*self._waiting, *self._works]
        self._tell_all(untold, LedgerError("the ledger was closed before this could be written"))
        if self._connection is not None:
            (connection, _), self._connection = self._connection, None
            await connection.close()

    async def _run(self) -> None:
        while self._waiting or self._works or not self._closing:
            if self._works:
                await self._do(self._works.popleft())
            elif not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            if not self._waiting:
                continue
            await self._write(self._next_group())
            if self._unmarked >= MARK_AFTER:
                await self._mark()
            if time.monotonic() < self._contended_until_s:
                await asyncio.sleep(random.uniform(0, YIELD_MAX_S))  # noqa: S311 - fairness, not secrecy

    def _next_group(self) -> list[Waiting]:
        """Take, in order, appends of streams and keys that differ: two of one stream go one after the other."""
        group: list[Waiting] = []
        passed_over: list[Waiting] = []
        taken: set[str | bytes | None] = set()
        most = min(GROUP_MAX, max(GROUP_WHOLE, len(self._waiting) // 2))
        while self._waiting and len(group) < most and len(passed_over) < LOOK_AHEAD:
            waiting = self._waiting.popleft()
            names: set[str | bytes | None] = {waiting.append.task_id, waiting.append.key_digest} - {None}
            if names & taken:
                passed_over.append(waiting)
            else:
                group.append(waiting)
            taken |= names  # also of one passed over: a later append of its stream must not overtake it
        self._waiting.extendleft(reversed(passed_over))
        return group

    async def _write(self, group: Sequence[Waiting]) -> None:
        """Write a group, again and again while the file is locked; tell everybody."""
        appends = [waiting.append for waiting in group]
        with self._telling(group):
            outcomes = await self._written(partial(append_group, appends=appends), group[0].since_s)
            self._unmarked += _pages(appends)
            for waiting, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, DispatchError):
                    self._tell_all((waiting,), outcome)
                elif not waiting.told.done():
                    waiting.told.set_result(outcome)

    async def _mark(self) -> None:
        """Write the log back into the file, which says then that it is nothing without its log."""
        with self._telling(()):  # nobody asked for it; where the file is locked the next group tries again
            connection = await self._driver()
            await connection.run(partial(arm, now_ms=self._now_ms()))
            self._unmarked = 0

    async def _do(self, work: Work) -> None:
        """Do one work, again and again while the file is locked; tell who asked for it."""
        with self._telling((work,)):
            run = work.run if work.bare else partial(_in_transaction, work=work.run)
            result = await self._written(run, work.since_s)
            if not work.told.done():
                work.told.set_result(result)

    @contextmanager
    def _telling(self, group: Sequence[Waiting | Work]) -> Iterator[None]:
        """Tell everybody what keeps the block from its end."""
        try:
            yield
        except DispatchError as error:
            self._tell_all(group, error)
        except asyncio.CancelledError:
            self._tell_all(group, LedgerError("the ledger was closed while this was being written"))
            raise
        except Exception as error:  # noqa: BLE001 - told to every caller; the writer lives on for the next group
            self._tell_all(group, LedgerError(f"{self._path}: the writer failed: {error!r}"))

    async def _written(self, write: Callable[..., T], since_s: float) -> T:
        patience = Patience(self._busy_deadline_s - (time.monotonic() - since_s))
        while True:
            try:
                connection = await self._driver()
                return await connection.run(partial(write, now_ms=self._now_ms()))
            except sqlite3.Error as error:
                if not is_busy(error) or patience.is_over():
                    raise as_ledger_error(error, self._path) from error
            self._contended_until_s = time.monotonic() + CONTENDED_FOR_S
            await patience.wait()

    async def _driver(self) -> OneHop:
        if self._connection is None:
            self._connection = await checked_out(self._engine)
        return self._connection[1]

    def _tell_all(self, group: Sequence[Waiting | Work], error: DispatchError) -> None:
        for waiting in group:
            if not waiting.told.done():
                waiting.told.set_exception(error)


def _pages(appends: Sequence[Append]) -> int:
    """Return about how many pages a group adds to the log."""
    texts = sum(len(payload.content) for append in appends for payload in append.payloads)
    return PAGES_OF_GROUP + PAGES_OF_APPEND * len(appends) + texts // PAGE


def _in_transaction(database: sqlite3.Connection, now_ms: int, work: Callable[[sqlite3.Connection, int], T]) -> T:
    """Run a function under the write lock; what it has written is durable or, if it fails, gone."""
    try:
        database.execute("BEGIN IMMEDIATE")
        result = work(database, now_ms)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return result
