"""The executor: what it does, and what stands in the ledger when it does it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from clients.base import ExecutionResult
from clients.errors import ClientUnready
from ledger import Config, ModelTier
from ledger.errors import IdempotencyConflict, PromptRefused, RequestRefused, TaskNotFound
from tests.world import World, answer, fail, rows

CLEAN = ["task.submitted", "attempt.started", "attempt.succeeded", "task.succeeded"]
FLASH, HAIKU, SONNET = "gemini-2.5-flash", "claude-haiku-5-5", "claude-sonnet-5-5"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def verdict(*, passed: bool = True, issues: tuple[str, ...] = (), escalate: bool = False) -> ExecutionResult:
    body = {"pass": passed, "issues": list(issues), "confidence": 0.875, "escalate": escalate}
    return answer(json.dumps(body))


async def test_clean_success(world: World) -> None:
    """One call, four events in two transactions, and a result that says it all."""
    async with world.executor() as executor:
        result = await executor.execute(ModelTier.FLASH, "Say done")
    assert (result.success, result.response, result.tier, result.model) == (True, "done", "flash", FLASH)
    assert (result.tokens_input, result.tokens_output, result.attempts) == (10, 5, 1)
    assert (result.cost_nano_usd, result.error, result.error_type) == (None, None, None)
    assert world.types() == CLEAN


async def test_fails_twice_then_succeeds(world: World) -> None:
    """Two failures are waited out for one and two seconds, and the third try answers."""
    world.script = [fail("overloaded"), fail("rate_limited"), answer("third")]
    async with world.executor() as executor:
        result = await executor.execute("flash", "Try", retry_count=2)
    assert (result.success, result.response, result.attempts) == (True, "third", 3)
    assert world.slept == [1.0, 2.0]
    failed = ["attempt.failed", "retry.scheduled", "attempt.started"]
    assert world.types() == [
        "task.submitted",
        "attempt.started",
        *failed,
        *failed,
        "attempt.succeeded",
        "task.succeeded",
    ]


async def test_flash_hands_over_to_haiku(world: World) -> None:
    """After its tries flash hands over to haiku, which is tried once."""
    world.scripts = {FLASH: [fail("overloaded")], HAIKU: [answer("from haiku")]}
    async with world.executor() as executor:
        result = await executor.execute(ModelTier.FLASH, "Try", retry_count=2)
    assert [model for model, _ in world.calls] == [FLASH, FLASH, FLASH, HAIKU]
    assert (result.success, result.tier, result.response) == (True, "haiku", "from haiku")
    decisions = rows(world.path, "SELECT decision, tier_from, tier_to FROM decisions ORDER BY version")
    assert [tuple(row.values()) for row in decisions] == [
        ("route", None, "flash"),
        ("retry", "flash", "flash"),
        ("retry", "flash", "flash"),
        ("fallback", "flash", "haiku"),
        ("succeed", "haiku", None),
    ]


async def test_haiku_is_not_retried_after_a_fallback(world: World) -> None:
    """A fallback step has one try, and then the route is exhausted."""
    world.script = [fail("overloaded")]
    async with world.executor() as executor:
        result = await executor.execute("flash", "Try", retry_count=1)
    assert [model for model, _ in world.calls] == [FLASH, FLASH, HAIKU]
    assert (result.success, result.error_type, result.response) == (False, "overloaded", "")
    assert result.error == "the provider said overloaded; before it, flash: the provider said overloaded"
    assert rows(world.path, "SELECT decision FROM decisions ORDER BY version DESC")[0]["decision"] == "exhausted"


@pytest.mark.parametrize("tier", ["haiku", "sonnet", "opus"])
async def test_all_three_claude_tiers(world: World, tier: str) -> None:
    """Each Claude tier reaches its own model, and has no fallback."""
    world.script = [fail("overloaded"), answer(tier)]
    async with world.executor() as executor:
        result = await executor.execute(tier, "Who are you?")
    assert (result.response, result.tier, result.model) == (tier, tier, f"claude-{tier}-5-5")
    assert {model for model, _ in world.calls} == {f"claude-{tier}-5-5"}


async def test_missing_cli_goes_straight_to_the_fallback(world: World) -> None:
    """A client that cannot be made ready starts and fails in one transaction, billed nothing, and hands over."""
    world.unready = {"gemini": ClientUnready("install it with npm", error_type="client_missing")}
    async with world.executor() as executor:
        result = await executor.execute("flash", "Try")
    assert [model for model, _ in world.calls] == [HAIKU]
    assert (result.success, result.attempts) == (True, 2)
    first = rows(world.path, "SELECT * FROM attempts WHERE attempt = 1")[0]
    assert (first["error_type"], first["usage_source"], first["cost_nano_usd"]) == ("client_missing", "not_billed", 0)
    assert world.types()[:4] == ["task.submitted", "attempt.started", "attempt.failed", "fallback.selected"]


async def test_the_error_says_why_each_step_was_left(world: World) -> None:
    """When the fallback fails too, the first step's own trouble is not lost."""
    world.unready = {"gemini": ClientUnready("install it with npm", error_type="client_missing")}
    world.script = [fail("permission")]
    async with world.executor() as executor:
        result = await executor.execute("flash", "Try")
    assert result.error == "the provider said permission; before it, flash: install it with npm"


