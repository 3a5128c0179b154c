"""``execute_validated`` and ``validate_task``: judged answers, escalation, judges that fail, a person's verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from clients.base import ExecutionResult
from ledger import Config, Executor, Ledger
from ledger.errors import IdempotencyConflict, RequestRefused, TaskNotFound
from ledger.registry import ModelRegistry
from tests.world import Play, World, answer, fail, rows

FLASH: Final = "gemini-2.5-flash"
PRO: Final = "gemini-2.5-pro"
HAIKU: Final = "claude-haiku-5-5"
SONNET: Final = "claude-sonnet-5-5"
OPUS: Final = "claude-opus-5-5"
PASS: Final = {"pass": True, "issues": [], "confidence": 0.9, "escalate": False}
GOOD: Final = answer(json.dumps(PASS))
UP: Final = answer(json.dumps({"pass": False, "issues": ["too short"], "confidence": 0.8, "escalate": True}))
STAY: Final = answer(json.dumps({"pass": False, "issues": ["wrong"], "confidence": 0.8, "escalate": False}))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def told(world: World) -> str:
    """Return the ledger's events and who was called for each attempt, in short."""
    words = []
    for row in rows(world.path, "SELECT type, data FROM events WHERE task_id NOT LIKE 'ledger:%' ORDER BY position"):
        data, name = json.loads(row["data"]), row["type"].removeprefix("attempt.").removeprefix("task.")
        words.append(f"{data['tier']}{'?' * (data['purpose'] == 'validate')}" if name == "started" else name)
    return " ".join(word for word in words if word not in {"submitted", "succeeded"})


def about(world: World) -> list[str]:
    """Return the answers that the judge was asked about, in their order."""
    asked = [prompt for model, prompt in world.calls if model == SONNET and "<output_to_validate>\n" in prompt]
    return [prompt.partition("<output_to_validate>\n")[2].partition("\n</output")[0] for prompt in asked]


CLIMB: Final = "sonnet? validation.failed escalation.selected"
ENDS: Final[dict[str, tuple[dict[str, list[Play]], str, str, bool, str]]] = {
    "accepted at once": ({SONNET: [GOOD]}, "flash", "flash", True, "flash sonnet? validation.passed"),
    "accepted one tier up": (
        {SONNET: [UP, GOOD]},
        "flash",
        "haiku",
        True,
        "flash sonnet? validation.failed escalation.selected haiku sonnet? validation.passed",
    ),
    "pro goes to what is above haiku": (
        {SONNET: [UP, answer("sonnet"), GOOD]},
        "pro",
        "sonnet",
        True,
        "pro sonnet? validation.failed escalation.selected sonnet sonnet? validation.passed",
    ),
    "to the end of the ladder": (
        {SONNET: [UP, UP, answer("sonnet"), UP, UP]},
        "flash",
        "opus",
        False,
        f"flash {CLIMB} haiku {CLIMB} sonnet {CLIMB} opus sonnet? validation.failed",
    ),
    "a verdict that does not ask for more": (
        {SONNET: [STAY]},
        "flash",
        "flash",
        False,
        "flash sonnet? validation.failed",
    ),
    "nothing is above opus": ({SONNET: [UP]}, "opus", "opus", False, "opus sonnet? validation.failed"),
    "the higher tier fails": (
        {SONNET: [UP], HAIKU: [fail("authentication")]},
        "flash",
        "flash",
        False,
        "flash sonnet? validation.failed escalation.selected haiku failed",
    ),
    "the judge times out": (
        {SONNET: [fail("timeout")]},
        "flash",
        "flash",
        False,
        "flash sonnet? failed retry.scheduled sonnet? failed retry.scheduled sonnet? failed validation.errored",
    ),
    "the judge is locked out": (
        {SONNET: [fail("authentication")]},
        "flash",
        "flash",
        False,
        "flash sonnet? failed validation.errored",
    ),
    "the judge answers at the second try": (
        {SONNET: [fail("overloaded"), GOOD]},
        "flash",
        "flash",
        True,
        "flash sonnet? failed retry.scheduled sonnet? validation.passed",
    ),
    "a fallback's answer is judged, and goes up from there": (
        {FLASH: [fail("authentication")], SONNET: [UP, answer("sonnet"), GOOD]},
        "flash",
        "sonnet",
        True,
        f"flash failed fallback.selected haiku {CLIMB} sonnet sonnet? validation.passed",
    ),
}


