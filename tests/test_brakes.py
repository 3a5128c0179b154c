"""What an executor sees of breakers and makes of outcomes, on a store in memory with a clock of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger
from ledger import commands as c
from ledger.audit import verify
from ledger.breakers import CLOSED, HALF_OPEN, BreakerSettings, Open, Standing
from ledger.envelope import Append, Recorded, Stream
from ledger.errors import LedgerBusy, LedgerError
from ledger.executor.brakes import Brakes
from ledger.executor.transact import Desk, state_of
from ledger.parts import BrakeSeen
from ledger.policy import ErrorType
from ledger.ports import Ports
from ledger.state import Absent
from ledger.store.memory import MemoryStore
from ledger.system_events import BreakerClosed, BreakerOpened
from tests.histories import (
    START_MS,
    WORKER,
    History,
    failed,
    orphaned,
    request,
    seen,
    settled,
    started,
    step,
    succeeded,
)

SETTINGS: Final = BreakerSettings(4, 5000, 60_000)
FLASH: Final = ("simulated", "flash")
STREAM: Final = "breaker:simulated/flash"
OTHER: Final = WORKER[:-1] + "2"


class Counting(MemoryStore):
    """A store that counts what is asked of it, and can be held up or out of order."""

    def __init__(self, *, now_ms: Callable[[], int]) -> None:
        super().__init__(now_ms=now_ms)
        self.asked: Counter[str] = Counter()
        self.gate: asyncio.Event | None = None
        self.fault: LedgerError | None = None
        self.first: Callable[[], Any] | None = None
        """Done before the next append to a breaker's stream."""

    async def read(self, task_id: str) -> Stream:
        self.asked["read"] += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return await super().read(task_id)

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        self.asked["streams"] += 1
        return await super().streams(after, limit)

    async def ended_attempts(self, provider: str, model: str, limit: int) -> Sequence[Mapping[str, Any]]:
        self.asked["ended_attempts"] += 1
        return await super().ended_attempts(provider, model, limit)

    async def append(self, append: Append) -> Stream:
        if append.task_id.startswith("breaker:"):
            self.asked["append"] += 1
            first, self.first = self.first, None
            if first is not None:
                await first()
            if self.fault is not None:
                raise self.fault
        return await super().append(append)


class Shop:
    """One ledger and clock, any number of tasks, and executors with brakes of their own."""

    def __init__(self, settings: BreakerSettings = SETTINGS) -> None:
        self.now_ms = START_MS
        self.settings = settings
        self.store = Counting(now_ms=lambda: self.now_ms)
        self.ids = count(1)
        self.mine = self.brakes()

    def desk(self, worker: str = WORKER) -> Desk:
        ports = Ports(now_ms=lambda: self.now_ms, new_id=lambda: f"id-{next(self.ids)}", draw_ppm=lambda _: 0)
        return Desk(self.store, ports, worker)

    def brakes(self, worker: str = WORKER) -> Brakes:
        """Open an executor, as far as breakers go."""
        return Brakes(self.desk(worker), self.settings)

    async def begin(self) -> str:
        """Submit a task and start its first attempt on flash."""
        task = f"task-{next(self.ids)}"
        await self.store.append(self.desk().sealed(task, 0, History().start().events, fence=1))
        return task

    async def begin_again(self, task: str) -> None:
        """Start a task's next attempt."""
        state = state_of(await MemoryStore.read(self.store, task))
        assert not isinstance(state, Absent)
        begun = started(state.task.attempts + 1, state.task.at, step=state.task.step)
        await self.desk().transact(task, c.Start(begun, self.now_ms + 10**6), fence=1)

    async def recorded(self, task: str, error: ErrorType | None = None, **changes: Any) -> Stream:
        """Record how a task's running attempt ended."""
        state = state_of(await MemoryStore.read(self.store, task))
        assert not isinstance(state, Absent)
        number = state.task.attempts
        outcome = succeeded(number) if error is None else failed(number, error, **changes)
        return await self.desk().transact(task, c.Record(outcome, 1, seen(self.now_ms)), fence=1)

    async def end(
        self, task: str, error: ErrorType | None = None, brakes: Brakes | None = None, **changes: Any
    ) -> None:
        """Record how a task's running attempt ended, and let the brakes follow."""
        stream = await self.recorded(task, error, **changes)
        await (brakes or self.mine).after(task, *FLASH, stream)

    async def call(self, error: ErrorType | None = None, brakes: Brakes | None = None, **changes: Any) -> None:
        """Make a call of a new task's from beginning to end."""
        brakes = brakes or self.mine
        await brakes.standing(*FLASH)
        await self.end(await self.begin(), error, brakes, **changes)

    async def breaker(self) -> list[BreakerOpened | BreakerClosed]:
        """Return the events of flash's breaker."""
        events = [recorded.event() for recorded in await MemoryStore.read(self.store, STREAM)]
        return [event for event in events if isinstance(event, BreakerOpened | BreakerClosed)]

    async def causes(self) -> list[str]:
        """Tell what flash's breaker did."""
        return [getattr(event, "cause", "closed") for event in await self.breaker()]

    async def stands(self, brakes: Brakes | None = None) -> str:
        """Tell how it stands as an executor sees it."""
        standing: Standing = await (brakes or self.mine).standing(*FLASH)
        return type(standing).__name__

    async def opened(self) -> None:
        """Have a provider ask to be left alone for five seconds."""
        await self.call("rate_limited", retry_after_ms=5000)


