"""Caps on spending: what is decided of them, how a dispatch meets them, and that nobody can overspend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from clients.base import ExecutionResult, Usage
from ledger import Config
from ledger import commands as c
from ledger import events as e
from ledger.audit.decisions import asked_again
from ledger.dispatch import decide
from ledger.evolve import evolve, fold
from ledger.executor.budgets import Budgets
from ledger.parts import BudgetSeen
from ledger.policy import Tier
from ledger.state import Ended, Waiting
from tests.histories import History, request, step, told
from tests.world import World, answer, fail, rows

HAIKU: Final = "claude-haiku-5-5"
BOUND: Final = (len("hello") + 2_048) * 1_000 + 100 * 2_500
"""The most that ``hello`` costs on haiku for 100 tokens: every input byte written to the cache for an hour, and all of
it more than 100,000 tokens, where the prices are the highest."""
COST: Final = 1_000 * 100 + 100 * 500


def seen(*, limit: int = 100, settled: int = 0, reserved: int = 0, position: int = 9, **more: int | None) -> BudgetSeen:
    """See a cap, with 10 asked."""
    sums = {"unknown": 0, "asked": 10, **more}
    return BudgetSeen(cap="max_usd_per_day", limit=limit, settled=settled, reserved=reserved, position=position, **sums)


@pytest.mark.parametrize(
    ("budgets", "rules"),
    [
        pytest.param([], [], id="nothing seen"),
        pytest.param([seen(settled=50, unknown=10, reserved=30)], [], id="fits to the last"),
        pytest.param([seen(settled=50, unknown=10, reserved=31)], ["budget"], id="reserved"),
        pytest.param([seen(settled=90, reserved=5)], ["budget"], id="reserved, and just fits without"),
        pytest.param([seen(settled=91)], ["cap", "ends_the_task"], id="settled"),
        pytest.param([seen(unknown=91)], ["cap", "ends_the_task"], id="unknown"),
        pytest.param([seen(asked=101, reserved=1)], ["cap", "ends_the_task"], id="more than the cap"),
        pytest.param([seen(asked=None)], ["unpriced", "ends_the_task"], id="asked without a price"),
        pytest.param([seen(unknown=None)], ["unknown_spend", "ends_the_task"], id="spent without a bound"),
        pytest.param([seen(reserved=99), seen(settled=91)], ["cap", "ends_the_task"], id="one waits, one refuses"),
    ],
)
def test_what_a_cap_leads_to(budgets: list[BudgetSeen], rules: list[str]) -> None:
    """Refused is what fits beside no end of the running ones; it waits where one of them may make room."""
    history = History(request(route=(step("flash"), step("haiku"))))
    state, command = history.state, c.Budget(replace(history.seen(), budgets=tuple(budgets)))
    events = decide(state, command)
    assert [
        event.rule for event in events if isinstance(event, e.BudgetRefused | e.RetryScheduled | e.TaskFailed)
    ] == rules
    assert all(event.inputs.budgets == tuple(budgets) for event in events if isinstance(event, e.BudgetRefused))
    assert decide(fold(events, state), command) == ()
    for event in events:
        assert asked_again(state, event) is None
        state = evolve(state, event)
    assert isinstance(state, Ended) == (len(rules) == 2)
    assert not isinstance(state, Waiting) or state.not_before_ms == history.now_ms + 1_000


def test_a_refusal_within_an_escalation_leaves_the_answer() -> None:
    """The earlier answer stands, not accepted; a judge's call that is refused is a judgement that could not be had."""
    up = History(request(route=(step("flash"),), judge=(step("sonnet"),), ladder=(step("opus"),)))
    up.start().succeed()
    refused = c.Budget(replace(up.seen(), budgets=(seen(settled=99),)))
    judging = decide(up.state, refused)
    assert [event.TYPE for event in judging] == ["budget.refused", "validation.errored", "task.succeeded"]
    up.start().judge(passed=False, escalate=True)
    climbing = decide(up.state, refused)
    assert [event.TYPE for event in climbing] == ["budget.refused", "task.succeeded"]
    (end,) = (event for event in (judging[-1], climbing[-1]) if event is climbing[-1])
    assert isinstance(end, e.TaskSucceeded)
    assert (end.attempt, end.accepted, end.reason) == (1, False, "budget_refused")
    assert told(list(climbing))


