"""The executor under attack: cancelled at every await, raced, closed under its own feet, lied to by clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.anthropic import AnthropicClient
from clients.base import ExecutionResult
from clients.errors import ClientUnready
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.errors import LedgerError, UsageError
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.ledgers import fresh_ledger
from tests.world import Play, Scripted, World, answer, fail, rows

pytestmark = pytest.mark.slow

LEFT_OPEN = "SELECT task_id, attempt FROM attempts WHERE state = 'running'"


@pytest.fixture
def world(tmp_path: Path) -> World:
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    return World(tmp_path)


@pytest.fixture
async def executor(world: World) -> AsyncIterator[Executor]:
    async with world.executor() as executor:
        yield executor


class CancelledAt:
    """Awaits a coroutine and cancels the task around it ``late`` turns of the loop after its k-th suspension."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], suspension: int, late: int, again: int | None) -> None:
        self.coroutine = coroutine
        self.left = suspension
        self.late = late
        self.again = again
        self.hit = False

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        steps = self.coroutine.__await__()
        step, value = steps.send, None
        while True:
            try:
                waited_for = step(value)
            except StopIteration as done:
                return done.value
            self.left -= 1
            if self.left == 0:
                self.hit = True
                _after(self.late, task)
            if self.again is not None and self.left == -self.again:
                _after(0, task)
            try:
                value = yield waited_for
                step = steps.send
            except BaseException as error:  # noqa: BLE001 - thrown on into the coroutine, as a task does
                step, value = steps.throw, error


def _after(turns: int, task: asyncio.Task[Any]) -> None:
    loop = asyncio.get_running_loop()
    if turns == 0:
        loop.call_soon(task.cancel)
    else:
        loop.call_soon(_after, turns - 1, task)


async def slowly() -> ExecutionResult:
    for _ in range(3):
        await asyncio.sleep(0)
    return answer("in the end")


async def settled(world: World) -> list[dict[str, Any]]:
    """Wait a little for records that go on beyond a caller cancelled twice."""
    for _ in range(200):
        left = rows(world.path, LEFT_OPEN)
        if not left:
            return left
        await asyncio.sleep(0.005)
    return left


@pytest.mark.parametrize("again", [None, 1, 2], ids=["once", "twice at once", "twice"])
@pytest.mark.parametrize("late", [0, 1, 2, 5])
@pytest.mark.parametrize("tier", ["haiku", "flash"], ids=["retried", "handed over"])
async def test_cancelled_at_every_await(
    world: World, executor: Executor, tier: str, late: int, again: int | None
) -> None:
    """Wherever a caller is cancelled, no start stays open, nothing is called twice, and the key goes on to success."""
    world.unready = {"gemini": ClientUnready("no CLI", error_type="client_missing")}
    suspension, missed = 0, 0
    while missed < 2:
        suspension += 1
        prompt = key = f"{suspension}"
        plays: list[Play] = [fail("overloaded"), slowly] if tier == "haiku" else [slowly]
        world.script = plays
        asked = executor.execute(tier, prompt, idempotency_key=key)
        attack = CancelledAt(asked, suspension, late, again)

        async def attacked(attack: CancelledAt = attack) -> Any:
            return await attack

        caller = asyncio.create_task(attacked())
        await asyncio.wait({caller})
        missed += not attack.hit
        assert caller.cancelled() or caller.result().success
        assert await settled(world) == []
        result = await executor.execute(tier, prompt, idempotency_key=key)
        assert (result.success, result.response) == (True, "in the end")
        sent = rows(
            world.path,
            f"SELECT attempt FROM attempts WHERE task_id = '{result.task_id}' "
            "AND (error_type IS NULL OR usage_source != 'not_billed' OR error_type = 'overloaded')",
        )
        assert len(sent) == sum(called == prompt for _, called in world.calls)
    assert suspension > 6


