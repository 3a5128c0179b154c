"""Corners of the executor: the loop ends under an answer, a planted folder, a queue for a provider's places."""

from __future__ import annotations

import asyncio
import tempfile
import weakref
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from clients.base import ExecutionResult
from ledger import Config, Executor, Ledger
from ledger.breakers import BreakerSettings
from ledger.envelope import Append, NewEvent, Stream
from ledger.errors import LedgerBusy, LedgerFull, UsageError
from ledger.executor.attempt import Attempt
from ledger.executor.bench import Bench
from ledger.executor.books import Books
from ledger.executor.brakes import Brakes
from ledger.executor.driver import Driver
from ledger.executor.listening import Listener
from ledger.executor.outcomes import Ended
from ledger.executor.pool import Pool
from ledger.executor.presence import Heartbeat, Others
from ledger.executor.recording import record
from ledger.executor.sending import Sent
from ledger.executor.spill import Spilled, read_spilled, spill
from ledger.executor.transact import Desk, state_of
from ledger.ports import Ports
from ledger.registry import ModelRegistry
from ledger.state import Waiting
from ledger.store.memory import MemoryStore
from ledger.system_events import BreakerOpened
from tests.histories import START_MS, WORKER, History, request, step, succeeded
from tests.ledgers import fresh_ledger
from tests.world import Scripted, World, answer

OUTCOME = Ended(succeeded(), None, ())


@dataclass
class Locked:
    """A store that somebody else keeps locked."""

    async def append(self, append: Append) -> Stream:
        raise LedgerBusy(f"{append.task_id} cannot be written now")


def ports() -> Ports:
    return Ports(now_ms=lambda: START_MS, draw_ppm=lambda _: 0)


def bench(desk: Desk, folder: Path) -> Bench:
    """Lay tools out for somebody who beats for nobody; every call is answered."""
    registry, world = ModelRegistry(Config()), World(folder)
    others = Others(desk.worker, desk.store, folder, desk.ports)
    heartbeat = Heartbeat(desk.worker, desk.store, desk.ports)
    brakes = Brakes(desk, BreakerSettings(20, 5000, 60_000))
    return Bench(
        desk,
        Pool(registry, lambda *which: Scripted(world, *which[:2])),
        others,
        brakes,
        Books(desk, {}),
        heartbeat,
        folder,
        [],
    )


async def written(store: MemoryStore, task_id: str, history: History) -> Stream:
    """Append a whole history."""
    events = [NewEvent(f"{task_id}/{number}", event, WORKER, 1) for number, event in enumerate(history.events)]
    return await store.append(Append(task_id, 0, tuple(events)))


def kept(folder: Path) -> list[Spilled]:
    """Read what lies in a folder."""
    return [read_spilled(path.read_bytes()) for path in folder.glob("*.spill")]


async def test_the_end_of_the_loop_keeps_an_answer(tmp_path: Path) -> None:
    """An answer that waits for a locked ledger is written beside it when the loop ends; the next start brings it in."""
    store, history = MemoryStore(now_ms=lambda: START_MS), History().start()
    stream = await written(store, "t", history)
    locked = bench(Desk(Locked(), ports(), WORKER), tmp_path)  # type: ignore[arg-type]  # as much of a store as is used
    started = stream[-1].event()
    recording = asyncio.create_task(record(locked, stream, started, OUTCOME, history.task))  # type: ignore[arg-type]  # an attempt.started
    await asyncio.sleep(0.01)
    recording.cancel()
    await asyncio.wait({recording})
    assert (True, [Spilled("t", 1, OUTCOME)]) == (recording.cancelled(), kept(tmp_path))


def test_a_planted_folder_is_given_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ledger's folder takes nothing, and the temporary one is somebody's trap, the answer is told as lost."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    beside = tmp_path / "file" / "workers"
    folder = spill(beside, Spilled("t", 1, OUTCOME)).parent
    assert (tmp_path, [Spilled("t", 1, OUTCOME)]) == (folder.parent, kept(folder))
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(LedgerFull, match="is lost"):
        spill(beside, Spilled("t", 2, OUTCOME))


async def test_a_braked_rung_waits(tmp_path: Path) -> None:
    """No fallback leads on from the ladder: an open breaker there is waited for, and nothing spins meanwhile."""
    climbing = request(judge=(step("sonnet", 1),), ladder=(step("pro", 1), step("opus", 1)))
    history = History(climbing).start().succeed().start().judge(passed=False, escalate=True)
    store = MemoryStore(now_ms=lambda: START_MS)
    stream, at = await written(store, "t", history), history.task.at
    opened = BreakerOpened(
        provider=at.provider, model=at.model, cause="failures", until_ms=START_MS + 5000, open_ms=5000, failures=()
    )
    await store.append(Append(f"breaker:{at.provider}/{at.model}", 0, (NewEvent("b", opened, "system"),)))
    mine = bench(Desk(store, ports(), WORKER), tmp_path)
    stream = await Driver(mine, Attempt(mine, Sent("p"), Listener())).drive("t", stream, patient=False)
    state = state_of(stream)
    assert isinstance(state, Waiting)
    assert (START_MS + 5000, "retry.scheduled") == (state.not_before_ms, stream[-1].type)


