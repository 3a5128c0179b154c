"""What the hosts of a world share: the store, and the way to the provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clients.base import ExecutionResult, ModelClient, OnText
from ledger import Ledger
from ledger.envelope import Append, Stream
from ledger.errors import LedgerFull
from ledger.handle import Nearby
from ledger.ports import Ports
from ledger.store.memory import MemoryStore
from ledger.store.protocol import Projected, Store
from tests.simulation.machine import Folder

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["SimClient", "SimLedger", "SimStore"]


class SimStore(MemoryStore):
    """The memory store on a disk that can be full, with a point before and after each commit."""

    def __init__(self, world: World) -> None:
        super().__init__(now_ms=world.now_ms)
        self._key_salt = bytes(32)
        self._world = world
        self._checked = 0

    async def append(self, append: Append) -> Stream:
        """Append, and have what was added checked before anything else can happen."""
        await self._before_commit()
        stream = await super().append(append)
        fresh, self._checked = self._events[self._checked :], len(self._events)
        if fresh:
            self._world.committed(append, fresh)
        await self._world.point("after commit")
        return stream

    async def beat(self, worker: str) -> None:
        """Beat, if the disk has room for it."""
        await self._before_commit()
        await super().beat(worker)

    async def claim(self, worker: str, owners: Sequence[str | None], limit: int, for_ms: int) -> Sequence[str]:
        """Claim, likewise."""
        await self._before_commit()
        return await super().claim(worker, owners, limit, for_ms)

    async def leave(self, worker: str) -> None:
        """Leave, likewise."""
        await self._before_commit()
        await super().leave(worker)

    async def _before_commit(self) -> None:
        await self._world.point("before commit")
        if self._world.full:
            raise LedgerFull("the disk is full")

    def standing(self, task_id: str) -> tuple[Stream, Projected]:
        """Return a task as it stands, for whoever cannot wait for a turn."""
        changes = self._projected[task_id]
        rows = Projected(
            tasks=() if changes.task is None else (changes.task,),
            attempts=tuple(changes.attempts[number] for number in sorted(changes.attempts)),
            decisions=tuple(changes.decisions),
            validations=tuple(changes.validations),
            task_labels=tuple(changes.task_labels),
        )
        return tuple(self._streams[task_id]), rows


class SimLedger(Ledger):
    """The ledger as a host holds it."""

    def __init__(self, store: Store, ports: Ports, machine: Folder) -> None:
        super().__init__("simulated", ports=ports)
        self._shared = store
        self._machine = machine

    async def store(self) -> Store:
        """Return the one store of the world."""
        return self._shared

    async def nearby(self) -> Nearby:
        """Return the machine's folder, which is as much of a path as is asked of it."""
        folder = cast("Path", self._machine)
        return Nearby(locks=folder, spills=folder)

    async def aclose(self) -> None:
        """Leave it to the others."""


@dataclass
class SimClient(ModelClient):
    """A client on a host; the provider behind it is the world's."""

    world: World
    model: str

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Make a request."""
        return await self.world.request(self.model, prompt, timeout_s or 5.0, judge=schema is not None)
