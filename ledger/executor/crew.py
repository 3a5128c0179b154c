"""Working on what no living worker has: claimed from the ledger, a few at a time, until stopped or none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from ledger.errors import DispatchError, LedgerBusy
from ledger.executor.presence import Others, Sign
from ledger.executor.recovery import settle_the_dead
from ledger.executor.transact import Desk

__all__ = ["Crew"]

CLAIM_MS: Final = 15_000
"""How long a claim keeps others away from a task that is about to be begun; it is renewed at every look with room."""
LOOK_S: Final = 0.25
IDLE_S: Final = 0.1
"""How long a task is left alone for which nothing could be done, though it was there to be claimed."""
DRAIN_S: Final = 30.0
"""How long, after the ledger failed one task, the others may still bring in answers that are paid for."""
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
        rested: tasks that came to rest since an attempt was given up here; emptied as they are told.
        on_away: told when a ledger that was there is locked or out of reach; without ``drain`` it is waited for.
        ownerless: also take tasks that never had an owner.
    """

    def __init__(
        self,
        desk: Desk,
        others: Others,
        drive: Callable[[str], Awaitable[T | None]],
        rested: list[str],
        *,
        most: int,
        ownerless: bool,
        on_away: Callable[[LedgerBusy], object] | None = None,
    ) -> None:
        self._desk = desk
        self._others = others
        self._drive = drive
        self._rested = rested
        self._most = most
        self._ownerless = ownerless
        self._on_away = on_away
        self._away = False
        self._running: dict[str, asyncio.Task[T | None]] = {}
        self._idle: dict[str, float] = {}
        """Until when, by the loop's clock, a task is left alone."""
        self._given_back: set[str] = set()
        """Tasks of ours that had to wait: without any, our own are worth a look only at the beginning."""
        self._begun = False
        self._swept_s = 0.0

    async def work(self, *, drain: bool, stop: asyncio.Event, on_finished: Callable[[T], object] | None) -> None:
        """Work until ``stop`` is set, or with ``drain`` until none is left; then see what is under way to its end.

        What drives a task has to begin nothing new once ``stop`` is set.

        Cancelled, it ends what is under way, each recorded as interrupted.

        Raises:
            DispatchError: the ledger or the configuration cannot be used; what else is under way is ended first, within
                a bound.
        """
        try:
            while not stop.is_set():
                try:
                    left = await self._looked()
                    if drain and not left:
                        break
                    await self._wait(stop)
                    self._tell(on_finished)
                    self._away = False
                except LedgerBusy as error:
                    self._wait_out(error, drain=drain)
                    await self._wait(stop)
            while self._running:
                await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
                self._tell(on_finished)
        except DispatchError:
            stop.set()
            if self._running:
                await asyncio.wait(self._running.values(), timeout=DRAIN_S)
            raise
        finally:
            await self._end()

    async def _looked(self) -> bool:
        """Look for tasks and begin some; say whether anything is left to do."""
        owners = await self._owners()
        if not (owners or self._running or self._rested):
            self._others.renew()  # whoever has died since the last look lived by that
            owners = await self._owners()
        await self._take(owners)
        self._begun = True
        return bool(owners or self._running)

    def _wait_out(self, error: LedgerBusy, *, drain: bool) -> None:
        """Go on trying a ledger that is away for a while: what it took a minute to restart needs no new workers.

        Raises:
            LedgerBusy: somebody waits for this to end.
        """
        if drain:
            raise error
        if not self._away and self._on_away is not None:
            self._on_away(error)
        self._away = True

    async def _owners(self) -> list[str | None]:
        """Return whose tasks may be taken: the dead ones', our own that wait, nobody's where that is our job."""
        clock = asyncio.get_running_loop().time()
        if not self._swept_s or clock - self._swept_s > SWEEP_S:
            self._rested += await settle_the_dead(self._desk, self._others)
            self._swept_s = clock
        found = await self._desk.store.owners()
        return [owner for owner in found if await self._may_take(owner)]

    async def _may_take(self, owner: str | None) -> bool:
        if owner is None:
            return self._ownerless
        if owner == self._desk.worker:
            return bool(self._given_back) or not self._begun
        return await self._others.sign(owner) is not Sign.LIVES

    async def _take(self, owners: list[str | None]) -> None:
        while self._rested:
            self._begin(self._rested.pop())  # nothing is left to do there but to tell
        room = self._most - len(self._running)
        if room <= 0 or not owners:
            return
        clock = asyncio.get_running_loop().time()
        self._idle = {task_id: until for task_id, until in self._idle.items() if until > clock}
        busy = {*self._running, *self._idle}
        claimed = await self._desk.store.claim(self._desk.worker, owners, room + len(busy), CLAIM_MS)
        for task_id in [task_id for task_id in claimed if task_id not in busy][:room]:
            self._begin(task_id)

    def _begin(self, task_id: str) -> None:
        self._given_back.discard(task_id)
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
            await asyncio.wait({stopped})

    def _tell(self, on_finished: Callable[[T], object] | None) -> None:
        for task_id, task in [(task_id, task) for task_id, task in self._running.items() if task.done()]:
            del self._running[task_id]
            self._given_back.add(task_id)  # also where the ledger was away: it is ours, and nobody else takes it
            finished = task.result()
            if finished is None:
                self._idle[task_id] = asyncio.get_running_loop().time() + IDLE_S
                continue
            self._given_back.discard(task_id)
            if on_finished is not None:
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