async def test_a_dead_ones_call_keeps_no_trial_away(tmp_path: Path) -> None:
    """Who may not make its trial looks whether the one whose call stands in the way still lives."""
    store, at = MemoryStore(now_ms=lambda: START_MS), step()
    await written(store, "dead", History().start("worker:dead"))
    opened = BreakerOpened(
        provider=at.provider, model=at.model, cause="failures", until_ms=START_MS - 1, open_ms=5000, failures=()
    )
    await store.append(Append(f"breaker:{at.provider}/{at.model}", 0, (NewEvent("b", opened, "system"),)))
    mine = bench(Desk(store, ports(), WORKER), tmp_path)
    driver = Driver(mine, Attempt(mine, Sent("p"), Listener()))
    async with asyncio.timeout(10):
        stream = await driver.drive("t", await written(store, "t", History()))
    ends = [recorded.type for recorded in await store.read("dead")]
    assert (["attempt.orphaned", "retry.scheduled"], "task.succeeded") == (ends[-2:], stream[-1].type)


async def test_nobody_overtakes_who_asks_for_a_place(tmp_path: Path) -> None:
    """Whoever comes later queues behind, even if a place is free by then; an end of one's own is heard of at once."""
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    config = Config.from_mapping({"providers": {"gemini": {"concurrency": 2}}})
    world, ends, asking = (
        World(tmp_path, config=config),
        defaultdict[str, asyncio.Event](asyncio.Event),
        asyncio.Event(),
    )

    async def played() -> ExecutionResult:
        await ends[world.calls[-1][1]].wait()
        return answer()

    async def asked(_: float) -> None:
        await asking.wait()

    world.script = [played]
    async with Ledger.open(world.path) as ledger:

        def executor(mine: Ports) -> Executor:
            return Executor(ledger, config, ports=mine, build=lambda *which: Scripted(world, *which[:2]))

        async with executor(Ports()) as first, executor(Ports(sleep=asked)) as second:
            theirs = [asyncio.create_task(first.execute("flash", prompt)) for prompt in ("a", "b")]
            await _calls(world, 2)
            ours = [asyncio.create_task(second.execute("flash", "early"))]
            await _submitted(world, 3)
            ends["a"].set()
            await theirs[0]
            ours.append(asyncio.create_task(second.execute("flash", "late")))
            await _submitted(world, 4)
            before = [prompt for _, prompt in world.calls]
            asking.set()
            await _calls(world, 3)
            asking.clear()
            for prompt in ("early", "b", "late"):
                ends[prompt].set()
            results = await asyncio.wait_for(asyncio.gather(*theirs[1:], *ours), 20)
    assert (["a", "b"], "early") == (sorted(before), world.calls[2][1])
    assert [True] * 3 == [result.success for result in results]


async def _calls(world: World, count: int) -> None:
    async with asyncio.timeout(20):
        while len(world.calls) < count:  # noqa: ASYNC110 - a call tells nobody
            await asyncio.sleep(0.005)


async def _submitted(world: World, count: int) -> None:
    async with asyncio.timeout(20):
        while world.types().count("task.submitted") < count:  # noqa: ASYNC110 - nor does an append
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)


async def test_who_is_refused_after_waiting_gives_the_place_back() -> None:
    """Closed while one waited for a place: it is refused, and the place is there when the executor opens again."""
    pool = Pool(ModelRegistry(Config()))
    most = pool.concurrency("anthropic")
    async with AsyncExitStack() as taken:
        for _ in range(most):
            await taken.enter_async_context(pool.flight("anthropic"))
        late = asyncio.create_task(taken.enter_async_context(pool.flight("anthropic")))
        await asyncio.sleep(0)
        pool.closed = True
    with pytest.raises(UsageError):
        await late
    pool.closed = False
    async with asyncio.timeout(5), AsyncExitStack() as again:
        for _ in range(most):
            await again.enter_async_context(pool.flight("anthropic"))


async def test_an_attempt_that_is_over_is_kept_by_nobody() -> None:
    """What closing waits for does not grow with every attempt."""
    pool = Pool(ModelRegistry(Config()))
    flying = pool.take_off()
    kept_by = weakref.ref(flying)
    pool.land(flying)
    del flying
    assert kept_by() is None
