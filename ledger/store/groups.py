"""Group commit: appends that wait are written together, one group at a time, whatever becomes of their callers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from ledger.envelope import Append, Stream
from ledger.errors import DispatchError, LedgerError

__all__ = ["Groups", "Outcome"]

GROUP_MAX: Final = 48
"""Appends in one transaction; without a cap all callers march in step and wait for the slowest."""
GROUP_WHOLE: Final = 16
"""Up to here all that wait go together, of more only half: while one half is written the other half calls."""
LOOK_AHEAD: Final = 4 * GROUP_MAX
"""Waiting appends looked through for a group; those of a stream that is in the group already are passed over."""

Outcome = Stream | DispatchError

Write = Callable[[Sequence[Append], float], Awaitable[Sequence[Outcome]]]
"""Writes a group and returns each one's fate; raises what befalls the group as a whole."""


Name = str | bytes
"""Of a stream or a key: what two groups may not share."""


class Waiting(NamedTuple):
    """An append and whom to tell."""

    append: Append
    told: asyncio.Future[Stream]
    since_s: float

    def names(self) -> set[Name]:
        """Return what nobody else may be writing meanwhile."""
        digest = self.append.key_digest
        return {self.append.task_id} if digest is None else {self.append.task_id, digest}

    def places(self) -> set[Name]:
        """Return what may be in one group several times, but not in two: of a few places left the first get them."""
        limits = [f"places of {limit.provider}" for limit in self.append.limits]
        return {*limits, *(f"cap {cap.name}" for cap in self.append.caps if not cap.of_task)}


class Groups:
    """Takes appends, and hands them in groups to the one who writes.

    Args:
        write: writes a group of appends, each of another stream and key; it is also given how long the first of them
            has waited, in seconds.
        name: of the ledger, for messages.
        at_once: how many groups are written at a time; no two of them are of one stream or key.
    """

    def __init__(self, write: Write, name: str, at_once: int = 1) -> None:
        self._write = write
        self._name = name
        self._at_once = at_once
        self._waiting: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._under_way: set[Name] = set()
        self._closing = False

    async def append(self, append: Append) -> Stream:
        """Hand over an append and wait for its fate; once handed over it is written whatever becomes of the caller."""
        if self._closing:
            raise LedgerError("the ledger is closed")
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="ledger-writer")
        told: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        self._waiting.append(Waiting(append, told, time.monotonic()))
        self._wake.set()
        return await told

    async def aclose(self, within_s: float) -> None:
        """Write what waits, then stop; what is not written within the bound is refused."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=within_s)
            under_way = {self._task, *self._writing}
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way, timeout=within_s)
        _tell_all(list(self._waiting), LedgerError("the ledger was closed before this append could be written"))

    async def _run(self) -> None:
        while self._waiting or not self._closing:
            group = self._next_group() if len(self._writing) < self._at_once else []
            if group:
                self._begin(group)
            else:
                self._wake.clear()
                await self._wake.wait()
        if self._writing:
            await asyncio.wait(self._writing)

    def _begin(self, group: Sequence[Waiting]) -> None:
        names: set[Name] = set().union(*(waiting.names() | waiting.places() for waiting in group))
        self._under_way |= names
        task = asyncio.create_task(self._write_one(group), name="ledger-group")
        self._writing.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._writing.discard(task)
            self._under_way -= names
            self._wake.set()

        task.add_done_callback(ended)

    def _next_group(self) -> list[Waiting]:
        """Take, in order, appends of streams and keys that differ: two of one stream go one after the other."""
        group: list[Waiting] = []
        passed_over: list[Waiting] = []
        taken = set(self._under_way)
        most = min(GROUP_MAX, max(GROUP_WHOLE, len(self._waiting) // 2))
        while self._waiting and len(group) < most and len(passed_over) < LOOK_AHEAD:
            waiting = self._waiting.popleft()
            names = waiting.names()
            waits = names & taken or waiting.places() & self._under_way
            (passed_over if waits else group).append(waiting)
            taken |= names  # also of one passed over: a later append of its stream must not overtake it
        self._waiting.extendleft(reversed(passed_over))
        return group

    async def _write_one(self, group: Sequence[Waiting]) -> None:
        """Have a group written and tell everybody."""
        appends = [waiting.append for waiting in group]
        try:
            outcomes = await self._write(appends, time.monotonic() - group[0].since_s)
        except DispatchError as error:
            _tell_all(group, error)
        except asyncio.CancelledError:
            _tell_all(group, LedgerError("the ledger was closed while this append was being written"))
            raise
        except Exception as error:  # noqa: BLE001 - told to every caller; the writer lives on for the next group
            _tell_all(group, LedgerError(f"{self._name}: the writer failed: {error!r}"))
        else:
            for waiting, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, DispatchError):
                    _tell_all((waiting,), outcome)
                elif not waiting.told.done():
                    waiting.told.set_result(outcome)


def _tell_all(group: Sequence[Waiting], error: DispatchError) -> None:
    for waiting in group:
        if not waiting.told.done():
            waiting.told.set_exception(error)
