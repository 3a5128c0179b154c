"""Who may be in flight beside whom, within one process and among those that share a provider's places."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import NamedTuple

__all__ = ["Door", "Gate"]


class _Waiting(NamedTuple):
    alone: bool
    let_in: asyncio.Future[None]


class Gate:
    """Lets many be in flight together, or one alone, in the order in which they came; for one event loop.

    A task whose worker died runs alone, so that it can take nobody with it.
    """

    def __init__(self) -> None:
        self._together = 0
        self._alone = False
        self._waiting: deque[_Waiting] = deque()

    def passed(self, *, alone: bool) -> _Passage:
        """Be in flight for the length of an ``async with`` block."""
        return _Passage(self, alone=alone)

    async def enter(self, *, alone: bool) -> None:
        """Wait until one may be in flight, and be."""
        if self._waiting or not self._lets(alone=alone):
            await self._wait(alone=alone)
        else:
            self._enter(alone=alone)

    def leave(self, *, alone: bool) -> None:
        """Be in flight no more."""
        self._alone = self._alone and not alone
        self._together -= not alone
        self._let_in()

    async def _wait(self, *, alone: bool) -> None:
        waiting = _Waiting(alone, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            await waiting.let_in
        except asyncio.CancelledError:
            if waiting.let_in.done() and not waiting.let_in.cancelled():
                self.leave(alone=alone)  # let in and ended at the same instant
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
                self._let_in()
            raise

    def _lets(self, *, alone: bool) -> bool:
        return not self._alone and not (alone and self._together)

    def _enter(self, *, alone: bool) -> None:
        self._alone = alone
        self._together += not alone

    def _let_in(self) -> None:
        while self._waiting and self._lets(alone=self._waiting[0].alone):
            waiting = self._waiting.popleft()
            if not waiting.let_in.done():  # else it was cancelled, and is about to take itself off the list
                self._enter(alone=waiting.alone)
                waiting.let_in.set_result(None)


class _Passage:
    """A block in flight; a class, since a generator for each attempt costs the loop more."""

    def __init__(self, gate: Gate, *, alone: bool) -> None:
        self._gate = gate
        self._alone = alone

    async def __aenter__(self) -> None:
        await self._gate.enter(alone=self._alone)

    async def __aexit__(self, *error: object) -> None:
        self._gate.leave(alone=self._alone)


class Door:
    """Where those queue, in their order, who found all of a provider's places taken; for one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._knocked = asyncio.Event()

    @property
    def is_queued_at(self) -> bool:
        """Somebody has the turn already."""
        return self._turn.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the one who asks, for the length of the block."""
        async with self._turn:
            self._knocked.clear()
            yield

    def knock(self) -> None:
        """Say that one of our own has given a place back."""
        self._knocked.set()

    async def wait(self, pause: Awaitable[None]) -> None:
        """Wait for a pause, or until one of our own gives a place back."""
        pausing, knocked = asyncio.ensure_future(pause), asyncio.ensure_future(self._knocked.wait())
        try:
            await asyncio.wait({pausing, knocked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._knocked.clear()
            pausing.cancel()
            knocked.cancel()