async def test_timeout_is_unknown_and_tried_again(world: World) -> None:
    """A timeout may have been billed: cost NULL; it is worth another try."""
    world.script = [fail("timeout"), answer()]
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Try")
    assert result.success
    first = rows(world.path, "SELECT cost_nano_usd, usage_source, error_type FROM attempts WHERE attempt = 1")[0]
    assert first == {"cost_nano_usd": None, "usage_source": "unknown", "error_type": "timeout"}


async def test_client_that_outstays_its_deadline_is_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that ignores its timeout is ended from outside, as a timeout."""
    monkeypatch.setattr("ledger.executor.attempt.GRACE_S", 0.05)
    world.script = [asyncio.Event().wait]  # type: ignore[list-item]  # never answers
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Try", retry_count=0, timeout_s=0.05)
    assert (result.success, result.error_type) == (False, "timeout")
    assert result.error is not None
    assert "no answer within 0.05 s" in result.error


async def test_fault_of_the_client_itself_is_recorded(world: World) -> None:
    """A client that raises loses no record: the attempt failed as other, billing unknown, and is tried once more."""
    world.script = [ZeroDivisionError("oops"), ZeroDivisionError("again"), answer()]
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Try", retry_count=5)
    assert (result.success, result.error_type, result.attempts) == (False, "other", 2)
    assert result.error == "the client itself failed: ZeroDivisionError: again"


async def test_retry_after_wins_when_longer(world: World) -> None:
    """The provider's wait is kept when it is longer than the backoff."""
    world.script = [fail("rate_limited", retry_after_ms=7_500), answer()]
    async with world.executor() as executor:
        await executor.execute("haiku", "Try")
    assert world.slept == [7.5]


async def test_ends_the_task(world: World) -> None:
    """A refused request ends the task at once, without the fallback."""
    world.script = [fail("invalid_request", status_code=400)]
    async with world.executor() as executor:
        result = await executor.execute("flash", "Try")
    assert (result.success, result.error_type, result.status_code, len(world.calls)) == (
        False,
        "invalid_request",
        400,
        1,
    )


async def test_nothing_is_called_before_it_is_recorded(world: World) -> None:
    """At the moment of each call another program sees its start in the file."""
    seen: list[int] = []

    def watch(_: str) -> None:
        seen.append(rows(world.path, "SELECT count(*) AS n FROM events WHERE type = 'attempt.started'")[0]["n"])

    world.watch, world.script = watch, [fail("overloaded"), fail("overloaded"), answer()]
    async with world.executor() as executor:
        await executor.execute("flash", "Try")
    assert seen == [1, 2, 3]


