"""What a restart finds and does: orphans of the dead, nobody else's, and everything that was decided stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.errors import UsageError
from ledger.ports import Ports
from tests.ledgers import fresh_ledger
from tests.mortals import Fault, HastyLoop, Mortal, Witness, configured, dispatching, mortals
from tests.world import Scripted, World, answer, fail, rows

NEVER: Final = 10**9


class Crash(RuntimeError):
    """What a process dies of in its own process."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    return World(tmp_path)


@asynccontextmanager
async def executor(world: World, **ports: Any) -> AsyncIterator[Executor]:
    """Be another process: an executor with a ledger of its own."""
    owned = replace(world.ports(), **ports)
    async with Ledger.open(world.path, ports=owned) as ledger:
        built = Executor(
            ledger, world.config, ports=owned, build=lambda provider, model, _: Scripted(world, provider, model)
        )
        async with built:
            yield built


def crash_at(point: str, time: int = 1) -> Callable[[str], None]:
    """Die at the n-th passing of a point."""
    left = time

    def passing(name: str) -> None:
        nonlocal left
        left -= name == point
        if name == point and left == 0:
            raise Crash(point)

    return passing


async def crashed(world: World, tier: str, point: str, time: int = 1) -> None:
    """Let a process die with its task under way."""
    async with executor(world, passing=crash_at(point, time)) as dying:
        with pytest.raises(Crash):
            await dying.execute(tier, "hello", idempotency_key="k")


def test_the_dead_ones_are_settled_and_no_others(tmp_path: Path) -> None:
    """A restart finds what a killed process had in flight; what a living one has in flight is let alone."""
    path = fresh_ledger(tmp_path)
    with Witness() as witness, mortals() as living:
        living += [Mortal(dispatching, path, witness.url, Fault("after call", "pause"), key) for key in "ab"]
        killed = Mortal(dispatching, path, witness.url, Fault("after call", "kill"), "c")
        assert killed.ended() == -9
        assert [mortal.said() for mortal in living] == ["after call"] * 2

        async def restart() -> None:
            async with Ledger.open(path) as ledger, Executor(ledger, configured(witness.url)) as restarted:
                await restarted.execute("haiku", "another")
                assert await restarted.resume() == (await restarted.result(orphaned()[0]),)

        def orphaned() -> list[str]:
            found = rows(path, "SELECT task_id FROM events WHERE type = 'attempt.orphaned'")
            return [row["task_id"] for row in found]

        asyncio.run(restart())
        assert len(orphaned()) == 1
        for mortal in living:
            mortal.pipe.send("go on")
        assert [mortal.said() for mortal in living] == ["answer to hello"] * 2
    states = rows(path, "SELECT idempotency_key AS k, state, attempts FROM tasks WHERE k IS NOT NULL ORDER BY k")
    assert [(row["k"], row["state"], row["attempts"]) for row in states] == [
        ("a", "succeeded", 1),
        ("b", "succeeded", 1),
        ("c", "succeeded", 2),
    ]


@pytest.mark.parametrize(
    ("on_unknown", "events", "calls", "error"),
    [
        ("retry", ["retry.scheduled", "attempt.started", "attempt.succeeded", "task.succeeded"], 2, None),
        ("hold", ["task.held"], 1, None),
        ("fail", ["task.failed"], 1, "worker_died"),
    ],
)
async def test_what_follows_an_orphan(
    world: World, on_unknown: str, events: list[str], calls: int, error: str | None
) -> None:
    """As the policy says that the task was submitted under."""
    world.config = Config.model_validate({"retry": {"on_unknown": on_unknown}})
    await crashed(world, "haiku", "after call")
    world.config = Config()
    async with executor(world) as restarted:
        result = await restarted.execute("haiku", "hello", idempotency_key="k")
    assert world.types() == ["task.submitted", "attempt.started", "attempt.orphaned", *events]
    assert (len(world.calls), result.success, result.error_type) == (calls, on_unknown == "retry", error)
    orphan = rows(world.path, "SELECT cost_nano_usd, usage_source, state FROM attempts WHERE attempt = 1")
    assert orphan == [{"cost_nano_usd": None, "usage_source": "unknown", "state": "orphaned"}]


@pytest.mark.parametrize("most", [0, 2])
async def test_a_task_that_kills_its_workers_fails(world: World, most: int) -> None:
    """After more orphans in a row than may be, and not one call more."""
    world.config = Config.model_validate({"retry": {"max_orphans": most}})
    for _ in range(most + 1):
        await crashed(world, "haiku", "after call")
    async with executor(world) as restarted:
        result = await restarted.execute("haiku", "hello", idempotency_key="k")
    assert (result.error_type, result.attempts, len(world.calls)) == ("worker_died", most + 1, most + 1)
    assert world.types()[-1] == "task.failed"


async def test_an_outcome_starts_the_count_anew_and_a_restart_does_not(world: World) -> None:
    """Two orphans, a failure, two orphans: with two allowed, the task lives."""
    world.config = Config.model_validate({"retry": {"max_orphans": 2}})
    world.script = [answer("lost"), answer("lost"), fail("overloaded"), answer("lost"), answer("lost"), answer()]
    await crashed(world, "haiku", "after call")
    await crashed(world, "haiku", "after call")
    await crashed(world, "haiku", "after call", 2)
    await crashed(world, "haiku", "after call")
    async with executor(world) as restarted:
        result = await restarted.execute("haiku", "hello", idempotency_key="k")
    assert (result.success, result.attempts) == (True, 6)