@pytest.mark.parametrize(("scripts", "tier", "answering", "accepted", "events"), ENDS.values(), ids=ENDS)
async def test_an_answer_is_judged(
    world: World, scripts: dict[str, list[Play]], tier: str, answering: str, accepted: int, events: str
) -> None:
    """Up the tiers while the verdict asks for it; the answer of the highest tier that gave one is returned."""
    names = {FLASH: "flash", PRO: "pro", HAIKU: "haiku", OPUS: "opus"}
    world.scripts = {**{model: [answer(name)] for model, name in names.items()}, **scripts}
    async with world.executor() as executor:
        result = await executor.execute_validated(tier, "do it")
    assert (True, answering, answering, accepted) == (result.success, result.response, result.tier, result.accepted)
    assert events == told(world)
    row = rows(world.path, "SELECT * FROM tasks WHERE kind = 'generation'")[0]
    assert (accepted, answering) == (row["accepted"], row["tier_final"])
    assert (row["attempts"], row["cost_nano_usd"]) == (result.attempts, result.cost_nano_usd)
    judged = rows(world.path, "SELECT * FROM validations ORDER BY version")
    assert events.count("validation.") == len(judged)
    assert all(row["task_id"] == row["judge_task_id"] == result.task_id for row in judged)


NO_VERDICTS: Final = {
    "prose around it": f"Here you are: {json.dumps(PASS)}",
    "a fence around it": f"```json\n{json.dumps(PASS)}\n```",
    "pass as a string": json.dumps(PASS | {"pass": "true"}),
    "pass as a number": json.dumps(PASS | {"pass": 1}),
    "confidence 2": json.dumps(PASS | {"confidence": 2}),
    "confidence NaN": '{"pass": true, "issues": [], "confidence": NaN, "escalate": false}',
    "a missing key": json.dumps({"pass": True, "issues": []}),
    "a key too many": json.dumps(PASS | {"note": "fine"}),
    "pass twice": '{"pass": false, "pass": true, "issues": [], "confidence": 1, "escalate": false}',
    "two verdicts": json.dumps(PASS) * 2,
    "four issues": json.dumps(PASS | {"issues": ["a", "b", "c", "d"]}),
    "nothing": "",
    "a list": json.dumps([PASS]),
}


USUAL: Final = {"prose around it", "pass as a string", "confidence 2", "a missing key", "two verdicts"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[] if name in USUAL else [pytest.mark.slow])
        for name, text in NO_VERDICTS.items()
    ],
)
async def test_what_is_no_verdict_never_passes(world: World, text: str) -> None:
    """It is an error worth one more try, then no verdict: not accepted, and no reason to go up."""
    world.scripts = {FLASH: [answer("flash")], SONNET: [answer(text)]}
    async with world.executor() as executor:
        result = await executor.execute_validated("flash", "do it")
    assert ("flash", False, None) == (result.response, result.accepted, result.verdict)
    assert "flash sonnet? failed retry.scheduled sonnet? failed validation.errored" == told(world)
    assert ["output_invalid"] * 2 == [
        row["error_type"] for row in rows(world.path, "SELECT * FROM attempts WHERE purpose = 'validate'")
    ]


async def test_a_verdict_cut_short_is_none(world: World) -> None:
    world.scripts = {FLASH: [answer("flash")], SONNET: [answer(json.dumps(PASS), finish_reason="max_tokens")]}
    async with world.executor() as executor:
        assert not (await executor.execute_validated("flash", "do it")).accepted


async def test_money_is_the_judges_too_and_tokens_are_the_answers(world: World) -> None:
    """The sum is of all attempts; figures and limits of the answer are its own, the judge has its own limit."""
    world.scripts = {FLASH: [answer("flash")], HAIKU: [answer("haiku")], SONNET: [UP, GOOD]}
    async with world.executor() as executor:
        result = await executor.execute_validated("flash", "do it", max_tokens=7, system="in French")
    assert (4, 10, 5, PASS) == (result.attempts, result.tokens_input, result.tokens_output, result.verdict)
    found = rows(world.path, "SELECT cost_nano_usd FROM attempts")
    known = [row["cost_nano_usd"] for row in found]
    assert result.cost_nano_usd == (None if None in known else sum(known))
    assert ["flash", "haiku"] == about(world)
    assert all("in French\n\ndo it" in prompt for model, prompt in world.calls if model == SONNET)