async def test_a_429_with_retry_after_opens_at_once() -> None:
    """Until the instant that it asks for, with the failure that said so; other models are not meant."""
    shop = Shop()
    await shop.opened()
    (event,) = await shop.breaker()
    (recorded,) = await shop.store.read(STREAM)
    failure = next(one for one in await shop.store.page(0, 9) if one.type == "attempt.failed")
    assert isinstance(event, BreakerOpened)
    assert ("retry_after", START_MS + 5000, (failure.event_id,)) == (event.cause, event.until_ms, event.failures)
    assert (WORKER, 0) == (recorded.actor, recorded.fence)
    sight = BrakeSeen(provider="simulated", model="flash", until_ms=START_MS + 5000, position=recorded.position)
    assert Open(START_MS + 5000, sight) == await shop.mine.standing(*FLASH)
    assert CLOSED == await shop.mine.standing("simulated", "haiku")


async def test_failures_in_a_row_open() -> None:
    """Of several tasks, each named by the id of its failure, the oldest first."""
    shop = Shop()
    for error in ("overloaded", "timeout", "connection"):
        await shop.call(error)
        assert [] == await shop.causes()
    await shop.call("api_error")
    (event,) = await shop.breaker()
    failures = [one.event_id for one in await shop.store.page(0, 99) if one.type == "attempt.failed"]
    assert isinstance(event, BreakerOpened)
    assert ("failures", 5000, tuple(failures)) == (event.cause, event.open_ms, event.failures)


async def test_one_task_alone_opens_nothing() -> None:
    """Its prompt may be the reason; two others tell."""
    shop = Shop()
    task = await shop.begin()
    for _ in range(2):
        await shop.end(task, "overloaded")
        await shop.begin_again(task)
    await shop.end(task, "overloaded")
    await shop.call("overloaded")
    assert [] == await shop.causes()
    await shop.call("overloaded")
    assert ["failures"] == await shop.causes()


@pytest.mark.parametrize(
    ("between", "opens"),
    [
        pytest.param(None, False, id="a success"),
        pytest.param("interrupted", True, id="an interrupt"),
        pytest.param("invalid_request", True, id="a bad request"),
        pytest.param("authentication", True, id="a wrong key"),
    ],
)
async def test_what_ends_a_run(between: ErrorType | None, opens: bool) -> None:  # noqa: FBT001 - a column of the table
    """An answer does; what says nothing about the provider is passed over."""
    shop = Shop()
    for error in ("overloaded", "overloaded", between, "overloaded", "overloaded"):
        await shop.call(error)
    assert (["failures"] if opens else []) == await shop.causes()