async def test_cancelled_caller_leaves_the_others(world: World, executor: Executor) -> None:
    """Of callers that share a key the one that makes the call may go: another one goes on with the task."""
    calling = asyncio.Event()

    async def hangs() -> ExecutionResult:
        calling.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.script = [hangs, answer("for the others")]
    makes = asyncio.create_task(executor.execute("haiku", "Shared", idempotency_key="k"))
    await calling.wait()
    follow = [asyncio.create_task(executor.execute("haiku", "Shared", idempotency_key="k")) for _ in range(3)]
    for _ in range(20):
        await asyncio.sleep(0)
    makes.cancel()
    results = await asyncio.gather(*follow)
    assert makes.cancelled()
    assert {(result.response, result.attempts) for result in results} == {("for the others", 2)}
    assert len(world.calls) == 2


async def test_provider_asked_to_wait_beyond_patience(world: World, executor: Executor) -> None:
    """A retry-after beyond the policy's ends the step at once: the fallback takes over without a wait."""
    world.scripts = {"gemini-2.5-flash": [fail("rate_limited", retry_after_ms=300_001)]}
    result = await executor.execute("flash", "Try")
    assert (result.success, result.tier, result.attempts, world.slept) == (True, "haiku", 2, [])


async def test_provider_says_that_another_try_is_useless(world: World, executor: Executor) -> None:
    """A provider's no ends the step, whatever the error type is worth."""
    world.script = [fail("overloaded", retryable=False)]
    result = await executor.execute("haiku", "Try")
    assert (result.success, result.error_type, result.attempts) == (False, "overloaded", 1)
    (row,) = rows(world.path, "SELECT retryable FROM attempts")
    assert row["retryable"] == 0


async def test_closing_records_the_calls_in_flight(world: World) -> None:
    """A call under way when its executor closes is interrupted, recorded, and can go on with another executor."""
    calling = asyncio.Event()

    async def hangs() -> ExecutionResult:
        calling.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.script = [hangs, answer("later")]
    async with world.executor() as executor:
        asked = asyncio.create_task(executor.execute("haiku", "Wait", idempotency_key="k"))
        await calling.wait()
    with pytest.raises(UsageError, match="closed"):
        await asked
    assert rows(world.path, "SELECT state, error_type FROM attempts") == [
        {"state": "failed", "error_type": "interrupted"}
    ]
    async with world.executor() as executor:
        assert (await executor.execute("haiku", "Wait", idempotency_key="k")).response == "later"


async def test_closed_executor_takes_nothing(world: World) -> None:
    """After its end an executor refuses with an error of ours; entered again it works again."""
    async with world.executor() as executor:
        await executor.execute("haiku", "One")
        await executor.aclose()
        with pytest.raises(UsageError, match="closed"):
            await executor.execute("haiku", "Two")
        async with executor:
            assert (await executor.execute("haiku", "Three")).success
    assert [prompt for _, prompt in world.calls] == ["One", "Three"]


async def test_timeout_around_execute(world: World, executor: Executor) -> None:
    """A caller's own timeout is a cancellation: recorded, and TimeoutError for the caller."""

    async def hangs() -> ExecutionResult:
        limit.reschedule(asyncio.get_running_loop().time() + 0.05)
        await asyncio.Event().wait()
        raise AssertionError

    world.script = [hangs, answer("later")]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            await executor.execute("haiku", "Wait", idempotency_key="k")
    assert rows(world.path, LEFT_OPEN) == []
    assert (await executor.execute("haiku", "Wait", idempotency_key="k")).attempts == 2


async def test_sibling_that_fails(world: World, executor: Executor) -> None:
    """A task group that falls leaves every attempt of its members with an end."""
    calling = asyncio.Event()

    async def hangs() -> ExecutionResult:
        calling.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def falls() -> None:
        await calling.wait()
        raise KeyError("sibling")

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(executor.execute("haiku", f"{number}"))
            group.create_task(falls())

    world.script = [hangs]
    with pytest.raises(ExceptionGroup) as fallen:
        await together()
    assert [type(error) for error in fallen.value.exceptions] == [KeyError]
    assert rows(world.path, LEFT_OPEN) == []