async def test_a_listener_hears_answers_only(world: World) -> None:
    """Each answer's text, a word before one starts over, and the recorded answer in the end where a tier broke off."""
    heard: list[Any] = []
    world.scripts = {FLASH: [answer("flash")], HAIKU: [answer("haiku")], SONNET: [UP, UP, fail("timeout")]}
    async with world.executor() as executor:
        result = await executor.execute_validated("flash", "do it", on_text=heard.append, on_restart=heard.append)
    assert ["flash", 3, "haiku", 5, "haiku"] == heard
    assert ("haiku", False) == (result.response, result.accepted)


async def test_a_key_names_a_judged_request_apart(world: World) -> None:
    """Asked again it gives the recorded task; the same prompt without a judge is another request."""
    world.scripts = {FLASH: [answer("flash")], SONNET: [GOOD]}
    async with world.executor() as executor:
        first = await executor.execute_validated("flash", "do it", idempotency_key="k")
        again = await executor.execute_validated("flash", "do it", idempotency_key="k")
        assert (first, 2) == (again, len(world.calls))
        with pytest.raises(IdempotencyConflict):
            await executor.execute("flash", "do it", idempotency_key="k")


async def test_attempts_bound_the_climb(world: World) -> None:
    """When the task's attempts are spent, the newest answer is the result, not accepted."""
    world.scripts = {FLASH: [answer("flash")], HAIKU: [answer("haiku")], SONNET: [UP]}

    class Few(ModelRegistry):
        def limits(self) -> Any:
            return super().limits().model_copy(update={"attempts": 3})

    async with world.executor() as executor:
        executor._intake._registry = Few()  # noqa: SLF001 - no configuration makes tasks this short
        result = await executor.execute_validated("flash", "do it")
    assert ("haiku", False, 3) == (result.response, result.accepted, result.attempts)


async def test_pro_is_a_rung_where_the_configuration_names_it(world: World) -> None:
    world.config = Config.model_validate({"escalation": {"ladder": ["flash", "pro", "opus"]}})
    world.scripts = {FLASH: [answer("flash")], PRO: [answer("pro")], SONNET: [UP, GOOD]}
    async with world.executor() as executor:
        result = await executor.execute_validated("flash", "do it")
    assert ("pro", True) == (result.tier, result.accepted)


async def test_a_fallback_to_pro_goes_up_past_haiku(world: World) -> None:
    """Pro stands beside haiku, also where a fallback led there."""
    world.config = Config.model_validate({"tiers": {"flash": {"fallback": "pro"}}})
    world.scripts = {FLASH: [fail("authentication")], PRO: [answer("pro")], SONNET: [UP, answer("sonnet"), GOOD]}
    async with world.executor() as executor:
        result = await executor.execute_validated("flash", "do it")
    assert ("sonnet", True) == (result.tier, result.accepted)


async def test_another_process_judges_what_this_one_answered(world: World) -> None:
    """Whoever comes next has only the ledger: the judge is asked about the recorded answer, the answer not again."""
    hang: asyncio.Event = asyncio.Event()

    async def stuck() -> ExecutionResult:
        hang.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this")

    world.scripts = {FLASH: [answer("flash")], HAIKU: [answer("haiku")], SONNET: [stuck, UP, GOOD]}
    async with world.executor(checked=False) as executor:
        running = asyncio.create_task(executor.execute_validated("flash", "do it", system="briefly"))
        await hang.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    async with world.executor() as executor:
        (result,) = await executor.resume()
    assert ("haiku", True) == (result.response, result.accepted)
    assert ["flash", "flash", "haiku"] == about(world)
    assert 1 == sum(model == FLASH for model, _ in world.calls)


async def judged(world: World, work: Callable[[Executor, str], Any]) -> Any:
    """Have an answer, then let something be done about it."""
    world.scripts = {FLASH: [answer("flash")], SONNET: [GOOD], **world.scripts}
    async with world.executor() as executor:
        task_id = (await executor.execute("flash", "do it", system="in French")).task_id
        assert task_id is not None
        return await work(executor, task_id)


