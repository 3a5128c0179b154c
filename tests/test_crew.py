"""Working on what nobody has: how much at once, until when, and what one task's trouble means for the others."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import pytest

from ledger import Config, Executor, Ledger
from ledger.errors import LedgerBusy, LedgerError, LedgerFull
from ledger.executor.crew import Crew
from ledger.executor.intake import Dispatched
from ledger.executor.presence import Others
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.store.memory import MemoryStore
from tests.contracts.appends import Clock, submission
from tests.ledgers import fresh_ledger
from tests.world import Scripted, World, fail, rows

ME: Final = "worker:me"


class Band:
    """A crew on a store in memory, whose tasks are a test's own functions."""

    def __init__(self, drive: Callable[[str], Awaitable[str | None]], *, most: int = 4) -> None:
        clock = Clock()
        self.store = MemoryStore(now_ms=clock)
        self.begun: Counter[str] = Counter()
        self.told: list[str] = []
        self.stop = asyncio.Event()
        ports = Ports(now_ms=clock)

        async def driven(task_id: str) -> str | None:
            self.begun[task_id] += 1
            return await drive(task_id)

        others = Others(ME, self.store, None, ports)
        self.crew = Crew(Desk(self.store, ports, ME), others, driven, [], most=most, ownerless=True)

    async def submit(self, *task_ids: str) -> None:
        """Queue tasks for nobody in particular."""
        for task_id in task_ids:
            await self.store.append(submission(task_id, owner=None))

    def work(self) -> asyncio.Task[None]:
        """Begin to work until stopped."""
        return asyncio.create_task(self.crew.work(drain=False, stop=self.stop, on_finished=self.told.append))


async def test_a_task_for_which_nothing_can_be_done_is_left_alone_for_a_while() -> None:
    """It is claimed again and again, and that must not keep a processor busy."""

    async def nothing(_: str) -> None:
        return None

    band = Band(nothing)
    await band.submit("a", "b")
    working = band.work()
    await asyncio.sleep(0.6)
    band.stop.set()
    await working
    assert 2 <= band.begun["a"] <= 7
    assert band.told == []


async def test_what_cannot_be_helped_keeps_nobody_else_waiting() -> None:
    """Though as many such tasks are due, and longer, as may be under way at once."""
    reached = asyncio.Event()

    async def drive(task_id: str) -> None:
        if task_id == "z":
            reached.set()

    band = Band(drive, most=2)
    await band.submit("a", "b", "c", "z")
    working = band.work()
    async with asyncio.timeout(10):
        await reached.wait()
    band.stop.set()
    await working
    assert band.begun["z"] == 1


async def test_a_task_that_met_a_ledger_out_of_reach_is_taken_again() -> None:
    """It is its worker's own, so nobody else would take it while that one lives."""

    async def drive(task_id: str) -> str:
        if band.begun[task_id] == 1:
            raise LedgerBusy("out of reach")
        band.stop.set()
        return task_id

    band = Band(drive)
    await band.store.append(submission("mine", owner=ME))
    async with asyncio.timeout(5):
        await band.work()
    assert band.told == ["mine"]


async def test_when_the_ledger_fails_one_the_others_may_end() -> None:
    """An answer that is paid for is brought in; nothing new is begun; then the error is told."""
    ended: list[str] = []

    async def drive(task_id: str) -> str:
        if task_id == "a":
            await asyncio.sleep(0.05)
            raise LedgerFull("the disk is full")
        await asyncio.sleep(0.3)
        ended.append(task_id)
        return task_id

    band = Band(drive, most=3)
    await band.submit("a", "b", "c", "d")
    with pytest.raises(LedgerFull):
        await band.work()
    assert (ended, band.stop.is_set(), sorted(band.begun)) == (["b", "c"], True, ["a", "b", "c"])


async def test_cancelled_it_ends_what_is_under_way() -> None:
    """And waits until that is done, which takes a task a moment: it has an interrupt to record."""
    ended: list[str] = []
    begun = asyncio.Event()

    async def drive(task_id: str) -> str:
        if band.begun.total() == 2:
            begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.append(task_id)
        return task_id

    band = Band(drive)
    await band.submit("a", "b")
    working = band.work()
    async with asyncio.timeout(10):
        await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert sorted(ended) == ["a", "b"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    return World(tmp_path)


@asynccontextmanager
async def working(world: World) -> AsyncIterator[Executor]:
    """Work in real time."""
    async with Ledger.open(world.path) as ledger:
        built = Executor(ledger, world.config, build=lambda provider, model, _: Scripted(world, provider, model))
        async with built as executor:
            yield executor


async def test_drained_means_that_nothing_is_left(world: World) -> None:
    """Backoffs are waited for; each task is told once; no more are under way than may be."""
    world.config = Config.model_validate({"retry": {"backoff_initial_s": 0.05}, "breakers": {"failures": 0}})
    told: list[Dispatched] = []
    async with working(world) as executor:
        task_ids = [await executor.submit("haiku", f"{number}") for number in range(6)]
        world.script = [fail("overloaded"), fail("overloaded"), *world.script]
        await executor.work(drain=True, concurrency=2, on_finished=told.append)
    assert sorted(done.story.task_id for done in told) == task_ids
    assert (len(world.calls), world.most_flying <= 2) == (8, True)
    assert {row["state"] for row in rows(world.path, "SELECT state FROM tasks")} == {"succeeded"}


async def test_what_is_queued_for_nobody_is_not_resumed(world: World) -> None:
    """``resume`` is for what had an owner."""
    async with working(world) as executor:
        await executor.submit("haiku", "hello")
        assert await executor.resume() == ()
    assert world.calls == []


async def test_a_task_whose_prompt_is_gone_ends_and_stops_nobody(world: World) -> None:
    """Nothing can be sent for it; it fails, and its neighbour is answered."""
    async with working(world) as executor:
        erased, kept = [await executor.submit("haiku", prompt) for prompt in ("erased", "kept")]
        with closing(sqlite3.connect(world.path)) as database:
            database.execute("DELETE FROM payloads WHERE task_id = ?", (erased,))
            database.commit()
        await executor.work(drain=True)
        gone, answered = await executor.result(erased), await executor.result(kept)
    assert (gone.success, gone.error_type, gone.cost_nano_usd) == (False, "invalid_request", 0)
    assert (answered.success, [prompt for _, prompt in world.calls]) == (True, ["kept"])


async def test_a_worker_stops_where_an_answer_was_not_taken(world: World) -> None:
    """Nothing more is claimed on a ledger that is full."""
    async with working(world) as executor:
        await executor.submit("haiku", "hello")
        executor._pool.stalled = LedgerError("kept beside the ledger")  # noqa: SLF001 - as a spilled answer leaves it
        with pytest.raises(LedgerError, match="kept beside"):
            await executor.work(drain=True)
    assert world.calls == []