async def test_clock_set_back_between_ready_and_start(world: World) -> None:
    """A clock set back a little while the client is made ready only makes the task wait again."""
    looks = 0

    def jumping() -> int:
        nonlocal looks
        looks += bool(world.slept)
        return world.now_ms - (400 if looks in {2, 3, 4} else 0)

    ports = replace(world.ports(), now_ms=jumping)
    world.script = [fail("overloaded"), answer("second")]
    async with Ledger.open(world.path, ports=ports) as ledger:
        build = lambda provider, model, _: Scripted(world, provider, model)  # noqa: E731 - as in the world
        async with Executor(ledger, world.config, ports=ports, build=build) as executor:
            result = await executor.execute("haiku", "Try")
        assert (await verify(await ledger.store())).problems == ()
    assert (result.success, result.response, len(world.slept)) == (True, "second", 2)


async def test_clock_set_back_a_year(world: World, executor: Executor) -> None:
    """A clock set back a year parks no task, and recorded times never run backwards in a stream."""

    async def falls_back() -> ExecutionResult:
        world.now_ms -= 365 * 86_400_000
        return fail("overloaded")

    world.script = [falls_back, falls_back, answer("third")]
    result = await executor.execute("haiku", "Try")
    assert result.success
    times = [row["recorded_at_ms"] for row in rows(world.path, "SELECT recorded_at_ms FROM events ORDER BY version")]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 4096}, {}),
        ({"retry_count": 2}, {}),
        ({}, {"retry_count": 2, "max_tokens": 4096}),
        ({"labels": {"a": "b"}}, {"labels": {"c": "d"}}),
    ],
    ids=["default said", "default not said", "retries not said", "both said", "other labels"],
)
async def test_defaults_said_are_the_same_request(
    world: World, executor: Executor, asked: dict[str, Any], again: dict[str, Any]
) -> None:
    """A key's request is the same whether a default was left out or written."""
    first = await executor.execute("haiku", "Same", idempotency_key="k", **asked)
    second = await executor.execute("haiku", "Same", idempotency_key="k", **again)
    assert (first, len(world.calls)) == (second, 1)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("timeout_s", 10**400),
        ("timeout_s", 10**5000),
        ("timeout_s", -1),
        ("timeout_s", "5"),
        ("max_tokens", 10**5000),
        ("on_text", 5),
        ("on_restart", "call me"),
        ("labels", [("a", "b")]),
        ("labels", {"a": "\ud800"}),
        ("model_tier", "ultra"),
        ("model_tier", None),
        ("prompt", None),
    ],
    ids=lambda value: str(type(value).__name__) if isinstance(value, int) else repr(value),
)
async def test_more_bad_arguments(world: World, executor: Executor, field: str, wrong: Any) -> None:
    """Whatever is wrong with an argument is told by an error of ours, before any event."""
    with pytest.raises(UsageError, match=field if field != "model_tier" else "is no tier"):
        await executor.execute(**{"model_tier": "flash", "prompt": "fine", field: wrong})
    assert (world.types(), world.calls) == ([], [])


@pytest.mark.parametrize(
    ("task", "output"),
    [("", "x"), ("x", "\ud800"), (None, "x"), ("x", 5)],
    ids=["no task", "lone surrogate", "no text", "number"],
)
async def test_trouble_with_the_texts_is_no_pass(world: World, executor: Executor, task: Any, output: Any) -> None:
    """A judgement that cannot even be asked for is a verdict that does not pass, with exactly four keys."""
    given = await executor.validate_output(task, output)
    (why,) = given.pop("issues")
    assert given == {"pass": False, "confidence": 0, "escalate": True}
    assert why
    assert world.types() == []


async def test_empty_output_is_judged(world: World, executor: Executor) -> None:
    """An output may be empty: the judge says what that is worth."""
    world.script = [answer('{"pass": false, "issues": ["empty"], "confidence": 1, "escalate": true}')]
    given = await executor.validate_output("Say something", "")
    assert given == {"pass": False, "issues": ["empty"], "confidence": 1.0, "escalate": True}