async def test_a_dead_worker_neither_counts_nor_ends_a_run() -> None:
    """Nor does what it brings back late."""
    shop = Shop()
    for _ in range(3):
        await shop.call("overloaded")
    task = await shop.begin()
    await shop.desk().transact(task, c.Orphan(orphaned(), seen()), fence=1)
    stream = await shop.desk().transact(task, c.Settle(settled(), seen()), fence=1)
    await shop.mine.after(task, *FLASH, stream)
    assert [] == await shop.causes()
    await shop.call("overloaded")
    assert ["failures"] == await shop.causes()


async def test_a_run_is_found_behind_many_that_say_nothing() -> None:
    """Interrupts do not push the failures out of sight."""
    shop = Shop(BreakerSettings(30, 5000, 60_000))
    for _ in range(29):
        await shop.call("overloaded")
    for _ in range(40):
        await shop.call("interrupted")
    await shop.call("overloaded")
    assert ["failures"] == await shop.causes()


async def test_one_trial_closes() -> None:
    """After its time a call that goes through ends it, and names itself."""
    shop = Shop()
    await shop.opened()
    shop.now_ms += 4999
    assert "Open" == await shop.stands()
    shop.now_ms += 1
    assert HALF_OPEN == await shop.mine.standing(*FLASH)
    await shop.call()
    assert ["retry_after", "closed"] == await shop.causes()
    assert "Closed" == await shop.stands()
    success = next(one for one in await shop.store.page(0, 99) if one.type == "attempt.succeeded")
    (_, closed) = await shop.breaker()
    assert isinstance(closed, BreakerClosed)
    assert success.event_id == closed.trial_event_id


async def test_a_failed_trial_opens_for_longer() -> None:
    """Twice as long each time, at most as configured; what is closed begins anew."""
    shop = Shop()
    await shop.opened()
    lengths = []
    for _ in range(5):
        shop.now_ms += 60_000
        await shop.call("timeout")
        lengths.append((await shop.breaker())[-1].model_dump()["open_ms"])
    assert [10_000, 20_000, 40_000, 60_000, 60_000] == lengths
    shop.now_ms += 60_000
    await shop.call()
    assert ["retry_after", *["trial_failed"] * 5, "closed"] == await shop.causes()
    for _ in range(4):
        await shop.call("overloaded")
    assert 5000 == (await shop.breaker())[-1].model_dump()["open_ms"]


async def test_what_was_in_flight_is_no_trial() -> None:
    """It began before anybody knew; only an answer that comes when the time is over is as good as a trial's."""
    shop = Shop()
    early = [await shop.begin() for _ in range(4)]
    await shop.opened()
    await shop.end(early[0])
    await shop.end(early[1], "overloaded")
    shop.now_ms += 5000
    await shop.end(early[2], "overloaded")
    assert (["retry_after"], "HalfOpen") == (await shop.causes(), await shop.stands())
    await shop.end(early[3])
    assert ["retry_after", "closed"] == await shop.causes()


async def test_a_failure_while_open_changes_nothing() -> None:
    """A task's own retries go on meanwhile; only a longer retry-after is news."""
    shop = Shop()
    await shop.opened()
    await shop.call("overloaded")
    await shop.call("rate_limited", retry_after_ms=5100)
    assert ["retry_after"] == await shop.causes()
    await shop.call("rate_limited", retry_after_ms=9000)
    assert ["retry_after", "retry_after"] == await shop.causes()


async def test_an_outcome_is_heard_once() -> None:
    """Told of it again, after others have closed what it opened, nothing opens."""
    shop = Shop()
    task = await shop.begin()
    await shop.end(task, "rate_limited", retry_after_ms=5000)
    shop.now_ms += 5000
    await shop.call()
    await shop.mine.after(task, *FLASH, await shop.store.read(task))
    assert ["retry_after", "closed"] == await shop.causes()


async def test_others_see_it_within_a_moment() -> None:
    """What is remembered is looked at anew after 250 ms, and at once where nothing is remembered."""
    shop = Shop()
    other = shop.brakes(OTHER)
    assert "Closed" == await shop.stands(other)
    await shop.opened()
    assert ("Open", "Closed", "Open") == (
        await shop.stands(),
        await shop.stands(other),
        await shop.stands(shop.brakes(OTHER)),
    )
    shop.now_ms += 249
    assert "Closed" == await shop.stands(other)
    shop.now_ms += 1
    assert "Open" == await shop.stands(other)


