"""The simulated client: the same again for the same seed, and what its settings mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, get_args

import pytest

from clients.base import ErrorType, ExecutionResult
from clients.errors import PromptRefused
from clients.judging import judge_request, read_verdict
from clients.simulated import SimulatedClient

FAILURES = {"rate_limited": 0.2, "timeout": 0.1, "api_error": 0.1}


class Clock:
    """A sleep that only notes the seconds."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def client(model: str = "simulated-flash", **settings: Any) -> SimulatedClient:
    return SimulatedClient(model, sleep=Clock().sleep, **settings)


async def calls(subject: SimulatedClient, prompt: str, count: int) -> list[ExecutionResult]:
    return [await subject.execute(prompt) for _ in range(count)]


async def test_same_seed_gives_the_same_calls() -> None:
    """Two clients of one seed answer, fail and count alike."""
    first, second = client(seed=7, failures=FAILURES), client(seed=7, failures=FAILURES)
    assert await calls(first, "p", 50) == await calls(second, "p", 50)


@pytest.mark.parametrize("other", [{"seed": 8}, {"model": "simulated-pro"}], ids=["another seed", "another model"])
async def test_seed_and_model_both_matter(other: dict[str, Any]) -> None:
    """Another seed or another model gives another run of failures."""

    async def kinds(subject: SimulatedClient) -> list[str | None]:
        return [result.error_type for result in await calls(subject, "p", 60)]

    assert await kinds(client(seed=7, failures=FAILURES)) != await kinds(
        client(**{"seed": 7, "failures": FAILURES, **other})
    )


async def test_concurrency_changes_nothing() -> None:
    """Many prompts at once, in another order, get what each gets alone."""
    prompts = [f"prompt {number}" for number in range(30)]
    alone = {prompt: await client(seed=3, failures=FAILURES).execute(prompt) for prompt in prompts}
    crowd = SimulatedClient("simulated-flash", seed=3, failures=FAILURES, latency_ms=(0, 3))
    results = await asyncio.gather(*(crowd.execute(prompt) for prompt in reversed(prompts)))
    without_latency = [result.model_copy(update={"latency_ms": 0}) for result in results]
    assert [alone[p].model_copy(update={"latency_ms": 0}) for p in reversed(prompts)] == without_latency


async def test_failures_come_about_as_often_as_asked() -> None:
    """Over a thousand prompts each failure keeps near its chance."""
    subject = client(seed=1, failures=FAILURES)
    kinds = [(await subject.execute(f"p{number}")).error_type for number in range(1000)]
    for error_type, chance in FAILURES.items():
        assert chance * 1000 == pytest.approx(kinds.count(error_type), abs=50)  # type: ignore[arg-type] # a str key


async def test_script_is_taken_for_each_prompt() -> None:
    """Each prompt meets the script from its beginning, then the chances."""
    subject = client(script=["rate_limited", "overloaded", "ok"])
    expected = ["rate_limited", "overloaded", None, None]
    assert expected == [result.error_type for result in await calls(subject, "a", 4)]
    assert expected == [result.error_type for result in await calls(subject, "b", 4)]


async def test_scripted_figures_are_used() -> None:
    """A scripted table sets tokens, latency, text and stop reason."""
    item = {"tokens_input": 5, "tokens_output": 6, "latency_ms": 7, "text": "done", "stop_reason": "max_tokens"}
    result = await client(script=[item]).execute("p")
    seen = (result.tokens_input, result.tokens_output, result.latency_ms, result.response, result.finish_reason)
    assert seen == (5, 6, 7, "done", "max_tokens")


async def test_scripted_retry_after_is_given() -> None:
    """A scripted failure carries the provider's wait."""
    result = await client(script=[{"error_type": "rate_limited", "retry_after_s": 1.5}]).execute("p")
    assert (result.error_type, result.retry_after_ms, result.status_code) == ("rate_limited", 1500, 429)


@pytest.mark.parametrize("error_type", sorted(set(get_args(ErrorType)) - {"output_invalid"}))
async def test_every_error_type_can_be_played(error_type: str) -> None:
    """Each error type of the contract gives a failed result of that type."""
    result = await client(script=[error_type]).execute("p")
    assert (False, error_type, "") == (result.success, result.error_type, result.response)
    assert result.error


@pytest.mark.parametrize(
    ("error_type", "source"),
    [
        ("rate_limited", "not_billed"),
        ("authentication", "not_billed"),
        ("client_missing", "not_billed"),
        ("timeout", "unknown"),
        ("connection", "unknown"),
        ("content_refused", "provider"),
        ("truncated", "provider"),
    ],
)
async def test_billing_of_a_failure(error_type: str, source: str) -> None:
    """What is known of a failed call's bill is what the contract says; usage comes only from the provider."""
    result = await client(script=[error_type]).execute("p")
    assert (source, source == "provider") == (result.usage_source, bool(result.usage))