@pytest.mark.parametrize("fault", ["on_text", "on_restart"])
async def test_listener_that_raises(world: World, fault: str) -> None:
    """What the caller's own function raises reaches the caller, after the outcome is recorded."""

    def raises(_: object) -> None:
        raise ZeroDivisionError(fault)

    world.config = Config.from_mapping({"retry": {"on_truncated": "retry"}})
    world.script = [answer("half", finish_reason="max_tokens"), answer("whole")]
    listeners: dict[str, Any] = {"on_text": lambda _: None, fault: raises}
    async with world.executor() as executor:
        with pytest.raises(ZeroDivisionError, match=fault):
            await executor.execute("haiku", "Tell", **listeners)
    assert rows(world.path, LEFT_OPEN) == []
    assert rows(world.path, "SELECT state FROM tasks") == [{"state": "succeeded"}]


NOTHING: Any = ("not_billed", 0)
UNKNOWN: Any = ("unknown", None)
SPEND_LIMIT = api.error(429, "rate_limit_error", "limit", details={"error_code": "enforced_spend_limit_reached"})
USELESS = {"x-should-retry": "false"}
WINDOW = api.answer("half", stop_reason="model_context_window_exceeded")

FAILURES: dict[str, tuple[api.Step, str, Any, str]] = {
    "429": (api.error(429, "rate_limit_error"), "rate_limited", NOTHING, "retry"),
    "429, 7 s": (api.error(429, headers={"retry-after": "7"}), "rate_limited", NOTHING, "retry"),
    "429, 301 s": (api.error(429, headers={"retry-after": "301"}), "rate_limited", NOTHING, "exhausted"),
    "429, no use": (api.error(429, headers=USELESS), "rate_limited", NOTHING, "fail_fast"),
    "spend limit": (SPEND_LIMIT, "billing", NOTHING, "fail_fast"),
    "529": (api.error(529, "overloaded_error"), "overloaded", NOTHING, "retry"),
    "500": (api.error(500), "api_error", NOTHING, "retry"),
    "408": (api.error(408, "timeout_error"), "timeout", NOTHING, "retry"),
    "400": (api.error(400, "invalid_request_error"), "invalid_request", NOTHING, "fail_fast"),
    "too long": (api.error(400, message="prompt is too long"), "context_window_exceeded", NOTHING, "fail_fast"),
    "401": (api.error(401, "authentication_error"), "authentication", NOTHING, "fail_fast"),
    "402": (api.error(402, "billing_error"), "billing", NOTHING, "fail_fast"),
    "403": (api.error(403, "permission_error"), "permission", NOTHING, "fail_fast"),
    "404": (api.error(404, "not_found_error"), "not_found", NOTHING, "fail_fast"),
    "413": (api.error(413, "request_too_large"), "too_large", NOTHING, "fail_fast"),
    "422": (api.error(422, "invalid_request_error"), "invalid_request", NOTHING, "fail_fast"),
    "refusal": (api.refusal(), "content_refused", ("provider", 1_600), "fail_fast"),
    "cut, empty": (api.max_tokens(), "truncated", ("provider", 1_700), "fail_fast"),
    "window": (WINDOW, "context_window_exceeded", ("provider", 2_100), "fail_fast"),
    "empty": (api.empty(), "api_error", ("provider", 1_600), "retry"),
    "garbage": (api.garbage(), "api_error", UNKNOWN, "retry"),
    "wrong JSON": (api.wrong_json(), "api_error", UNKNOWN, "retry"),
    "dropped": (api.dropped(), "connection", UNKNOWN, "retry"),
    "cut": (api.cut(), "connection", UNKNOWN, "retry"),
    "hangs": (api.hang(), "timeout", UNKNOWN, "retry"),
}