async def test_clean_success_costs_two_appends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submission with start, outcome with end: two durable appends, once the prices are in the ledger."""
    appended: list[int] = []
    async with world.executor() as executor:
        await executor.execute("flash", "Before")
        store = await executor.ledger.store()
        append = store.append

        async def counting(batch: Any) -> Any:
            appended.append(len(batch.events))
            return await append(batch)

        monkeypatch.setattr(store, "append", counting)
        await executor.execute("flash", "Try")
        monkeypatch.undo()
    assert appended == [2, 2]


@pytest.mark.parametrize("passed", [True, False])
async def test_verdicts(world: World, *, passed: bool) -> None:
    """A judge's answer becomes a verdict, a validation event and a finished task, whatever it says."""
    world.script = [verdict(passed=passed, issues=("too short",), escalate=not passed)]
    async with world.executor() as executor:
        given = await executor.validate_output("Write a lot", "little")
    assert given == {"pass": passed, "issues": ["too short"], "confidence": 0.875, "escalate": not passed}
    assert world.calls[0][0] == SONNET
    kind = "validation.passed" if passed else "validation.failed"
    assert world.types() == ["task.submitted", "attempt.started", "attempt.succeeded", kind, "task.succeeded"]
    row = rows(world.path, "SELECT task_id, judge_attempt, pass, confidence, escalate, error_type FROM validations")[0]
    assert tuple(row.values()) == (None, 1, int(passed), 0.875, int(not passed), None)


@pytest.mark.parametrize(
    "text",
    ["I think it is fine.", '{"pass": "true"}', '{"pass": true, "issues": [], "confidence": 2, "escalate": false}', ""],
    ids=["prose", "wrong types", "confidence beyond 1", "empty"],
)
async def test_malformed_verdict_is_never_a_pass(world: World, text: str) -> None:
    """A verdict that is none is asked for once more, then the judgement errs: fail, escalate."""
    world.script = [answer(text)]
    async with world.executor() as executor:
        given = await executor.validate_output("task", "output")
    assert (given["pass"], given["confidence"], given["escalate"], len(given["issues"])) == (False, 0, True, 1)
    assert len(world.calls) == 2
    assert world.types()[-3:] == ["attempt.failed", "validation.errored", "task.failed"]
    assert {row["error_type"] for row in rows(world.path, "SELECT error_type FROM attempts")} == {"output_invalid"}
    assert {row["tokens_input"] for row in rows(world.path, "SELECT tokens_input FROM attempts")} == {10}


async def test_same_key_gives_the_recorded_task(world: World) -> None:
    """The same key and request is the same task, also from another process, without a call."""
    async with world.executor() as executor:
        first = await executor.execute("flash", "Once", idempotency_key="k-1")
        again = await executor.execute("flash", "Once", idempotency_key="k-1", labels={"other": "label"})
    async with world.executor() as executor:
        later = await executor.execute("flash", "Once", idempotency_key="k-1")
    assert first == again == later
    assert len(world.calls) == 1


@pytest.mark.parametrize(
    "other",
    [{"prompt": "Twice"}, {"max_tokens": 5}, {"retry_count": 0}, {"system": "x"}, {"model_tier": "haiku"}],
    ids=lambda other: next(iter(other)),
)
async def test_same_key_for_another_request_is_a_conflict(world: World, other: dict[str, Any]) -> None:
    """A key names one request for ever; another one is refused and nothing is written."""
    async with world.executor() as executor:
        await executor.execute("flash", "Once", idempotency_key="k-1")
        before = world.types()
        with pytest.raises(IdempotencyConflict, match="k-1"):
            await executor.execute(**{"model_tier": "flash", "prompt": "Once", "idempotency_key": "k-1", **other})
    assert world.types() == before


