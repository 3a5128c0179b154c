"""Checking streams with what stands beside them: pure, so that it can be done on several processors at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Self

from ledger.audit.brakes import breaker_problems
from ledger.audit.costs import Prices, cost_problems
from ledger.audit.streams import chain_problems, history_problems, projection_problems
from ledger.audit.texts import key_digest, payload_problems
from ledger.envelope import Stream
from ledger.store.beside import Side
from ledger.store.protocol import Problem

__all__ = ["Aids", "Batch", "Found", "Hands", "check_streams", "event_problems"]

Batch = Sequence[tuple[Stream, Side]]


@dataclass(frozen=True, slots=True)
class Aids:
    """What is read once and then needed at every stream."""

    salt: bytes | None
    """That of the keys; None where it is gone."""
    texts: Mapping[str, str]
    """The price books, by digest."""


@dataclass(slots=True)
class Found:
    """What was found in some streams."""

    problems: list[Problem] = field(default_factory=list)
    lost_keys: list[tuple[Stream, bytes]] = field(default_factory=list)
    """Tasks that their key does not name; whom it names is to be looked up."""


def event_problems(stream: Stream) -> list[Problem]:
    """Check what the events say for themselves."""
    return [*chain_problems(stream), *history_problems(stream), *breaker_problems(stream)]


def check_streams(batch: Batch, salt: bytes | None, prices: Prices) -> Found:
    """Check streams and what stood beside each at the same instant."""
    found = Found()
    for stream, side in batch:
        task_id = stream[0].task_id
        found.problems += event_problems(stream)
        found.problems += projection_problems(task_id, stream, side.projected)
        found.problems += payload_problems(task_id, stream, side.payloads)
        found.problems += cost_problems(stream, side.payloads, prices)
        expected = None if salt is None else key_digest(stream, side.payloads, salt)
        if expected is not None and expected not in side.keys:
            found.lost_keys.append((stream, expected))
        if salt is not None and set(side.keys) - {expected}:
            found.problems.append(Problem("key", task_id, 1, "a key that is not this task's own names it"))
    return found


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
        """How many batches are worth having under way at once."""
        return 1 + self._processes

    def check(self, batch: Batch) -> asyncio.Future[Found]:
        """Begin to check some streams."""
        if self._processes:
            task = asyncio.ensure_future(self._elsewhere(batch))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)
            return task
        done: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        done.set_result(self._here(batch))
        return done

    def _here(self, batch: Batch) -> Found:
        return check_streams(batch, self._aids.salt, self._prices)

    async def _elsewhere(self, batch: Batch) -> Found:
        """Check in another process; one that was killed, for want of memory it may be, leaves its work to this one."""
        if self._pool is None:
            # Not forked: the store's threads would not be there in the child.
            spawned = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, spawned, _begin, (self._aids,))
        try:
            with _uninterrupted():
                checked = asyncio.get_running_loop().run_in_executor(self._pool, _check, batch)
            return await checked
        except BrokenProcessPool:
            return self._here(batch)

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


_mine: Final[list[tuple[bytes | None, Prices]]] = []
"""What this process, one of several, was given."""


def _begin(aids: Aids) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _mine[:] = [(aids.salt, Prices(aids.texts))]


def _check(batch: Batch) -> Found:
    return check_streams(batch, *_mine[0])