async def test_a_clock_set_back_makes_a_look_old() -> None:
    """And what was opened by it is over, so that no provider is closed for a year."""
    shop = Shop()
    await shop.opened()
    shop.now_ms -= 366 * 86_400_000
    assert "HalfOpen" == await shop.stands()
    assert "HalfOpen" == await shop.stands(shop.brakes(OTHER))
    await shop.call()
    assert "Closed" == await shop.stands()


async def test_a_success_while_closed_costs_nothing() -> None:
    """No read but the look that was remembered, however old it is."""
    shop = Shop()
    await shop.mine.standing(*FLASH)
    stream = await shop.recorded(await shop.begin())
    shop.now_ms += 3_600_000
    shop.store.asked.clear()
    await shop.mine.after(stream[0].task_id, *FLASH, stream)
    assert Counter() == shop.store.asked


async def test_looks_are_shared() -> None:
    """Many who ask at once read once, and those who ask within a moment not at all."""
    shop = Shop()
    shop.store.gate = asyncio.Event()
    asking = [asyncio.create_task(shop.mine.standing(*FLASH)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()  # whoever reads may go away: somebody else does
    shop.store.gate.set()
    done = await asyncio.gather(*asking, return_exceptions=True)
    assert (True, [CLOSED] * 49) == (isinstance(done[0], asyncio.CancelledError), done[1:])
    assert 2 == shop.store.asked["read"]
    assert CLOSED == await shop.mine.standing(*FLASH)
    assert 2 == shop.store.asked["read"]


async def test_a_long_stream_is_read_once() -> None:
    """What it has come to is kept; after that only news are read, over more than a page if need be."""
    shop = Shop()
    other = shop.brakes(OTHER)
    await shop.opened()
    assert "Open" == await shop.stands(other)
    for _ in range(130):
        shop.now_ms += 70_000
        await shop.call("timeout")
    shop.now_ms += 250
    shop.store.asked.clear()
    assert "Open" == await shop.stands(other)
    assert Counter(streams=2) == shop.store.asked
    assert (await shop.mine.standing(*FLASH)) == (await other.standing(*FLASH))


async def test_nothing_is_read_where_none_is_kept() -> None:
    """With ``failures = 0`` there are no breakers, whatever the ledger holds of them."""
    shop = Shop()
    await shop.opened()
    none = Brakes(shop.desk(), BreakerSettings(0, 5000, 60_000))
    stream = await shop.recorded(await shop.begin(), "rate_limited", retry_after_ms=60_000)
    shop.store.asked.clear()
    assert CLOSED == await none.standing(*FLASH)
    await none.after(stream[0].task_id, *FLASH, stream)
    assert Counter() == shop.store.asked


async def test_somebody_else_was_first() -> None:
    """A conflict is read and decided anew: the same brake is not opened twice."""
    shop = Shop()
    other = shop.brakes(OTHER)
    first, second = await shop.begin(), await shop.begin()
    for brakes in (shop.mine, other):
        await brakes.standing(*FLASH)
    shop.store.first = lambda: shop.end(second, "rate_limited", other, retry_after_ms=5000)
    await shop.end(first, "rate_limited", retry_after_ms=5000)
    assert ["retry_after"] == await shop.causes()
    assert "Open" == await shop.stands()


async def test_two_who_close_at_once() -> None:
    """One of them does."""
    shop = Shop()
    await shop.opened()
    shop.now_ms += 5000
    other = shop.brakes(OTHER)
    trials = [await shop.begin(), await shop.begin()]
    for brakes in (shop.mine, other):
        await brakes.standing(*FLASH)
    shop.store.first = lambda: shop.end(trials[1], None, other)
    await shop.end(trials[0])
    assert ["retry_after", "closed"] == await shop.causes()


async def test_a_ledger_that_cannot_be_used_keeps_no_answer_from_its_caller() -> None:
    """The outcome is recorded; who asks how a breaker stands is told, and no call is made."""
    shop = Shop()
    stream = await shop.recorded(await shop.begin(), "rate_limited", retry_after_ms=5000)
    shop.store.fault = LedgerBusy("somebody holds the lock")
    await shop.mine.after(stream[0].task_id, *FLASH, stream)
    with pytest.raises(LedgerBusy):
        await shop.mine.standing(*FLASH)


async def test_an_outcome_elsewhere_is_not_this_breakers() -> None:
    """Nor is a stream without one."""
    shop = Shop()
    task = await shop.begin()
    await shop.mine.after(task, *FLASH, await shop.store.read(task))
    stream = await shop.recorded(task, "rate_limited", retry_after_ms=5000)
    await shop.mine.after(task, "simulated", "haiku", stream)
    assert ([], ()) == (await shop.causes(), await shop.store.read("breaker:simulated/haiku"))


async def test_what_is_decided_by_brakes_verifies() -> None:
    """Tasks handed over, tasks that wait and tasks that wait again: their decisions, and what they saw, hold."""
    shop = Shop()
    route = (step("flash"), step("haiku"))
    names = ("waits-1", "waits-2", "moves-1", "moves-2")
    for name in names:
        asked = request(route=route if name.startswith("moves") else route[:1])
        await shop.store.append(shop.desk().sealed(name, 0, History(asked).events, fence=0))
    await shop.opened()
    for _ in range(3):
        for name in names:
            state = state_of(await shop.store.read(name))
            assert not isinstance(state, Absent)
            standing = await shop.mine.standing(state.task.at.provider, state.task.at.model)
            sights = (standing.seen,) if isinstance(standing, Open) else ()
            await shop.desk().transact(name, c.Brake(c.Seen(shop.now_ms, brakes=sights)))
        shop.now_ms += 60_000
        await shop.call("timeout")
    decided = [one.type for name in ("moves-1", "waits-1") for one in (await shop.store.read(name))[1:]]
    assert ["fallback.selected", *["retry.scheduled"] * 3] == decided
    problems = (await verify(shop.store)).problems
    assert set() == {problem.kind for problem in problems} - {"payload"}


def test_brakes_outlive_an_event_loop() -> None:
    """An executor may be used from one loop after the other."""
    shop = Shop()
    for _ in range(2):
        assert "Closed" == asyncio.run(shop.stands())
        shop.now_ms += 1000


async def test_on_a_file_two_executors_share_a_breaker(tmp_path: Path) -> None:
    """What one opens keeps the other off; the trial of the other closes it for both."""
    now_ms, ids = [START_MS], count(1)
    ports = Ports(now_ms=lambda: now_ms[0], new_id=lambda: f"id-{next(ids)}")
    async with Ledger.open(tmp_path / "dispatch.db", ports=ports) as ledger:
        store = await ledger.store()
        desks = [Desk(store, ports, worker) for worker in (WORKER, OTHER)]
        one, other = (Brakes(desk, SETTINGS) for desk in desks)

        async def call(brakes: Brakes, task: str, error: ErrorType | None) -> None:
            running = await store.append(desks[0].sealed(task, 0, History().start().events, fence=1))
            outcome = succeeded(1) if error is None else failed(1, error)
            record = c.Record(outcome, 1, seen(now_ms[0]))
            await brakes.after(task, *FLASH, await desks[0].transact(task, record, fence=1, known=running))

        for at in range(4):
            await call((one, other)[at % 2], f"task-{at}", "overloaded")
            now_ms[0] += 1
        now_ms[0] += 250
        assert ["Open", "Open"] == [type(await each.standing(*FLASH)).__name__ for each in (one, other)]
        now_ms[0] += 5000
        assert [HALF_OPEN, HALF_OPEN] == [await each.standing(*FLASH) for each in (one, other)]
        await call(other, "trial", None)
        now_ms[0] += 250
        assert [CLOSED, CLOSED] == [await each.standing(*FLASH) for each in (one, other)]
        assert ["breaker.opened", "breaker.closed"] == [recorded.type for recorded in await store.read(STREAM)]