async def test_one_key_many_callers_one_call(world: World) -> None:
    """Callers that meet by key at the same time share one task and one call."""

    async def slowly() -> ExecutionResult:
        # By turns of the loop: those who wait move the world's clock, and must not see the lease end.
        for _ in range(40):
            await asyncio.sleep(0)
        return answer("shared")

    world.script = [slowly]
    async with world.executor() as executor, asyncio.TaskGroup() as group:
        asked = [group.create_task(executor.execute("flash", "Once", idempotency_key="k")) for _ in range(8)]
    assert {task.result().response for task in asked} == {"shared"}
    assert len({task.result().task_id for task in asked}) == 1
    assert len(world.calls) == 1


async def test_failed_task_stays_failed_under_its_key(world: World) -> None:
    """A failed task answers for its key without a new call."""
    world.script = [fail("invalid_request"), answer()]
    async with world.executor() as executor:
        first = await executor.execute("haiku", "Once", idempotency_key="k")
        again = await executor.execute("haiku", "Once", idempotency_key="k")
    assert (first.success, again.success, len(world.calls)) == (False, False, 1)


async def test_cancelled_caller_leaves_a_ledger_that_says_so(world: World) -> None:
    """A cancelled call is recorded as interrupted, billing unknown, spends no try, and its key goes on."""
    calling = asyncio.Event()

    async def hang() -> ExecutionResult:
        calling.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.script = [hang, fail("overloaded"), answer("at last")]
    async with world.executor() as executor:
        caller = asyncio.create_task(executor.execute("haiku", "Wait", retry_count=1, idempotency_key="k"))
        await calling.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert world.types() == ["task.submitted", "attempt.started", "attempt.failed", "retry.scheduled"]
        result = await executor.execute("haiku", "Wait", retry_count=1, idempotency_key="k")
    assert (result.response, result.attempts) == ("at last", 3)
    first = rows(world.path, "SELECT error_type, cost_nano_usd, usage_source FROM attempts")[0]
    assert first == {"error_type": "interrupted", "cost_nano_usd": None, "usage_source": "unknown"}


async def test_backoff_survives_a_restart(world: World) -> None:
    """A new process keeps the count and the rest of the wait that the dead one had recorded."""
    world.script = [fail("overloaded"), answer("after the restart")]

    class Killed(BaseException):
        pass

    async def die(_: float) -> None:
        raise Killed

    live, world.sleep = world.sleep, die  # type: ignore[method-assign,assignment]  # the process dies in its wait
    with pytest.raises(Killed):
        async with world.executor() as executor:
            await executor.execute("haiku", "Wait", idempotency_key="k")
    world.sleep = live  # type: ignore[method-assign]  # and another one lives
    world.now_ms += 400
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Wait", idempotency_key="k")
    assert (result.response, result.attempts, world.slept) == ("after the restart", 2, [0.6])


async def test_start_of_a_dead_worker_becomes_an_orphan(world: World) -> None:
    """A start whose worker is gone is given up at once; its number is spent, its try is not."""

    class Killed(GeneratorExit):
        pass

    world.script = [Killed(), fail("overloaded"), answer("second worker")]
    with pytest.raises(Killed):
        async with world.executor(checked=False) as executor:
            await executor.execute("haiku", "Try", retry_count=1, idempotency_key="k")
    assert world.types() == ["task.submitted", "attempt.started"]
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Try", retry_count=1, idempotency_key="k")
    assert (result.response, result.attempts) == ("second worker", 3)
    orphan, second, third = rows(
        world.path, "SELECT state, cost_nano_usd, started_at_ms FROM attempts ORDER BY attempt"
    )
    assert (orphan["state"], orphan["cost_nano_usd"], second["state"], third["state"]) == (
        "orphaned",
        None,
        "failed",
        "succeeded",
    )
    assert second["started_at_ms"] == orphan["started_at_ms"]
    fences = rows(world.path, "SELECT fence FROM events WHERE type = 'attempt.started' ORDER BY version")
    assert [row["fence"] for row in fences] == [1, 2, 2]