async def test_latency_is_slept_within_its_range() -> None:
    """The latency that is slept is the one reported, within the range."""
    clock = Clock()
    subject = SimulatedClient(latency_ms=(20, 80), sleep=clock.sleep)
    reported = [(await subject.execute(f"p{number}")).latency_ms for number in range(200)]
    assert [latency / 1000 for latency in reported] == clock.slept
    assert 20 <= min(reported) < 30
    assert 70 < max(reported) <= 80


async def test_latency_past_the_timeout_is_a_timeout() -> None:
    """A call slower than its timeout ends there."""
    clock = Clock()
    result = await SimulatedClient(latency_ms=5000, sleep=clock.sleep).execute("p", timeout_s=2)
    assert (
        result.error_type,
        result.usage_source,
        result.latency_ms,
        clock.slept,
    ) == ("timeout", "unknown", 2000, [2.0])


async def test_output_limit_is_kept() -> None:
    """An answer longer than the limit is cut there and says so."""
    result = await client(text="word " * 100).execute("p", max_tokens=10)
    assert (result.success, result.finish_reason, result.tokens_output) == (True, "max_tokens", 10)
    assert len(result.response) == 40


async def test_an_answer_without_text_is_a_failure() -> None:
    """An empty scripted text is no success, though it is billed."""
    result = await client(script=[{"text": ""}]).execute("p")
    assert (result.success, result.error_type, result.usage_source) == (False, "api_error", "provider")


async def test_judge_requests_get_verdicts() -> None:
    """With a schema the answer is a valid verdict, which mostly passes."""
    subject = client()
    verdicts = []
    for number in range(100):
        request = judge_request("task", f"output {number}")
        result = await subject.execute(request.prompt, schema=request.schema)
        verdicts.append(read_verdict(result.response).passed)
    assert 80 < sum(verdicts) < 100


async def test_verdicts_can_be_scripted() -> None:
    """A scripted verdict is what the judge says, and an invalid output is a success with no verdict in it."""
    verdict = {"pass": False, "issues": ["too short"], "confidence": 0.25, "escalate": True}
    subject = client(script=["output_invalid", {"verdict": verdict}])
    first, second = [await subject.execute("p", schema={}) for _ in range(2)]
    assert first.success
    with pytest.raises(ValueError, match="not JSON"):
        read_verdict(first.response)
    assert verdict == json.loads(second.response)


@pytest.mark.parametrize("prompt", ["", "half a pair \ud800"], ids=["empty", "lone surrogate"])
async def test_texts_are_checked(prompt: str) -> None:
    """What a real client would refuse is refused here too."""
    with pytest.raises(PromptRefused):
        await client().prepare(prompt)


async def test_settings_by_model_override() -> None:
    """A model's own table replaces the shared values, key by key."""
    settings = {
        "seed": 4,
        "latency_ms": 0,
        "failures": {"overloaded": 1.0},
        "concurrency": 8,
        "models": {"opus": {"failures": {}, "latency_ms": [1, 1]}, "pro": {"script": ["billing"]}},
    }
    results = {
        model: await SimulatedClient.from_settings(model, settings).execute("p") for model in ("flash", "pro", "opus")
    }
    assert {k: r.error_type for k, r in results.items()} == {"flash": "overloaded", "pro": "billing", "opus": None}
    assert {k: r.latency_ms for k, r in results.items()} == {"flash": 0, "pro": 0, "opus": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": 3}, "unknown key of a simulated provider 'latency'; did you mean 'latency_ms'"),
        ({"models": {"opus": {"fail": {}}}}, "unknown key of the simulated model opus 'fail'; did you mean 'failures'"),
        ({"failures": {"rate_limit": 0.1}}, "did you mean 'rate_limited'"),
        ({"failures": {"timeout": 0.6, "other": 0.5}}, "add up to 1.100"),
        ({"failures": {"timeout": 1.5}}, "from 0 to 1"),
        ({"failures": {"timeout": True}}, "from 0 to 1"),
        ({"failures": ["timeout"]}, "must be a table"),
        ({"latency_ms": [80, 20]}, "latency_ms must be"),
        ({"latency_ms": -1}, "latency_ms must be"),
        ({"latency_ms": True}, "latency_ms must be"),
        ({"latency_ms": [1, 2, 3]}, "latency_ms must be"),
        ({"latency_ms": "fast"}, "latency_ms must be"),
        ({"seed": "one"}, "seed must be an integer"),
        ({"script": "ok"}, "script must be a list"),
        ({"script": ["overload"]}, "did you mean 'overloaded'"),
        ({"script": [3]}, "a name or a table"),
        ({"script": [{"error": "timeout"}]}, "did you mean 'error_type'"),
        ({"script": [{"error_type": "time_out"}]}, "did you mean 'timeout'"),
        ({"script": [{"tokens_input": -1}]}, "outcome tokens_input"),
    ],
)
def test_settings_that_make_no_sense(settings: Mapping[str, Any], message: str) -> None:
    """A setting nobody knows, or a value out of range, is refused by name."""
    with pytest.raises(ValueError, match=message):
        SimulatedClient.from_settings("flash", settings)
