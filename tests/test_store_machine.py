"""Every store against a model of fifty lines: any appends, by two of them at once, closed and opened in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from ledger.envelope import FIRST_PREV_HASH, Append, NewEvent, Payload, Stream
from ledger.events import Event
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_sqlite
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_url import PostgresUrl
from ledger.store.projection import project_stream
from ledger.store.protocol import Projected, Store, TaskQuery
from ledger.system_events import BreakerClosed
from tests.contracts.appends import Clock
from tests.histories import History, policy, request, step
from tests.ledgers import fresh_ledger
from tests.postgres_server import database
from tests.store_model import Model

T = TypeVar("T")

Open = Callable[[], Awaitable[Store]]

SCRIPTS: Final[dict[str, Sequence[Event]]] = {
    "answered": History(request(labels={"team": "a"})).start().fail().start().succeed(cost_nano_usd=5).events,
    "judged": History(request(route=(step(),), judge=(step("sonnet", 1),)))
    .start()
    .succeed()
    .start()
    .judge(passed=True)
    .events,
    "late": History(request(policy=policy(on_unknown="hold"))).start().orphan().settle(1).events,
    "no task": (),
}
"""What each stream tells, one event after the other; behind its end comes what says nothing about a task."""

streams = st.sampled_from(sorted(SCRIPTS))
either = st.sampled_from([0, 1])
"""Which of the two that have the ledger open."""
keys = st.none() | st.sampled_from([b"k" * 32, b"l" * 32])
slots = st.lists(st.sampled_from(["prompt", "output"]), max_size=2)
few = st.integers(1, 3)
claims = st.integers(0, 3)
"""What a caller has of the stream: nothing, the newest, something older, another stream."""
limits = st.integers(0, 4)


async def memory(_: AsyncExitStack, clock: Clock) -> Open:
    """Open one store in memory, over and over."""
    store = MemoryStore(now_ms=clock)
    return lambda: asyncio.sleep(0, store)


async def sqlite(stack: AsyncExitStack, clock: Clock) -> Open:
    """Open one file."""
    path = fresh_ledger(Path(stack.enter_context(TemporaryDirectory())))
    return lambda: open_sqlite(path, create=False, now_ms=clock)


async def postgres(stack: AsyncExitStack, clock: Clock) -> Open:
    """Open one database."""
    url = PostgresUrl.parse(await stack.enter_async_context(database()))
    return lambda: open_postgres(url, create=False, now_ms=clock)


class StoreMachine(RuleBasedStateMachine):
    """Does everything to a store and to the model, and compares."""

    place: ClassVar[staticmethod[[AsyncExitStack, Clock], Coroutine[Any, Any, Open]]]
    gapless: ClassVar[bool] = True
    """Whether a refused append leaves no position unused."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = Clock()
        self.model = Model()
        self.times: dict[str, int] = {}
        self.positions: dict[str, int] = {}
        self.done: list[Append] = []
        self.told: list[Stream] = []
        self.stores: list[Store] = []
        self.ids = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""
        return self.runner.run(work)

    @initialize()
    def opened(self) -> None:
        async def both() -> None:
            self.open = await type(self).place(self.stack, self.clock)
            self.stores = [await self.open(), await self.open()]

        self.run(both())

    def teardown(self) -> None:
        async def closed() -> None:
            for store in self.stores:
                await store.aclose()
            await self.stack.aclose()

        self.run(closed())
        self.runner.close()

    def next_of(self, stream: str, count: int) -> Append:
        """Make the append that goes on with a stream."""
        version = len(self.model.stream(stream))
        events = [*SCRIPTS[stream][version : version + count]]
        events += [BreakerClosed(provider="p", model="m", trial_event_id="")] * (count - len(events))
        return Append(stream, version, tuple(NewEvent(self.new_id(), event, "system") for event in events))

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def append(self, which: int, append: Append, claim: int) -> None:
        """Append to both; a refusal changes nothing, an acceptance gives the stream, whatever the caller has of it."""
        mine = [stream for stream in self.told if stream[0].task_id == append.task_id]
        claims: tuple[list[Stream], ...] = ([], mine[-1:], mine[:1], self.told[-1:])
        claiming = replace(append, known=next(iter(claims[claim]), ()))
        expected = self.model.append(append)
        if expected is not None:
            with pytest.raises(expected):
                self.run(self.stores[which].append(claiming))
            return
        stream = self.run(self.stores[which].append(claiming))
        self.told.append(stream)
        if append not in self.done:
            self.done.append(append)
            at_ms = max(self.clock.now_ms, self.times.get(append.task_id, 0))
            assert {at_ms} == {recorded.recorded_at_ms for recorded in stream[append.expected_version :]}
            self.landed(stream)
        self.same(append.task_id, stream)

    def landed(self, stream: Stream) -> None:
        """Note what the store alone decides: when, and at which position."""
        self.times[stream[-1].task_id] = stream[-1].recorded_at_ms
        self.positions |= {recorded.event_id: recorded.position for recorded in stream}

    def same(self, task_id: str, stream: Stream) -> None:
        """Compare a stream with the model's, its positions with the order of all, and its chain with itself."""
        expected = [(task_id, version, new) for owner, version, new in self.model.events if owner == task_id]
        assert expected == [(r.task_id, r.version, NewEvent(r.event_id, r.event(), r.actor, r.fence)) for r in stream]
        positions = [self.positions[new.event_id] for _, _, new in self.model.events]
        assert positions == (list(range(1, len(positions) + 1)) if self.gapless else sorted(set(positions)))
        assert [self.positions[new.event_id] for _, _, new in expected] == [r.position for r in stream]
        assert [FIRST_PREV_HASH, *(r.hash for r in stream)][:-1] == [r.prev_hash for r in stream]
        assert all(recorded.hash == recorded.computed_hash() for recorded in stream)

    @rule(jump=st.sampled_from([0, 0, 1, -5]))
    def wait(self, jump: int) -> None:
        self.clock.now_ms += jump

    @rule(which=either, stream=streams, count=few, key=keys, slots=slots, claim=claims)
    def append_next(self, which: int, stream: str, count: int, key: bytes | None, slots: list[str], claim: int) -> None:
        payloads = tuple(Payload(slot, b"salt", stream.encode()) for slot in slots)
        self.append(which, replace(self.next_of(stream, count), payloads=payloads, key_digest=key), claim)

    @rule(which=either, stream=streams, off=st.integers(-2, 2), count=few, claim=claims)
    def append_stale(self, which: int, stream: str, off: int, count: int, claim: int) -> None:
        append = self.next_of(stream, count)
        self.append(which, replace(append, expected_version=max(0, append.expected_version + off)), claim)

    @rule(which=either, chosen=st.integers(0, 99), more=st.booleans(), other=st.booleans(), claim=claims)
    def append_again(self, which: int, chosen: int, claim: int, *, more: bool, other: bool) -> None:
        if self.done:
            append = self.done[chosen % len(self.done)]
            news = append.events + (self.next_of(append.task_id, 1).events if more else ())
            if other:
                news = (replace(news[0], actor="person"), *news[1:])
            self.append(which, replace(append, events=news), claim)

    @rule(which=either, stream=streams, used=st.integers(0, 99))
    def append_used_id(self, which: int, stream: str, used: int) -> None:
        if self.model.events:
            _, _, new = self.model.events[used % len(self.model.events)]
            append = self.next_of(stream, 2)
            first, second = append.events
            self.append(which, replace(append, events=(first, replace(second, event_id=new.event_id))), 0)

    @rule(chosen=st.lists(st.tuples(either, streams, few), min_size=2, max_size=4, unique_by=lambda one: one[1]))
    def append_together(self, chosen: list[tuple[int, str, int]]) -> None:
        appends = [(which, self.next_of(stream, count)) for which, stream, count in chosen]

        async def together() -> list[Stream]:
            return await asyncio.gather(*(self.stores[which].append(append) for which, append in appends))

        landed = zip(self.run(together()), appends, strict=True)
        for stream, (_, append) in landed:
            assert self.model.append(append) is None
            self.done.append(append)
            self.landed(stream)
        self.model.events.sort(key=lambda one: self.positions[one[2].event_id])  # two users' events may lie in turns
        for which, append in appends:
            self.same(append.task_id, self.run(self.stores[which].read(append.task_id)))

    @rule(which=either)
    def close_and_open(self, which: int) -> None:
        async def again() -> None:
            if not isinstance(self.stores[which], MemoryStore):
                await self.stores[which].aclose()
            self.stores[which] = await self.open()

        self.run(again())

    @rule(which=either, after=st.integers(0, 12), limit=limits)
    def page_by_position(self, which: int, after: int, limit: int) -> None:
        store, ids = self.stores[which], [new.event_id for _, _, new in self.model.events]
        position = max((self.positions[event_id] for event_id in ids[:after]), default=0)
        expected = ids[after : after + limit]
        assert expected == [recorded.event_id for recorded in self.run(store.page(position, limit))]
        assert max(self.positions.values(), default=0) == self.run(store.newest())

    @rule(which=either, stream=st.sampled_from(["", *sorted(SCRIPTS)]), version=limits, limit=limits)
    def page_by_stream(self, which: int, stream: str, version: int, limit: int) -> None:
        ordered = sorted((owner, at) for owner, at, _ in self.model.events if (owner, at) > (stream, version))
        page = self.run(self.stores[which].streams((stream, version), limit))
        assert ordered[:limit] == [(recorded.task_id, recorded.version) for recorded in page]

    @rule(which=either, limit=limits, state=st.sampled_from([None, "pending", "succeeded"]), skipped=st.integers(0, 2))
    def list_tasks(self, which: int, limit: int, state: str | None, skipped: int) -> None:
        store = self.stores[which]
        rows = [project_stream(self.run(store.read(name))).tasks[0] for name in self.model.tasks()]
        rows.sort(key=lambda row: (row["created_at_ms"], row["task_id"]), reverse=True)
        after = None if not rows[:skipped] else (rows[:skipped][-1]["created_at_ms"], rows[:skipped][-1]["task_id"])
        wanted = [row for row in rows[skipped if after else 0 :] if state in (None, row["state"])]
        assert wanted[:limit] == list(self.run(store.tasks(TaskQuery(state=state, limit=limit, after=after))))

    @rule(which=either, stream=streams)
    def look_at(self, which: int, stream: str) -> None:
        store, model = self.stores[which], self.model
        recorded = self.run(store.read(stream))
        self.same(stream, recorded)
        assert project_stream(recorded) == self.run(store.projected(stream))
        texts = {slot: payload for (owner, slot), payload in model.payloads.items() if owner == stream}
        assert tuple(texts[slot] for slot in sorted(texts)) == self.run(store.payloads(stream))
        assert texts.get("prompt") == self.run(store.payload(stream, "prompt"))
        assert ((stream,) if stream in model.tasks() else ()) == tuple(self.run(store.find(stream)))
        assert stream in model.tasks() or self.run(store.projected(stream)) == Projected()

    @rule(which=either, after=st.sampled_from(["", *sorted(SCRIPTS)]), limit=limits)
    def look_at_names(self, which: int, after: str, limit: int) -> None:
        store, model = self.stores[which], self.model
        assert [name for name in model.named() if name > after][:limit] == list(
            self.run(store.projected_task_ids(after, limit))
        )
        for key in (b"k" * 32, b"l" * 32):
            assert model.keys.get(key) == self.run(store.task_of_key(key))

    @invariant()
    def nothing_is_wrong(self) -> None:
        if self.stores and len(self.model.events) % 7 == 1:
            assert () == tuple(self.run(self.stores[0].check()))


class MemoryMachine(StoreMachine):
    place = staticmethod(memory)


class SqliteMachine(StoreMachine):
    place = staticmethod(sqlite)


class PostgresMachine(StoreMachine):
    place = staticmethod(postgres)
    gapless = False


MACHINES: Final = {"memory": (MemoryMachine, 25), "sqlite": (SqliteMachine, 10), "postgres": (PostgresMachine, 4)}


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("name", MACHINES)
def test_a_store_does_what_the_model_does(name: str, times: int) -> None:
    """Any appends, reads and reopenings by two users of one ledger: the same streams, refusals, lists and rows."""
    machine, examples = MACHINES[name]
    phases = set(Phase) - {Phase.shrink} if name == "postgres" else set(Phase)  # to shrink there takes minutes
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples * times,
            stateful_step_count=30,
            deadline=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
