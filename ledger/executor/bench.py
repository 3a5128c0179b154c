"""What an executor works with in one event loop; it begins by saying that it lives and by taking in what was left."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.executor.brakes import Brakes
from ledger.executor.gate import Gate
from ledger.executor.pool import Pool
from ledger.executor.presence import Heartbeat, HostLock, Others
from ledger.executor.recovery import settle_the_dead
from ledger.executor.spill import bring_in
from ledger.executor.transact import Desk
from ledger.handle import Ledger
from ledger.ports import Ports
from ledger.registry import ModelRegistry

__all__ = ["Bench", "Benches"]

SET_UP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Bench:
    """One worker's tools; nothing here outlives the process."""

    desk: Desk
    pool: Pool
    others: Others
    brakes: Brakes
    heartbeat: Heartbeat
    folder: Path | None
    """Where this host keeps what stands beside the ledger: locks, and answers that it would not take."""
    gate: Gate = field(default_factory=Gate)
    doors: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By provider: who asks the ledger for a place among its calls."""

    @classmethod
    async def set_up(cls, ledger: Ledger, ports: Ports, pool: Pool, registry: ModelRegistry, lock: HostLock) -> Bench:
        """Open the ledger, say that this worker lives, record what was spilled and what dead workers had in flight.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        store, folder = await ledger.store(), await ledger.nearby()
        desk = Desk(store, ports, lock.worker)
        others = Others(lock.worker, store, folder, ports)
        lock.take(folder)
        heartbeat = Heartbeat(lock.worker, store)
        await heartbeat.start()
        try:
            if folder is not None:
                await bring_in(desk, folder)
            await settle_the_dead(desk, others)
        except BaseException:
            await heartbeat.stop()
            raise
        return cls(desk, pool, others, Brakes(desk, registry.breakers()), heartbeat, folder)


class Benches:
    """The benches of one executor, one in each event loop that it is used in, set up at the first use there."""

    def __init__(self, ledger: Ledger, ports: Ports, pool: Pool, registry: ModelRegistry, worker: str) -> None:
        self._made_of = (ledger, ports, pool, registry)
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
            setting_up = self._here[loop] = asyncio.create_task(Bench.set_up(*self._made_of, self._lock))
        return setting_up.result() if setting_up.done() else await asyncio.shield(setting_up)

    async def leave(self) -> None:
        """Take back that this worker lives."""
        setting_up = self._here.pop(asyncio.get_running_loop(), None)
        if setting_up is not None:
            await asyncio.wait({setting_up}, timeout=SET_UP_S)
            if setting_up.done() and not _failed(setting_up):
                await setting_up.result().heartbeat.stop()
        self._lock.release()


def _failed(task: asyncio.Task[Bench]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