async def test_verdicts_are_tasks_of_their_own(world: World) -> None:
    """A judge's and a person's, as often as asked; the judged task is left as it is."""
    world.scripts = {SONNET: [GOOD, STAY]}

    async def work(executor: Executor, task_id: str) -> None:
        before = rows(world.path, f"SELECT * FROM events WHERE task_id = '{task_id}'")
        calls = len(world.calls)
        found = [
            await executor.validate_task(task_id),
            await executor.validate_task(task_id),
            await executor.validate_task(task_id, "fail", issues=["no é", "rude"]),
            await executor.validate_task(task_id, "pass"),
        ]
        assert calls + 2 == len(world.calls)
        assert [True, False, False, True] == [one["pass"] for one in found]
        assert ["no é", "rude"] == found[2]["issues"]
        assert 4 == len({one["task_id"] for one in found} - {task_id})
        assert {task_id} == {one["judged_task_id"] for one in found}
        assert before == rows(world.path, f"SELECT * FROM events WHERE task_id = '{task_id}'")
        result = await executor.result(found[2]["task_id"])
        assert (True, False, 0, "person") == (result.success, result.accepted, result.attempts, result.model)
        assert "succeeded" == await executor.cancel(found[2]["task_id"])
        assert () == await executor.resume()

    await judged(world, work)
    found = rows(
        world.path,
        "SELECT v.*, t.judged_task_id, t.kind, t.tier_final FROM validations v JOIN tasks t "
        "ON t.task_id = v.judge_task_id ORDER BY t.created_at_ms, t.task_id",
    )
    assert [(1, 1), (0, 1), (0, None), (1, None)] == [(row["pass"], row["judge_attempt"]) for row in found]
    assert all(row["task_id"] == row["judged_task_id"] and row["judged_attempt"] == 1 for row in found)
    assert ["sonnet", "sonnet", None, None] == [row["tier_final"] for row in found]


async def _nothing(_: Executor, task_id: str) -> str:
    return task_id


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param({"verdict": "maybe"}, "expected pass or fail", id="no verdict"),
        pytest.param({"issues": ["bad"]}, "give the verdict with them", id="issues without a verdict"),
        pytest.param({"verdict": "fail", "issues": ["a"] * 4}, "at most 3", id="too many issues"),
        pytest.param({"verdict": "fail", "issues": ["\ud800"]}, "lone surrogate", id="half a character"),
        pytest.param({"verdict": "fail", "issues": [""]}, "0 characters", id="an empty issue"),
    ],
)
async def test_a_verdict_that_cannot_be_kept_is_refused(world: World, arguments: dict[str, Any], why: str) -> None:
    """With what was expected; nothing is written."""

    async def work(executor: Executor, task_id: str) -> None:
        before = rows(world.path, "SELECT COUNT(*) FROM events")
        with pytest.raises(RequestRefused, match=why):
            await executor.validate_task(task_id, **arguments)
        assert before == rows(world.path, "SELECT COUNT(*) FROM events")

    await judged(world, work)


async def test_what_has_no_answer_is_not_judged(world: World) -> None:
    """Neither a failed task, nor a verdict, nor what is not there, nor what was erased."""

    async def work(executor: Executor, task_id: str) -> None:
        world.scripts[FLASH], world.scripts[HAIKU] = [fail("invalid_request")], [fail("invalid_request")]
        failed = (await executor.execute("flash", "no")).task_id or ""
        verdict = await executor.validate_task(task_id, "pass")
        for one, why in ((failed, "failed and has no answer"), (verdict["task_id"], "is a verdict itself")):
            with pytest.raises(RequestRefused, match=why):
                await executor.validate_task(one)
            with pytest.raises(RequestRefused, match=why):
                await executor.validate_task(one, "pass")
        with pytest.raises(TaskNotFound):
            await executor.validate_task("none")

    await judged(world, work)


async def test_two_ledgers_hold_the_same_verdict(tmp_path: Path) -> None:
    """A person's verdict needs no client at all."""
    world = World(tmp_path)
    task_id = await judged(world, _nothing)
    async with Ledger.open(world.path, create=False) as ledger, Executor(ledger, Config()) as executor:
        assert (await executor.validate_task(task_id, "fail"))["pass"] is False
