"""The stores' contract, on every store; and that they do the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.envelope import Append, Limit, NewEvent, Payload
from ledger.errors import DispatchError
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_sqlite
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_url import PostgresUrl
from ledger.store.projection import project_stream
from ledger.store.protocol import Store, TaskQuery
from tests import anything
from tests.contracts.appends import transactions
from tests.contracts.store_contract import Clock, StoreContract
from tests.histories import WORKER
from tests.ledgers import fresh_ledger
from tests.postgres_server import database
from tests.walks import Walk, histories


@pytest.fixture
def clock() -> Clock:
    """Give the store's clock."""
    return Clock()


class TestMemory(StoreContract):
    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncIterator[Store]:
        store = MemoryStore(now_ms=clock)
        yield store
        await store.aclose()


class TestPostgres(StoreContract):
    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncIterator[Store]:
        async with database() as url:
            store = await open_postgres(PostgresUrl.parse(url), create=False, now_ms=clock)
            yield store
            await store.aclose()


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, clock: Clock, tmp_path: Path) -> AsyncIterator[Store]:
        store = await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=clock)
        yield store
        await store.aclose()


likely_events = st.one_of(
    anything.events,
    histories().flatmap(lambda walk: st.sampled_from(walk.events)),
    histories(0).map(lambda walk: walk.events[0]),
)
task_ids = st.sampled_from(["a", "b", "c"])
appends = st.builds(
    Append,
    task_ids,
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 9), likely_events), min_size=1, max_size=3).map(
        lambda drawn: tuple(NewEvent(f"id-{number}", event, "system") for number, event in drawn)
    ),
    st.lists(st.sampled_from("pq"), max_size=1).map(lambda slots: tuple(Payload(slot, b"s", b"c") for slot in slots)),
    st.none() | st.sampled_from([b"k" * 32, b"l" * 32]),
    st.lists(
        st.builds(
            Limit,
            st.sampled_from(["simulated", ""]),
            st.integers(0, 2),
            st.sampled_from([None, "flash", "haiku", ""]),
            st.sampled_from([0, 10**9]),
        ),
        max_size=2,
    ).map(tuple),
)
some_workers = st.sampled_from(["v", "w", WORKER])
some_owners = st.lists(st.sampled_from([None, "v", WORKER, "nobody"]), max_size=3)
questions = st.one_of(
    st.tuples(st.just("beat"), some_workers),
    st.tuples(st.just("leave"), some_workers),
    st.tuples(st.just("claim"), some_workers, some_owners, st.integers(0, 4), st.sampled_from([1, 30_000, 10**6])),
    st.tuples(st.just("unclaim"), some_workers, st.lists(task_ids, max_size=2)),
    st.tuples(st.just("ended_attempts"), st.just("simulated"), st.sampled_from(["flash", "haiku"]), st.integers(0, 4)),
    st.tuples(st.just("workers")),
    st.tuples(st.just("owners")),
)
jumps_ms = st.sampled_from([0, 1, 900, 30_000, -900, -61_000, -86_400_000, 86_400_000])


async def fate(store: Store, append: Append) -> Any:
    """Return the stream, or which error."""
    try:
        return await store.append(append)
    except DispatchError as error:
        return type(error), str(error)


async def contents(store: Store) -> Sequence[Any]:
    """Read everything there is."""
    everything: list[Any] = [
        await store.page(0, 100),
        await store.streams(("", 0), 100),
        await store.tasks(TaskQuery()),
        await store.projected_task_ids("", 100),
    ]
    for task_id in "abc":
        everything += [await store.projected(task_id), await store.payloads(task_id), await store.find(task_id)]
    return everything


class TestAlike:
    """SQLite and memory, asked the same."""

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn=st.lists(appends, max_size=8), jumps=st.lists(st.integers(-5, 5), min_size=8, max_size=8))
    def test_stores_do_the_same(self, tmp_path: Path, drawn: list[Append], jumps: list[int]) -> None:
        """Any appends of any events: the same streams, the same refusals, the same rows."""

        async def compare() -> None:
            clock = Clock()
            memory, sqlite = (
                MemoryStore(now_ms=clock),
                await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=clock),
            )
            try:
                for append, jump in zip(drawn, jumps, strict=False):
                    clock.now_ms += jump
                    known = len(await memory.read(append.task_id))
                    likely = append if append.expected_version == 3 else replace(append, expected_version=known)
                    assert await fate(memory, likely) == await fate(sqlite, likely)
                assert await contents(memory) == await contents(sqlite)
                for task_id in "abc":
                    assert project_stream(await memory.read(task_id)) == await memory.projected(task_id)
            finally:
                await sqlite.aclose()

        asyncio.run(compare())

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(walks=st.tuples(histories(6), histories(6), histories(6)), drawn=st.data())
    def test_workers_are_told_the_same(self, tmp_path: Path, walks: Sequence[Walk], drawn: st.DataObject) -> None:
        """Whatever workers ask while any histories grow and the clock jumps."""
        growing = {task_id: transactions(task_id, walk) for task_id, walk in zip("abc", walks, strict=True)}
        turns = [task_id for task_id, walk in zip("abc", walks, strict=True) for _ in walk.groups]

        async def compare() -> None:
            clock = Clock()
            memory, sqlite = (
                MemoryStore(now_ms=clock),
                await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=clock),
            )
            try:
                for task_id in drawn.draw(st.permutations(turns)):
                    clock.now_ms += drawn.draw(jumps_ms)
                    append = next(growing[task_id])
                    assert await memory.append(append) == await sqlite.append(append)
                    for name, *arguments in drawn.draw(st.lists(questions, max_size=3)):
                        told = [await getattr(store, name)(*arguments) for store in (memory, sqlite)]
                        assert told[0] == told[1]
                for task_id in "abc":
                    assert await memory.projected(task_id) == await sqlite.projected(task_id)
            finally:
                await sqlite.aclose()

        asyncio.run(compare())

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(walk=histories())
    def test_rows_of_any_history(self, tmp_path: Path, walk: Walk) -> None:
        """Any valid history, appended as it was decided: its rows in SQLite are those of its folded stream."""

        async def compare() -> None:
            store = await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=Clock())
            try:
                for append in transactions("t", walk):
                    stream = await store.append(append)
                    assert project_stream(stream) == await store.projected("t")
            finally:
                await store.aclose()

        asyncio.run(compare())
