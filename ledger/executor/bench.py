"""What an executor works with in one event loop; it begins by saying that it lives and by taking in what was left."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ledger.executor.books import Books
from ledger.executor.brakes import Brakes
from ledger.executor.budgets import Budgets
from ledger.executor.gate import Door, Gate
from ledger.executor.pool import Pool
from ledger.executor.presence import Heartbeat, HostLock, Others
from ledger.executor.recovery import settle_the_dead
from ledger.executor.spill import bring_in
from ledger.executor.transact import Desk
from ledger.handle import Ledger
from ledger.ports import Ports
from ledger.registry import ModelRegistry
from ledger.telemetry import Telemetry

__all__ = ["Bench", "Benches", "MadeOf"]

SET_UP_S: Final = 20.0
SWEEP_S: Final = 2.0
"""How often those who wait for a place look whether the ones who have it still live."""


class MadeOf(NamedTuple):
    """What an executor gives to the bench of each of its event loops."""

    ledger: Ledger
    ports: Ports
    pool: Pool
    registry: ModelRegistry
    telemetry: Telemetry | None


@dataclass(frozen=True, slots=True)
class Bench:
    """One worker's tools; nothing here outlives the process."""

    desk: Desk
    pool: Pool
    others: Others
    brakes: Brakes
    books: Books
    heartbeat: Heartbeat
    folder: Path | None
    """Where answers are kept that the ledger would not take."""
    rested: list[str]
    """Tasks that ended, or wait for a person, since an attempt was given up here that a dead worker had in flight."""
    budgets: Budgets = field(default_factory=Budgets)
    telemetry: Telemetry | None = None
    gate: Gate = field(default_factory=Gate)
    doors: defaultdict[str, Door] = field(default_factory=lambda: defaultdict(Door))
    """By provider: who asks the ledger for a place among its calls."""
    swept: list[float] = field(default_factory=list)
    """When somebody who waits for a place last looked, by the loop's clock."""

    def now_ms(self) -> int:
        """Return the ledger's clock, as far as this host knows it: what others judge leases by."""
        return self.desk.ports.now_ms() + self.heartbeat.ahead_ms

    async def sweep(self) -> None:
        """Record what dead workers have in flight, every few seconds at most: it takes up places and keeps trials away.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        clock = asyncio.get_running_loop().time()
        if not self.swept or clock - self.swept[-1] > SWEEP_S:
            self.swept[:] = [clock]
            self.rested.extend(await settle_the_dead(self.desk, self.others))

    @classmethod
    async def set_up(cls, made_of: MadeOf, lock: HostLock) -> Bench:
        """Open the ledger, say that this worker lives, record what was spilled and what dead workers had in flight.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        ledger, ports, pool, registry, telemetry = made_of
        store, (locks, folder) = await ledger.store(), await ledger.nearby()
        desk = Desk(store, ports, lock.worker)
        others = Others(lock.worker, store, locks, ports)
        lock.take(locks)
        heartbeat = Heartbeat(lock.worker, store, ports)
        await heartbeat.start()
        try:
            if folder is not None:
                await bring_in(desk, folder)
            rested = await settle_the_dead(desk, others)
        except BaseException:
            await heartbeat.stop()
            raise
        brakes, books = Brakes(desk, registry.breakers()), Books(desk, registry.config.prices)
        budgets = Budgets(registry.config.budget)
        return cls(desk, pool, others, brakes, books, heartbeat, folder, rested, budgets, telemetry)


class Benches:
    """The benches of one executor, one in each event loop that it is used in, set up at the first use there."""

    def __init__(self, made_of: MadeOf, worker: str) -> None:
        self._made_of = made_of
        self._lock = HostLock(worker)
        self._here: dict[asyncio.AbstractEventLoop, asyncio.Task[Bench]] = {}

    async def here(self) -> Bench:
        """Return this event loop's bench; one caller's end does not stop the setting up for the others.

        Raises:
            LedgerError: the ledger cannot be used; the next call tries again.
        """
        loop = asyncio.get_running_loop()
        setting_up = self._here.get(loop)
        if setting_up is None or _failed(setting_up):
            self._here = {other: task for other, task in self._here.items() if not other.is_closed()}
            setting_up = self._here[loop] = asyncio.create_task(Bench.set_up(self._made_of, self._lock))
        return setting_up.result() if setting_up.done() else await asyncio.shield(setting_up)

    async def leave(self) -> None:
        """Take back that this worker lives."""
        setting_up = self._here.pop(asyncio.get_running_loop(), None)
        left = True
        if setting_up is not None:
            setting_up.cancel()
            await asyncio.wait({setting_up}, timeout=SET_UP_S)
            left = setting_up.done()
            if left and not _failed(setting_up):
                left = await setting_up.result().heartbeat.stop()
        self._lock.release(left=left)


def _failed(task: asyncio.Task[Bench]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
