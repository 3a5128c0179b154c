"""A task in the hands of two workers who die, come back late or know only what was, compared with a tally by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ledger import commands as c
from ledger import events as e
from ledger.audit import verify
from ledger.envelope import Stream
from ledger.errors import CommandRefused
from ledger.executor.transact import Desk, state_of
from ledger.ports import Ports
from ledger.state import Absent
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_sqlite
from ledger.store.protocol import Store
from tests.contracts.appends import Clock
from tests.histories import failed, orphaned, policy, request, started, step, succeeded
from tests.ledgers import fresh_ledger
from tests.lives import DIGEST, text

T = TypeVar("T")

TASK: Final = "t"
TRIES: Final = (2, 1)
ATTEMPTS: Final = 7
ORPHANS: Final = 2
WORKERS: Final = ("worker:a", "worker:b")
COUNTED: Final = ("succeeded", "failed")
ENDS: Final = ("task.succeeded", "task.failed", "task.cancelled")

workers = st.sampled_from(WORKERS)
seldom = st.integers(0, 4).map(lambda drawn: drawn == 4)


class TaskMachine(RuleBasedStateMachine):
    """Sends commands as two workers would, and counts what was accepted."""

    on_disk: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = Clock()
        self.ids = 0
        self.desks: dict[str, Desk] = {}
        self.views: dict[str, Stream] = {}
        """What each worker saw last."""
        self.hands: dict[str, list[e.AttemptStarted]] = {worker: [] for worker in WORKERS}
        """The attempts that each has begun and not yet reported."""
        self.fates: list[str] = []
        """The state of each attempt by its number, as a row of ``attempts`` has it."""
        self.starts: list[e.AttemptStarted] = []
        self.answers: set[int] = set()
        """Attempts of which an answer was recorded, in time or late."""
        self.ended: str | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.runner.run(work)

    @initialize(on_unknown=st.sampled_from(["retry", "hold", "fail"]))
    def opened(self, on_unknown: str) -> None:
        async def stores() -> list[Store]:
            if not self.on_disk:
                return [MemoryStore(now_ms=self.clock)] * len(WORKERS)
            path = fresh_ledger(Path(self.stack.enter_context(TemporaryDirectory())))
            return [await open_sqlite(path, create=False, now_ms=self.clock) for _ in WORKERS]

        ports = Ports(now_ms=self.clock, new_id=self.new_id, draw_ppm=lambda _: 0)
        for worker, store in zip(WORKERS, self.run(stores()), strict=True):
            self.desks[worker] = Desk(store, ports, worker)
        self.request = request(
            attempts=ATTEMPTS,
            route=(step("flash", TRIES[0]), step("haiku", TRIES[1])),
            policy=policy(on_unknown=on_unknown, max_orphans=ORPHANS),
            prompt_digest=DIGEST,
        )
        self.submit()

    def teardown(self) -> None:
        async def checked() -> None:
            stores = {id(desk.store): desk.store for desk in self.desks.values()}
            for store in stores.values():
                assert (await verify(store)).problems == ()
            for store in stores.values():
                await store.aclose()
            await self.stack.aclose()

        self.run(checked())
        self.runner.close()

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def seen(self) -> c.Seen:
        return c.Seen(self.clock.now_ms)

    async def transact(
        self, worker: str, command: c.Command, *, fence: int = 0, slot: str = "", stale: bool = False
    ) -> Stream | str:
        """Send a command; return the stream, or why it was refused."""
        payloads = (text(slot),) if slot else ()
        known = self.views.get(worker, ()) if stale else ()
        try:
            stream = await self.desks[worker].transact(TASK, command, fence=fence, payloads=payloads, known=known)
        except CommandRefused as refused:
            return refused.why
        self.views[worker] = stream
        return stream

    async def start(self, worker: str, *, stale: bool) -> tuple[e.AttemptStarted, Stream | str] | None:
        """Try to start what the worker's view of the task calls for."""
        view = self.views.get(worker, ()) if stale else await self.desks[worker].store.read(TASK)
        state = state_of(view)
        if isinstance(state, Absent):
            return None
        task = state.task
        fence = max(1, task.fence + (worker != task.worker))
        begun = started(task.attempts + 1, task.at, step=task.step, fence=fence, worker=worker)
        return begun, await self.transact(worker, c.Start(begun, self.clock.now_ms), stale=stale)

    def count_start(self, begun: e.AttemptStarted, result: Stream | str) -> bool:
        """Count a start that was accepted; return whether it was."""
        if isinstance(result, str):
            assert result in {"running_elsewhere", "ended", "held", "not_due", "off_route", "fence_lost"}
            return False
        if begun in self.hands[begun.worker]:  # the same start once more, which writes nothing
            return False
        assert begun.attempt == len(self.fates) + 1
        assert "running" not in self.fates
        assert self.ended is None
        self.fates.append("running")
        self.starts.append(begun)
        self.hands[begun.worker].append(begun)
        return True

    def row(self) -> Any:
        """Return the task's row."""
        return self.run(self.desks[WORKERS[0]].store.projected(TASK)).tasks[0]

    def stream(self) -> Stream:
        """Return the task's events."""
        return self.run(self.desks[WORKERS[0]].store.read(TASK))

    def submit(self) -> None:
        """Both at once; the second finds it done."""

        async def both() -> list[Stream | str]:
            command = c.Submit(self.request, self.seen())
            return await asyncio.gather(*(self.transact(worker, command, slot="prompt") for worker in WORKERS))

        before = self.stream()
        first, second = self.run(both())
        assert first == second == (before or self.stream())

    @rule()
    def submit_again(self) -> None:
        """What is there is given back."""
        self.submit()

    @rule(worker=workers, stale=seldom, patient=st.booleans())
    def start_one(self, worker: str, *, stale: bool, patient: bool) -> None:
        """One worker starts, perhaps by what it saw last, perhaps when it is time."""
        if patient:
            self.clock.now_ms = max(self.clock.now_ms, self.row()["not_before_ms"] or 0)
        pending = self.row()["state"] == "pending"
        tried = self.run(self.start(worker, stale=stale))
        if tried is not None:
            accepted = self.count_start(*tried)
            assert accepted or stale or not pending, "nothing stood in the way"
            assert accepted or stale or not patient or not self.row()["not_before_ms"], "it is time"

    @rule()
    def start_both(self) -> None:
        """Two reach for one task: exactly one starts, where it can be started at all."""

        async def both() -> list[tuple[e.AttemptStarted, Stream | str] | None]:
            return await asyncio.gather(*(self.start(worker, stale=False) for worker in WORKERS))

        pending = self.row()["state"] == "pending"
        accepted = [self.count_start(*tried) for tried in self.run(both()) if tried is not None]
        assert sum(accepted) == 1 if pending else sum(accepted) <= 1

    @rule(chosen=st.integers(0, 9), ok=seldom, final=seldom, again=st.booleans())
    def report(self, chosen: int, *, ok: bool, final: bool, again: bool) -> None:
        """A worker says how an attempt ended, perhaps long after it was given up, perhaps twice."""
        hands = [begun for many in self.hands.values() for begun in many]
        if not hands:  # no precondition, since on a disk the winner of a race is nobody's choice
            return
        begun = hands[chosen % len(hands)]
        worker, number = begun.worker, begun.attempt
        self.hands[worker].remove(begun)
        outcome = (
            succeeded(number, response_digest=DIGEST)
            if ok
            else failed(number, "authentication" if final else "overloaded")
        )
        slot = f"response/{number}" if ok else ""
        command = c.Record(outcome, begun.fence, self.seen())
        result = self.run(self.transact(worker, command, fence=begun.fence, slot=slot))
        assert not isinstance(result, str)
        in_time = self.fates[number - 1] == "running"
        self.fates[number - 1] = ("succeeded" if ok else "failed") if in_time else "settled"
        if ok:
            self.answers.add(number)
        if again:
            assert result == self.run(self.transact(worker, command, fence=begun.fence, slot=slot))

    @rule(worker=workers, chosen=st.integers(0, 9))
    def orphan(self, worker: str, chosen: int) -> None:
        """A worker gives an attempt up for dead; one that has ended stays as it is."""
        if not self.fates:
            return
        number = chosen % len(self.fates) + 1
        before = self.stream()
        result = self.run(self.transact(worker, c.Orphan(orphaned(number), self.seen())))
        if self.fates[number - 1] == "running":
            self.fates[number - 1] = "orphaned"
        else:
            assert result == before

    @rule(worker=workers, stale=st.booleans())
    def cancel(self, worker: str, *, stale: bool) -> None:
        """Whoever calls the task off, it ends; the call that is in flight may still come back."""
        if len(self.fates) <= 2 and self.ended is None:
            return
        result = self.run(self.transact(worker, c.Cancel(self.seen()), stale=stale))
        if self.ended is None:
            assert not isinstance(result, str)
            self.fates = ["orphaned" if fate == "running" else fate for fate in self.fates]

    @rule(worker=workers)
    def release(self, worker: str) -> None:
        """A person lets a held task go on."""
        held = self.row()["waiting_for"] == "person"
        result = self.run(self.transact(worker, c.Release(self.seen())))
        assert not held or not isinstance(result, str)
        assert not held or self.row()["state"] == "pending"

    @rule(by_ms=st.sampled_from([120_000, 5_000, 500, -90_000]))
    def wait(self, by_ms: int) -> None:
        """The clock moves, or is set back."""
        self.clock.now_ms += by_ms

    @invariant()
    def tally(self) -> None:
        """The ledger's rows are what was counted; limits hold; a task ends once."""
        if not self.desks:
            return
        rows = self.run(self.desks[WORKERS[1]].store.projected(TASK))
        expected = [(begun.attempt, fate, begun.worker) for begun, fate in zip(self.starts, self.fates, strict=True)]
        assert expected == [(row["attempt"], row["state"], row["worker"]) for row in rows.attempts]
        assert len(self.fates) <= ATTEMPTS
        counted = [begun.step for begun, fate in zip(self.starts, self.fates, strict=True) if fate in COUNTED]
        assert all(counted.count(number) <= tries for number, tries in enumerate(TRIES, 1))
        assert "".join(fate[0] for fate in self.fates).count("o" * (ORPHANS + 2)) == 0
        ends = [recorded.type for recorded in self.stream() if recorded.type in ENDS]
        if self.ended is None and ends == ["task.failed"]:
            assert self.answers == set(), "an answer was there"
        self.ended = self.ended or (ends[0] if ends else None)
        assert ends == ([] if self.ended is None else [self.ended])
        assert self.ended != "task.succeeded" or rows.tasks[0]["attempt_final"] in self.answers
        assert self.ended is None or "running" not in self.fates


class TaskOnDisk(TaskMachine):
    """Each worker with a store of its own on one file."""

    on_disk = True


MACHINES: Final = {"memory": (TaskMachine, 40), "sqlite": (TaskOnDisk, 8)}


@pytest.mark.parametrize("times", [1, pytest.param(30, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("name", MACHINES)
def test_two_workers_and_one_task(name: str, times: int) -> None:
    """Attempts, tries, orphans and the one end are what a tally says, and the ledger verifies."""
    machine, examples = MACHINES[name]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * times,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