async def test_refused_prompt_leaves_nothing(world: World) -> None:
    """What the client can never send is refused before any event."""
    world.unready = {"gemini": PromptRefused("9 MiB, at most 8 MiB can be sent")}
    async with world.executor() as executor:
        with pytest.raises(PromptRefused, match="at most 8 MiB"):
            await executor.execute("flash", "Big")
    assert world.types() == []
    assert world.calls == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("prompt", ""),
        ("prompt", "lone \ud800"),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("retry_count", -1),
        ("retry_count", 2**80),
        ("timeout_s", float("nan")),
        ("idempotency_key", ""),
        ("labels", {"team": 3}),
        ("labels", {"": "x"}),
        ("system", b"bytes"),
    ],
    ids=repr,
)
async def test_bad_arguments_are_refused(world: World, field: str, wrong: Any) -> None:
    """A bad argument is named, and nothing is written or called."""
    async with world.executor() as executor:
        with pytest.raises(RequestRefused, match=field):
            await executor.execute(**{"model_tier": "flash", "prompt": "fine", field: wrong})
    assert (world.types(), world.calls) == ([], [])


async def test_provider_limit_holds(world: World) -> None:
    """No more calls at once to a provider than its concurrency allows."""

    async def slowly() -> ExecutionResult:
        await asyncio.sleep(0.01)
        return answer()

    world.script = [slowly]
    async with world.executor() as executor, asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(executor.execute("flash", f"{number}"))
    assert (len(world.calls), world.most_flying) == (12, 2)


async def test_result_is_read_from_the_ledger(world: World) -> None:
    """Any process can ask for a result; an unknown task is said to be unknown."""
    async with world.executor() as executor:
        given = await executor.execute("flash", "Once")
    assert given.task_id is not None
    async with world.executor() as executor:
        assert await executor.result(given.task_id) == given
        with pytest.raises(TaskNotFound, match="no task nope"):
            await executor.result("nope")


async def test_subject_is_kept_apart(world: World) -> None:
    """The label subject stands in payloads only, where it can be erased; other labels can be asked for."""
    async with world.executor() as executor:
        await executor.execute("flash", "Once", labels={"team": "a", "subject": "customer 7"})
    assert rows(world.path, "SELECT key, value FROM task_labels") == [{"key": "team", "value": "a"}]
    assert b"customer 7" not in b"".join(row["data"].encode() for row in rows(world.path, "SELECT data FROM events"))
    assert rows(world.path, "SELECT bytes FROM payloads WHERE slot = 'subject'")[0]["bytes"] == b"customer 7"


@pytest.mark.parametrize(("policy", "success"), [("accept", True), ("fail", False)])
async def test_cut_answers(tmp_path: Path, *, policy: str, success: bool) -> None:
    """An answer stopped at max_tokens is accepted or refused as the policy says; its text and tokens are kept."""
    world = World(tmp_path, [answer("half", finish_reason="max_tokens")])
    world.config = Config.from_mapping({"retry": {"on_truncated": policy}})
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Long")
    assert (result.success, result.finish_reason, result.tokens_output) == (success, "max_tokens", 5)
    assert result.error_type == (None if success else "truncated")
    assert rows(world.path, "SELECT bytes FROM payloads WHERE slot = 'response/1'")[0]["bytes"] == b"half"


async def test_listeners_hear_a_restart(world: World) -> None:
    """Text that was heard and then failed is said to start over."""
    heard: list[str | int] = []

    async def breaks() -> ExecutionResult:
        heard.append("…")
        return fail("connection")

    world.script = [breaks, answer("whole")]
    async with world.executor() as executor:
        await executor.execute("haiku", "Tell", on_text=heard.append, on_restart=heard.append)
    assert heard == ["…", "whole"]