async def test_failures_of_claude_in_the_ledger(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failure of the real SDK's stands in the ledger as the contract says: type, money, another try, decision."""
    found = {}
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    with Emulator() as emulator:
        server = api.Anthropic(emulator)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        ports = world.ports()
        unbraked = Config.from_mapping({"breakers": {"failures": 0}})
        async with Ledger.open(world.path, ports=ports) as ledger, Executor(ledger, unbraked, ports=ports) as executor:
            for name, (step, _, _, _) in FAILURES.items():
                before = len(server.requests)
                server.script(step)
                timeout_s = 0.2 if name == "hangs" else None
                result = await executor.execute("haiku", name, retry_count=1, timeout_s=timeout_s)
                assert len(server.requests) - before == result.attempts
                where = f"WHERE task_id = '{result.task_id}' ORDER BY"
                row = rows(world.path, f"SELECT * FROM attempts {where} attempt")[0]
                chosen = rows(world.path, f"SELECT decision FROM decisions {where} version")[1]
                found[name] = (row["error_type"], (row["usage_source"], row["cost_nano_usd"]), chosen["decision"])
                assert (row["retryable"], result.success) == (
                    int(chosen["decision"] in {"retry", "exhausted"}),
                    chosen["decision"] == "retry",
                )
            assert (await verify(await ledger.store())).problems == ()
    assert {name: tuple(expected) for name, (_, *expected) in FAILURES.items()} == found
    assert max(world.slept) == 7.0


async def test_result_of_a_task_at_every_stage(world: World, executor: Executor) -> None:
    """A task's result can be asked for at any time, and says where the task stands."""
    met: list[ExecutionResult] = []

    async def asks() -> ExecutionResult:
        (row,) = rows(world.path, "SELECT task_id FROM tasks")
        met.append(await executor.result(row["task_id"]))
        return fail("overloaded") if len(met) == 1 else answer()

    waits = world.sleep

    async def sleeps(seconds: float) -> None:
        (row,) = rows(world.path, "SELECT task_id FROM tasks")
        met.append(await executor.result(row["task_id"]))
        await waits(seconds)

    world.script = [asks]
    object.__setattr__(executor._ports, "sleep", sleeps)  # noqa: SLF001 - to look while it waits
    await executor.execute("haiku", "Ask")
    running, waiting, again = met
    assert [(each.success, each.attempts, each.response) for each in met] == [
        (False, 1, ""),
        (False, 1, ""),
        (False, 2, ""),
    ]
    assert "has not ended: it is running" in (running.error or "")
    assert (waiting.error, waiting.error_type) == ("the provider said overloaded", "overloaded")
    assert again.error_type is None


async def test_result_after_a_failed_fallback(world: World, executor: Executor) -> None:
    """Tier, model, tokens, latency and words are the last attempt's; attempts and cost the whole task's."""
    billed = answer().model_copy(update={"success": False, "error_type": "api_error", "error": "odd", "latency_ms": 42})
    world.scripts = {"gemini-2.5-flash": [fail("rate_limited")], "claude-haiku-5-5": [billed]}
    result = await executor.execute("flash", "Try", retry_count=1)
    assert (result.success, result.response, result.error_type) == (False, "", "api_error")
    assert (result.error or "").startswith("odd")
    assert (result.tier, result.model, result.served_model) == ("haiku", "claude-haiku-5-5", "served-model")
    assert (result.tokens_input, result.tokens_output, result.latency_ms) == (10, 5, 42)
    assert (result.attempts, result.cost_nano_usd) == (3, None)


async def test_nothing_billed_costs_nothing(world: World, executor: Executor) -> None:
    """A task of refusals only is known to have cost nothing."""
    world.script = [fail("overloaded")]
    result = await executor.execute("haiku", "Try")
    assert (result.success, result.cost_nano_usd, result.attempts) == (False, 0, 3)


async def test_held_task_is_not_waited_for(world: World) -> None:
    """A task that waits for a person is given back as it stands, without a call."""

    async def dies() -> ExecutionResult:
        raise GeneratorExit

    world.config = Config.from_mapping({"retry": {"on_unknown": "hold"}})
    world.script = [dies, answer("never")]
    async with world.executor(checked=False) as executor:
        with pytest.raises(GeneratorExit):
            await executor.execute("haiku", "Hold", idempotency_key="k")
    async with world.executor() as executor:
        for _ in range(2):
            result = await executor.execute("haiku", "Hold", idempotency_key="k")
            assert (result.success, result.attempts, result.cost_nano_usd) == (False, 1, None)
            assert "waits for a person" in (result.error or "")
    assert len(world.calls) == 1
    assert rows(world.path, "SELECT state, waiting_for FROM tasks") == [{"state": "waiting", "waiting_for": "person"}]


async def test_task_that_ended_by_orphans_says_so(world: World) -> None:
    """A task failed by dead workers is not explained by the words of an older failure."""

    async def dies() -> ExecutionResult:
        raise GeneratorExit

    world.config = Config.from_mapping({"retry": {"on_unknown": "fail"}})
    world.script = [fail("overloaded"), dies]
    async with world.executor(checked=False) as executor:
        with pytest.raises(GeneratorExit):
            await executor.execute("haiku", "Die", idempotency_key="k")
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Die", idempotency_key="k")
    assert (result.error_type, result.error) == ("worker_died", "the task ended without an answer: worker_died")


async def test_ledger_closed_under_a_call(world: World) -> None:
    """Whoever closes the ledger during a call is told by a ledger's error; the answer is kept, and comes in later."""
    world.script = [answer("lost"), answer("again")]
    async with world.executor(checked=False) as executor:

        async def closes() -> ExecutionResult:
            await executor.ledger.aclose()
            return answer("lost")

        world.script[0] = closes
        with pytest.raises(LedgerError):
            await executor.execute("haiku", "Close", idempotency_key="k")
    async with world.executor() as executor:
        result = await executor.execute("haiku", "Close", idempotency_key="k")
    assert (result.response, result.attempts) == ("lost", 1)


async def test_verify_while_others_write(world: World) -> None:
    """A ledger that is being written to verifies at every instant."""

    async def slow() -> ExecutionResult:
        await asyncio.sleep(0.002)
        return fail("overloaded") if len(world.calls) % 3 else answer()

    world.script = [slow]
    async with world.executor() as executor:
        work = asyncio.gather(*(executor.execute("flash", f"{number}") for number in range(30)))
        async with Ledger.open(world.path, create=False) as looking:
            while not work.done():
                assert (await verify(await looking.store())).problems == ()
        await work


def test_one_executor_in_one_loop_after_another(tmp_path: Path) -> None:
    """An executor that nobody closed works again in the next event loop."""
    world = World(tmp_path)
    path = fresh_ledger(tmp_path).rename(world.path)
    config = Config.from_mapping({"tiers": {"haiku": {"provider": "simulated", "model": "m"}}})
    executor = Executor(Ledger.open(path, ports=world.ports()), config, ports=world.ports())

    async def ask(prompt: str) -> ExecutionResult:
        result = await executor.execute("haiku", prompt)
        await executor.ledger.aclose()
        return result

    assert [asyncio.run(ask(prompt)).success for prompt in ("one", "two", "three")] == [True, True, True]


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ((None, "output"), "http://127.0.0.1:9"),
        (("task", 5), "http://127.0.0.1:9"),
        (("task", b"bytes"), "http://127.0.0.1:9"),
        (("task", "output", "many"), "http://127.0.0.1:9"),
        (("task", "\ud800"), "http://127.0.0.1:9"),
        (("task", "output"), "http://[::1"),
        (("task", "output"), "ftp://somewhere"),
    ],
    ids=["no task", "number", "bytes", "limit", "surrogate", "no address", "no web address"],
)
async def test_bare_judgement_never_raises(arguments: Any, address: str) -> None:
    """The bare judge's call turns every trouble into a verdict that does not pass, with exactly four keys."""
    client = AnthropicClient("sonnet", api_key="canary-key", base_url=address)
    given = await client.validate(*arguments)
    await client.aclose()
    (why,) = given.pop("issues")
    assert given == {"pass": False, "confidence": 0, "escalate": True}
    assert why
