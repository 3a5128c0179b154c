"""Who checks the pages of a ledger: this process, or several others at once."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Self

from ledger.audit.checking import Aids, Found, check_page
from ledger.audit.costs import Prices
from ledger.store.beside import Page

__all__ = ["Hands"]


class Hands:
    """Who checks: this process, or several others, each of which imports the program once.

    Args:
        aids: what every stream needs.
        processes: how many others; 0 is this one.
    """

    def __init__(self, aids: Aids, processes: int) -> None:
        self._aids = aids
        self._prices = Prices(aids.texts)
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._begun: set[asyncio.Future[Found]] = set()

    @property
    def under_way(self) -> int:
        """How many pages are worth having under way at once."""
        return 1 + self._processes

    def check(self, page: Page) -> asyncio.Future[Found]:
        """Begin to check some streams."""
        if self._processes:
            task = asyncio.ensure_future(self._elsewhere(page))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)
            return task
        done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        done.set_result(self._here(page))
        return done

    def _here(self, page: Page) -> Found:
        return check_page(page, self._aids, self._prices)

    async def _elsewhere(self, page: Page) -> Found:
        """Check in another process; one that was killed, for want of memory it may be, leaves its work to this one."""
        if self._pool is None:
            # Not forked: the store's threads would not be there in the child.
            spawned = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, spawned, _begin, (self._aids,))
        try:
            with _uninterrupted():
                checked = asyncio.get_running_loop().run_in_executor(self._pool, _check, page)
            return await checked
        except BrokenProcessPool:
            return self._here(page)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._begun:
            task.cancel()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # what runs is a batch: a part of a second


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start processes that no SIGINT reaches, from their first instant on: a terminal tells it to all, we decide."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_mine: Final[list[tuple[Aids, Prices]]] = []
"""What this process, one of several, was given."""


def _begin(aids: Aids) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mine[:] = [(aids, Prices(aids.texts))]
    gc.freeze()  # what was imported stays


def _check(page: Page) -> Found:
    return check_page(page, *_mine[0])
