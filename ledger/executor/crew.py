"""Working on what no living worker has: claimed from the ledger, a few at a time, until stopped or none is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from ledger.executor.presence import Others, Sign
from ledger.executor.recovery import settle_the_dead
from ledger.executor.transact import Desk

__all__ = ["Crew"]

CLAIM_MS: Final = 60_000
"""How long a claim keeps others away from a task that is about to be begun; it is renewed at every look."""
LOOK_S: Final = 0.25
SWEEP_S: Final = 5.0
"""How often other workers' deaths are looked for."""

T = TypeVar("T")


class Crew(Generic[T]):
    """Takes tasks without a living owner and drives each until it ends, is held, or has to wait.

    A task that waits for its backoff goes back to the ledger and is claimed again when it is due.

    Args:
        desk: this worker's.
        others: who else lives.
        drive: works on a task; what it returns is told when the task has ended or is held, None says that it is not.
        most: tasks under way at once.
        ownerless: also take tasks that never had an owner.
    """

    def __init__(
        self,
        desk: Desk,
        others: Others,
        drive: Callable[[str], Awaitable[T | None]],
        *,
        most: int,
        ownerless: bool,
    ) -> None:
        self._desk = desk
        self._others = others
        self._drive = drive
        self._most = most
        self._ownerless = ownerless
        self._running: dict[str, asyncio.Task[T | None]] = {}
        self._swept_s = 0.0

    async def work(self, *, drain: bool, stop: asyncio.Event, on_finished: Callable[[T], object] | None) -> None:
        """Work until ``stop`` is set, or with ``drain`` until none is left; then see what is under way to its end.

        Cancelled, it ends what is under way, each recorded as interrupted.

        Raises:
            DispatchError: the ledger or the configuration cannot be used; what else is under way is ended first.
        """
        try:
            while not stop.is_set():
                owners = await self._owners()
                if drain and not owners and not self._running:
                    break
                await self._take(owners)
                await self._wait(stop)
                self._tell(on_finished)
            while self._running:
                await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
                self._tell(on_finished)
        finally:
            await self._end()

    async def _owners(self) -> list[str | None]:
        """Return whose tasks may be taken: the dead ones', our own that wait, nobody's where that is our job."""
        clock = asyncio.get_running_loop().time()
        if not self._swept_s or clock - self._swept_s > SWEEP_S:
            await settle_the_dead(self._desk, self._others)
            self._swept_s = clock
        found = await self._desk.store.owners()
        return [owner for owner in found if await self._may_take(owner)]

    async def _may_take(self, owner: str | None) -> bool:
        if owner is None:
            return self._ownerless
        return owner == self._desk.worker or await self._others.sign(owner) is not Sign.LIVES

    async def _take(self, owners: list[str | None]) -> None:
        room = self._most - len(self._running)
        if room <= 0 or not owners:
            return
        claimed = await self._desk.store.claim(self._desk.worker, owners, room + len(self._running), CLAIM_MS)
        for task_id in [task_id for task_id in claimed if task_id not in self._running][:room]:
            self._running[task_id] = asyncio.create_task(self._driven(task_id))

    async def _driven(self, task_id: str) -> T | None:
        return await self._drive(task_id)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Wait until something has ended, the stop, or the next look."""
        stopped = asyncio.create_task(stop.wait())
        try:
            waited = {*self._running.values(), stopped}
            await asyncio.wait(waited, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopped

    def _tell(self, on_finished: Callable[[T], object] | None) -> None:
        for task_id, task in [(task_id, task) for task_id, task in self._running.items() if task.done()]:
            del self._running[task_id]
            finished = task.result()
            if finished is not None and on_finished is not None:
                on_finished(finished)

    async def _end(self) -> None:
        """End what is still under way; each task records that it was interrupted, within its own bound."""
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())
        for task in self._running.values():
            if not task.cancelled():
                task.exception()  # looked at: the first error is on its way to the caller already
        self._running.clear()