async def test_a_wait_goes_on_where_it_was(world: World) -> None:
    """Killed after 5 s of a minute, 55 s are left; the clock is the world's."""
    world.script = [fail("rate_limited", retry_after_ms=60_000), answer()]
    world.config = Config.model_validate({"breakers": {"failures": 0}})

    async def dies(_: float) -> None:
        world.now_ms += 5_000
        raise Crash("asleep")

    async with executor(world, sleep=dies) as dying:
        with pytest.raises(Crash):
            await dying.execute("haiku", "hello", idempotency_key="k")
    async with executor(world) as restarted:
        result = await restarted.execute("haiku", "hello", idempotency_key="k")
    assert (result.success, result.attempts) == (True, 2)
    assert sum(world.slept) == pytest.approx(55)


async def test_a_fallback_stands(world: World) -> None:
    """Killed after it, nobody calls the first tier again."""
    world.scripts = {"gemini-2.5-flash": [fail("authentication")]}
    await crashed(world, "flash", "after call", 2)
    before = len(world.calls)
    async with executor(world) as restarted:
        result = await restarted.execute("flash", "hello", idempotency_key="k")
    assert (result.success, result.tier) == (True, "haiku")
    assert [model for model, _ in world.calls[before:]] == ["claude-haiku-5-5"]


async def test_two_who_start_at_once_record_it_once(world: World) -> None:
    """Both find the same orphans."""
    for key in range(4):
        async with executor(world, passing=crash_at("after call")) as dying:
            with pytest.raises(Crash):
                await dying.execute("haiku", f"{key}", idempotency_key=f"{key}")

    async def come() -> None:
        async with executor(world) as restarted:
            await restarted.work(drain=True)

    await asyncio.gather(come(), come(), come())
    assert world.types().count("attempt.orphaned") == 4
    assert world.types().count("task.succeeded") == 4


async def test_a_late_answer_is_used_while_the_task_waits(world: World) -> None:
    """Held since its lease was over: the worker that stood still brings the answer, and nobody is called again."""
    world.config = Config.model_validate({"retry": {"on_unknown": "hold"}})
    path, now_ms = world.path, Ports().now_ms
    ahead = Ports(now_ms=lambda: now_ms() + 120_000)

    async def given_up(url: str) -> str | None:
        async with (
            Ledger.open(path, ports=ahead) as ledger,
            Executor(ledger, configured(url, on_unknown="hold"), ports=ahead) as impatient,
        ):
            result = await impatient.execute("haiku", "hello", idempotency_key="k")
            assert (await verify(await ledger.store())).problems == ()
        return result.error

    async def submitted(url: str) -> None:
        async with Ledger.open(path) as ledger, Executor(ledger, configured(url, on_unknown="hold")) as queueing:
            await queueing.submit("haiku", "hello", idempotency_key="k")

    def story() -> None:
        with Witness() as witness, mortals() as living:
            asyncio.run(submitted(witness.url))
            still = Mortal(dispatching, path, witness.url, Fault("after call", "pause"))
            living.append(still)
            assert still.said() == "after call"
            with asyncio.Runner(loop_factory=HastyLoop) as runner:
                assert "waits for a person" in (runner.run(given_up(witness.url)) or "")
            still.pipe.send("go on")
            assert still.said() == "answer to hello"
            assert len(witness.log) == 1

    await asyncio.to_thread(story)
    ends = ["attempt.started", "attempt.orphaned", "task.held", "attempt.settled", "task.succeeded"]
    assert world.types() == ["task.submitted", *ends]
    causes = rows(path, "SELECT json_extract(data, '$.cause') AS cause FROM events WHERE type = 'attempt.orphaned'")
    assert causes == [{"cause": "lease_expired"}]


async def test_ones_own_attempt_that_was_lost_is_given_up(world: World) -> None:
    """An executor that lives on, and whose attempt does not, is no reason to wait for ever; its lease is."""
    async with executor(world, passing=crash_at("after call")) as stumbling:
        with pytest.raises(Crash):
            await stumbling.execute("haiku", "hello", idempotency_key="k")
        result = await stumbling.execute("haiku", "hello", idempotency_key="k")
    assert (result.success, result.attempts) == (True, 2)
    assert 45 <= sum(world.slept) <= 46
    assert world.types()[2] == "attempt.orphaned"


async def test_a_clock_that_jumps_gives_nobody_up_who_is_heard_of(world: World) -> None:
    """Neither by its own process nor by another, whatever the clock says of its lease."""
    reached, release = asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        reached.set()
        await release.wait()
        return answer()

    world.script = [slow]
    async with executor(world) as first, executor(world) as second:
        asked = [asyncio.create_task(first.execute("haiku", "hello", idempotency_key="k")) for _ in range(2)]
        await reached.wait()
        asked.append(asyncio.create_task(second.execute("haiku", "hello", idempotency_key="k")))
        for _ in range(3):
            world.now_ms += 3_600_000
            await asyncio.sleep(0.05)
        release.set()
        results = await asyncio.gather(*asked)
    assert [result.attempts for result in results] == [1] * 3
    assert len(world.calls) == 1


async def test_nothing_begins_that_waited_until_the_executor_was_closed(world: World) -> None:
    """A task that has to run alone waits for its neighbours; closing ends them, and it makes no call any more."""
    await crashed(world, "haiku", "after call")
    calls = len(world.calls)
    reached = asyncio.Event()

    async def stuck() -> Any:
        reached.set()
        await asyncio.sleep(NEVER)

    world.script = [stuck]
    async with executor(world) as closing:
        neighbour = asyncio.create_task(closing.execute("haiku", "neighbour"))
        await reached.wait()
        alone = asyncio.create_task(closing.execute("haiku", "hello", idempotency_key="k"))
        await asyncio.sleep(0.05)
    assert isinstance((await asyncio.gather(alone, return_exceptions=True))[0], UsageError)
    await asyncio.gather(neighbour, return_exceptions=True)
    assert len(world.calls) == calls + 1