CAPS: Final = {
    "budget": {
        "max_usd_per_task": 1,
        "max_usd_per_day": 2,
        "per_label": {"team=a": 3, "team=b=c": 4},
        "per_tier": {"opus": 5},
    }
}


@pytest.mark.parametrize(
    ("tier", "labels", "names"),
    [
        ("flash", {}, ["max_usd_per_task", "max_usd_per_day"]),
        ("opus", {}, ["max_usd_per_task", "max_usd_per_day", "per_tier.opus"]),
        ("flash", {"team": "a"}, ["max_usd_per_task", "max_usd_per_day", "per_label.team=a"]),
        ("flash", {"team": "b=c", "app": "a"}, ["max_usd_per_task", "max_usd_per_day", "per_label.team=b=c"]),
        ("flash", {"app": "a"}, ["max_usd_per_task", "max_usd_per_day"]),
    ],
)
def test_which_caps_hold(tier: Tier, labels: dict[str, str], names: list[str]) -> None:
    """The task's as it was pinned, the day's, those of its labels, that of the step's tier."""
    history = History(request(labels=labels, limits={"attempts": 9, "cost_nano_usd": 10**9}))
    caps = Budgets(Config.from_mapping(CAPS).budget).caps(history.task.submitted, tier)
    assert [cap.name for cap in caps] == names
    assert [cap.limit_nano_usd for cap in caps][:2] == [10**9, 2 * 10**9]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, [paid()])


def paid(model: str = HAIKU, **known: Any) -> ExecutionResult:
    """Return an answer that cost COST."""
    counts = {"input_uncached_tokens": 1_000, "output_tokens": 100}
    none = dict.fromkeys(("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"), 0)
    return answer().model_copy(
        update={"usage": (Usage(model=model, **counts, **none),), "served_model": model, **known}
    )


def capped(world: World, **caps: Any) -> None:
    """Write caps, in nano-USD, into the configuration."""
    budget = {name: value / 10**9 if isinstance(value, int) else value for name, value in caps.items()}
    world.config = Config.from_mapping({"budget": budget, "retry": {"max_tokens": 100, "jitter": 0}})


async def until(true: Callable[[], bool]) -> None:
    """Let the others run until something is so."""
    while not true():  # noqa: ASYNC110 - the world's clock tells nobody
        await asyncio.sleep(0)


def standing(world: World) -> int:
    """Sum what was spent, and may have been, by another program's eyes."""
    (row,) = rows(world.path, "SELECT sum(coalesce(cost_nano_usd, exposure_nano_usd)) AS n FROM attempts")
    return int(row["n"] or 0)


