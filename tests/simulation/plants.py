"""Ten bugs, each a small substitution: a simulation that does not find them proves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from unittest.mock import patch

from ledger import commands as c
from ledger import events as e
from ledger import state as states
from ledger.dispatch import decide
from ledger.envelope import Append, Stream
from ledger.evolve import evolve
from ledger.executor import attempt, dispatching, driver, transact
from ledger.executor.presence import Others, Sign
from ledger.executor.requests import Draft
from ledger.state import INITIAL, Absent, Ready, State
from ledger.store.sealing import NEW_STREAM, Head, sealed
from tests.simulation.machine import in_memory
from tests.simulation.shared import SimStore

__all__ = ["PLANTS", "Plant", "planted"]


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug, where it is put, and the rules that may notice it."""

    name: str
    rules: frozenset[str]
    kept: type[SimStore] = SimStore
    put: tuple[tuple[object, str, object], ...] = ()


@contextmanager
def planted(plant: Plant | None) -> Iterator[None]:
    """Work with the bug."""
    with ExitStack() as stack:
        stack.enter_context(in_memory())
        for module, name, value in () if plant is None else plant.put:
            stack.enter_context(patch.object(module, name, value))
        yield


class AcknowledgesEarly(SimStore):
    """Says that a start is durable before it is."""

    async def append(self, append: Append) -> Stream:
        if all(new.event.TYPE != e.AttemptStarted.TYPE for new in append.events):
            return await super().append(append)
        stream = await self.read(append.task_id)
        head = Head(stream[-1].version, stream[-1].recorded_at_ms, stream[-1].hash) if stream else NEW_STREAM
        asyncio.create_task(super().append(append)).add_done_callback(asyncio.Task.exception)
        return (*stream, *(recorded for recorded, _ in sealed(append, head, self._now_ms(), len(self._events))))


class AppendsAnyway(SimStore):
    """Takes what a worker writes that has lost its task."""

    async def append(self, append: Append) -> Stream:
        standing = len(await self.read(append.task_id))
        return await super().append(replace(append, expected_version=standing))


class DecidesLater(SimStore):
    """Writes an outcome, and in another transaction what follows from it."""

    async def append(self, append: Append) -> Stream:
        if not isinstance(append.events[0].event, e.AttemptFailed) or len(append.events) == 1:
            return await super().append(append)
        await super().append(replace(append, events=append.events[:1]))
        rest = replace(append, expected_version=append.expected_version + 1, events=append.events[1:], payloads=())
        return await super().append(rest)


class WaitsInMemory(attempt.Attempt):
    """Waits where it stands after a failure, and tells nobody."""

    __slots__ = ()

    async def first(self, draft: Draft, key: bytes | None) -> Stream:
        return await self._waited(await attempt.Attempt.first(self, draft, key))

    async def next(self, task_id: str, stream: Stream, *, trial: bool = False) -> Stream:
        return await self._waited(await attempt.Attempt.next(self, task_id, stream, trial=trial))

    async def _waited(self, stream: Stream) -> Stream:
        newest = stream[-1].event()
        if isinstance(newest, e.RetryScheduled):
            await self.bench.desk.ports.sleep(newest.wait_ms / 1000)
        return stream


class Step(NamedTuple):
    """An event, and the states before and after it."""

    before: State
    event: e.Event
    after: State


async def hears_nobody(others: Others, worker: str) -> Sign:
    """Take everybody else's life for a silence."""
    return Sign.LIVES if worker == others._worker else Sign.SILENT  # noqa: SLF001 - it stands in for a method


def folding(change: Callable[[Step], State]) -> Callable[..., State]:
    """Return a fold that gets something wrong after each event."""

    def fold(events: Iterable[e.Event], state: State = INITIAL) -> State:
        for event in events:
            state = change(Step(state, event, evolve(state, event)))
        return state

    return fold


def with_task(state: State, **fields: Any) -> State:
    """Return the state of another task."""
    return state if isinstance(state, Absent) else replace(state, task=state.task._replace(**fields))


def reuses(step: Step) -> State:
    """Give an orphan's number out again."""
    match step.event:
        case e.AttemptOrphaned(attempt=number):
            return with_task(step.after, attempts=number - 1)
    return step.after


def forgets_waits(step: Step) -> State:
    """Take a task that waits for one that is ready."""
    return Ready(step.after.task) if isinstance(step.after, states.Waiting) else step.after


def counts_anew(step: Step) -> State:
    """Count orphans from nothing whenever another worker starts."""
    match step:
        case Step(Ready(task=before) | states.Waiting(task=before), e.AttemptStarted(worker=worker)) if (
            worker != before.worker
        ):
            return with_task(step.after, orphans=0)
    return step.after


def never_gives_up(state: State, command: c.Command) -> tuple[e.Event, ...]:
    """Decide as if no orphan had gone before."""
    return decide(with_task(state, orphans=0) if isinstance(command, c.Orphan) else state, command)


def drops_late_answers(state: State, command: c.Command) -> tuple[e.Event, ...]:
    """Decide nothing about an answer that comes after its attempt was given up."""
    events = decide(state, command)
    late = isinstance(command, c.Record) and any(isinstance(event, e.AttemptSettled) for event in events)
    return () if late else events


PLANTS: Final = (
    Plant("call before start", frozenset({"a start before each call", "one call an attempt"}), kept=AcknowledgesEarly),
    Plant(
        "lease ignored",
        frozenset({"a lease stands", "one living worker a task"}),
        put=((driver, "LEASE_GRACE_MS", -(10**9)), (Others, "sign", hears_nobody)),
    ),
    Plant(
        "number reused", frozenset({"no number twice", "nothing is raised"}), put=((transact, "fold", folding(reuses)),)
    ),
    Plant("fence ignored", frozenset({"one outcome an attempt", "no number twice"}), kept=AppendsAnyway),
    Plant("consequence in a second transaction", frozenset({"a consequence in its transaction"}), kept=DecidesLater),
    Plant(
        "backoff in memory",
        frozenset({"no start before its time"}),
        put=((transact, "fold", folding(forgets_waits)), (dispatching, "Attempt", WaitsInMemory)),
    ),
    Plant("clock set back", frozenset({"progress"}), put=((states, "CLOCK_SET_BACK_MS", 10**15),)),
    Plant(
        "poison limit ignored",
        frozenset({"orphans within the limit", "decisions can be asked again"}),
        put=((transact, "decide", never_gives_up),),
    ),
    Plant("late answer dropped", frozenset({"no answer is dropped"}), put=((transact, "decide", drops_late_answers),)),
    Plant(
        "orphan not counted",
        frozenset({"orphans within the limit"}),
        put=((transact, "fold", folding(counts_anew)),),
    ),
)