async def test_a_first_attempt_that_does_not_fit_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is called; submission, refusal and end are one transaction; the error says which cap, and what stands."""
    capped(world, max_usd_per_day=BOUND - 1)
    appended: list[list[str]] = []
    async with world.executor() as executor:
        store = await executor.ledger.store()
        append = store.append

        async def counting(batch: Any) -> Any:
            appended.append([new.event.TYPE for new in batch.events])
            return await append(batch)

        monkeypatch.setattr(store, "append", counting)
        result = await executor.execute("haiku", "hello")
    assert appended[-1] == ["task.submitted", "budget.refused", "task.failed"]
    assert (result.success, result.error_type, result.attempts, world.calls) == (False, "budget_refused", 0, [])
    assert result.error == (
        "budget.max_usd_per_day = 0.002302999 USD refuses the call to haiku, which may cost 0.002303 USD: 0.00 USD are "
        "spent; raise the cap, or ask for fewer max_tokens"
    )
    decided = rows(world.path, "SELECT decision, tier_from, reason FROM decisions ORDER BY version")
    assert [tuple(row.values()) for row in decided][1:] == [
        ("refused", "haiku", "budget_refused"),
        ("fail_fast", "haiku", "budget_refused"),
    ]


async def test_calls_go_on_until_the_next_one_does_not_fit(world: World) -> None:
    """Each is asked with its bound and settled with its cost; at no instant is there more than the cap."""
    capped(world, max_usd_per_day=BOUND + 3 * COST)
    world.watch = lambda _: standings.append(standing(world))
    standings: list[int] = []
    async with world.executor() as executor:
        results = [await executor.execute("haiku", "hello") for _ in range(6)]
        assert [result.success for result in results] == [True] * 4 + [False] * 2
        assert "wait for the next day (UTC)" in (results[-1].error or "")
        world.now_ms += 86_400_000
        assert (await executor.execute("haiku", "hello")).success
    assert standings == [BOUND + done * COST for done in (0, 1, 2, 3)] + [BOUND + 4 * COST]


async def test_what_only_reservations_keep_out_waits(world: World) -> None:
    """One that runs may come cheaper: the other waits, spends nothing by that, and says so once however long."""
    capped(world, max_usd_per_day=2 * BOUND - 1)
    going = asyncio.Event()

    async def slowly() -> ExecutionResult:
        await going.wait()
        return paid()

    world.script = [slowly, paid()]
    async with world.executor() as executor:
        first = asyncio.create_task(executor.execute("haiku", "hello"))
        await until(lambda: bool(world.calls))
        second = asyncio.create_task(executor.execute("haiku", "hello"))
        await until(lambda: len(world.slept) >= 30)
        waiting = rows(world.path, "SELECT state, waiting_for, attempts FROM tasks ORDER BY task_id DESC")[0]
        assert tuple(waiting.values()) == ("waiting", "budget", 0)
        going.set()
        results = await asyncio.gather(first, second)
    assert [(result.success, result.cost_nano_usd, result.attempts) for result in results] == [(True, COST, 1)] * 2
    assert [world.types(result.task_id).count("retry.scheduled") for result in results] == [0, 1]


async def test_a_wait_ends_in_a_refusal_where_the_money_was_spent(world: World) -> None:
    """The call that had reserved may have cost all of it: what is unknown counts with its bound."""
    capped(world, max_usd_per_day=2 * BOUND - 1)
    going = asyncio.Event()

    async def lost() -> ExecutionResult:
        await going.wait()
        return fail("content_refused", usage_source="unknown")

    world.script = [lost]
    async with world.executor() as executor:
        first = asyncio.create_task(executor.execute("haiku", "hello"))
        await until(lambda: bool(world.calls))
        second = asyncio.create_task(executor.execute("haiku", "hello"))
        await until(lambda: len(world.slept) >= 3)
        going.set()
        results = await asyncio.gather(first, second)
    assert [result.error_type for result in results] == ["content_refused", "budget_refused"]
    assert "0.002303 USD more of calls whose cost is unknown" in (results[1].error or "")
    assert world.types(results[1].task_id) == [
        "task.submitted",
        "retry.scheduled",
        "budget.refused",
        "task.failed",
    ]


@pytest.mark.parametrize(
    ("room", "calls", "end"),
    [(0, 1, "budget_refused"), (BOUND - 1, 1, "budget_refused"), (BOUND, 2, None), (2 * BOUND, 2, None)],
)
async def test_a_tasks_own_cap_holds_for_its_retries(world: World, room: int, calls: int, end: str | None) -> None:
    """A first attempt whose cost is unknown is taken to have cost its bound; the pinned cap rules ever after."""
    capped(world, max_usd_per_task=BOUND + room)
    world.script = [fail("timeout"), paid()]
    async with world.executor() as executor:
        result = await executor.execute("haiku", "hello", retry_count=1)
    assert (result.error_type, len(world.calls)) == (end, calls)


async def test_a_fallback_is_held_to_the_same_cap(world: World) -> None:
    """Flash failed and cost nothing; what takes over is refused by the cap of its tier."""
    capped(world, per_tier={"haiku": 0.001})
    world.scripts = {"gemini-2.5-flash": [fail("authentication")]}
    async with world.executor() as executor:
        result = await executor.execute("flash", "hello")
    assert (result.error_type, [model for model, _ in world.calls]) == ("budget_refused", ["gemini-2.5-flash"])
    assert (result.error or "").startswith("budget.per_tier.haiku = 0.001 USD refuses the call to haiku")


async def test_a_judge_is_held_to_the_same_cap(world: World) -> None:
    """Its prompt is what it is asked, not what was judged; a refused judgement is no pass."""
    capped(world, per_tier={"sonnet": 0.001})
    async with world.executor() as executor:
        verdict = await executor.validate_output("task", "output")
    assert (verdict["pass"], verdict["escalate"], world.calls) == (False, True, [])
    assert "budget.per_tier.sonnet" in verdict["issues"][0]


@pytest.mark.parametrize(("unpriced", "calls"), [("refuse", 0), ("allow", 3)])
async def test_an_unpriced_model_under_a_cap(world: World, unpriced: str, calls: int) -> None:
    """Nobody knows what it costs, so it is refused; allowed, it counts as nothing and the rest as ever."""
    capped(world, max_usd_per_day=10, unpriced=unpriced)
    tables = {"tiers": {"opus": {"provider": "simulated", "model": "free"}}}
    world.config = Config.from_mapping({"budget": {"max_usd_per_day": 1, "unpriced": unpriced}, **tables})
    async with world.executor() as executor:
        results = [await executor.execute("opus", "hello") for _ in range(3)]
    assert len(world.calls) == calls
    assert calls or all("its model has no price" in (result.error or "") for result in results)


async def test_a_refusal_beside_a_call_of_any_cost_says_what_helps(world: World) -> None:
    """No cap is high enough there, so a higher one is not what is advised."""
    world.config = Config.from_mapping({"tiers": {"opus": {"provider": "simulated", "model": "free"}}})
    async with world.executor() as executor:
        await executor.execute("opus", "hello")
    capped(world, max_usd_per_day=10.0)
    async with world.executor() as executor:
        result = await executor.execute("haiku", "hello")
    assert result.error == (
        "budget.max_usd_per_day = 10.00 USD refuses the call to haiku, which may cost 0.002303 USD: 0.00 USD are spent"
        ", and a call before it may have cost anything; settle that by `dispatch-ledger reconcile`, or wait for the "
        'next day (UTC), or write budget.unpriced = "allow"'
    )


async def test_labels_have_caps_of_their_own(world: World) -> None:
    """One team's spending is no other's."""
    capped(world, per_label={"team=a": (BOUND + COST) / 10**9})
    async with world.executor() as executor:
        a = [(await executor.execute("haiku", "hello", labels={"team": "a"})).success for _ in range(3)]
        b = [(await executor.execute("haiku", "hello", labels={"team": "b"})).success for _ in range(3)]
    assert (a, b) == ([True, True, False], [True] * 3)


async def test_many_at_once_never_overspend(world: World) -> None:
    """Of fifty that start together as many go first as fit; as they come in cheaper, more go, and at last none."""
    capped(world, max_usd_per_day=7 * BOUND)
    most: list[int] = []
    world.watch = lambda _: most.append(standing(world))
    async with world.executor() as executor:
        asked = (executor.execute("haiku", "hello", idempotency_key=str(number)) for number in range(50))
        results = await asyncio.gather(*asked)
    done = [result for result in results if result.success]
    assert len(done) == min(50, (7 * BOUND - BOUND) // COST + 1)
    assert max(most) <= 7 * BOUND
    assert standing(world) == COST * len(done)
