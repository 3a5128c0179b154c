"""Providers of other people: whatever their clients do, the ledger says what happened and the caller gets a result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.base import ExecutionResult, Usage
from clients.errors import ClientUnready
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.composition import build_client
from ledger.errors import ConfigurationError
from tests.ledgers import fresh_ledger
from tests.world import World, answer, rows

HERE = "tests.test_foreign_clients"


class Duck:
    """The least that is a client."""

    def __init__(self, play: Callable[[], Any]) -> None:
        self.play = play

    async def execute(self, prompt: str, max_tokens: int = 4096, **options: Any) -> Any:
        found = self.play()
        return await found if isinstance(found, Awaitable) else found


PLAYS: dict[str, Callable[[], Any]] = {}


def duck(model: str, **_: Any) -> Duck:
    """Make a client that does what the table says of its model."""
    return Duck(PLAYS[model])


def needs_settings(model: str, *, region: str, depth: int = 1) -> Duck:
    """Make a client that cannot do without its settings."""
    return Duck(lambda: basic(response=f"{region}/{depth}/{model}"))


def explodes(model: str) -> Duck:
    """Fail as a factory may."""
    raise KeyError(model)


def unready(model: str) -> Duck:
    """Say that something is missing."""
    raise ClientUnready(f"{model} needs a licence", error_type="client_missing")


async def coroutine(model: str) -> Duck:
    """Be no factory."""
    return Duck(lambda: model)


def nothing(_: str) -> None:
    """Make nothing."""


def play(function: Callable[[], Any]) -> Callable[[], Any]:
    PLAYS[function.__name__] = function
    return function


def basic(**fields: Any) -> ExecutionResult:
    """Give the seven fields that every client knows."""
    known = {
        "model": "m",
        "response": "fine",
        "tokens_input": 3,
        "tokens_output": 4,
        "latency_ms": 5,
        "success": True,
        "error": None,
    }
    return ExecutionResult(**{**known, **fields})


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def raising(error: BaseException) -> Callable[[], Any]:
    def raises() -> Any:
        raise error

    return raises


@asynccontextmanager
async def opened(folder: Path, provider: str = f"{HERE}:duck", **tiers: Any) -> AsyncIterator[Executor]:
    """Open an executor whose haiku is somebody else's; at the end the ledger must verify, with nothing left open."""
    path = fresh_ledger(folder).rename(folder / "dispatch.db")
    world = World(folder)
    settings = tiers.pop("settings", {})
    table = {name: {"provider": provider, "model": name, **tier} for name, tier in tiers.items()}
    config = Config.from_mapping({"tiers": table, "providers": {provider: settings} if settings else {}})
    async with Ledger.open(path, ports=world.ports()) as ledger:
        async with Executor(ledger, config, ports=world.ports()) as executor:
            yield executor
        assert rows(path, "SELECT attempt FROM attempts WHERE state = 'running'") == []
        assert (await verify(await ledger.store())).problems == ()


async def dispatched(folder: Path, does: Callable[[], Any], **options: Any) -> tuple[ExecutionResult, dict[str, Any]]:
    """Dispatch one prompt to a client that does this, and return the result with the attempt's row."""
    PLAYS["haiku"] = does
    async with opened(folder, haiku={}) as executor:
        result = await executor.execute("haiku", "Hello", retry_count=0, **options)
    (row,) = rows(folder / "dispatch.db", "SELECT * FROM attempts")
    return result, row


async def test_the_seven_fields_are_enough(tmp_path: Path) -> None:
    """A client without prepare and aclose whose results have only the plan's fields is a provider like any other."""
    result, row = await dispatched(tmp_path, basic)
    assert (result.success, result.response, result.tokens_input, result.tokens_output) == (True, "fine", 3, 4)
    assert (row["tokens_input"], row["tokens_output"], row["usage_source"], row["latency_ms"]) == (3, 4, "provider", 5)
    assert (row["cache_read_tokens"], row["cost_nano_usd"], row["provider_requests"]) == (None, None, None)


async def test_settings_reach_the_factory(tmp_path: Path) -> None:
    """The provider's table goes to the factory, without ``concurrency``."""
    settings = {"region": "north", "depth": 7, "concurrency": 1}
    async with opened(tmp_path, f"{HERE}:needs_settings", haiku={}, settings=settings) as executor:
        assert (await executor.execute("haiku", "Hello")).response == "north/7/haiku"


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (f"{HERE}:needs_settings", "refuses model 'haiku' and its settings: TypeError"),
        (f"{HERE}:explodes", "refuses model 'haiku' and its settings: KeyError"),
        (f"{HERE}:coroutine", "made a coroutine without execute"),
        (f"{HERE}:nothing", "made a NoneType without execute"),
        (f"{HERE}:missing", "cannot be loaded: AttributeError"),
        ("no_such_module:factory", "cannot be loaded: ModuleNotFoundError"),
    ],
    ids=["wrong settings", "raises", "coroutine", "nothing", "no such name", "no such module"],
)
async def test_factories_that_make_no_client(tmp_path: Path, provider: str, said: str) -> None:
    """A provider that cannot be made is the configuration's fault, told before anything is written."""
    async with opened(tmp_path, provider, haiku={}) as executor:
        with pytest.raises(ConfigurationError, match=said):
            await executor.execute("haiku", "Hello")
        verdict = await executor.validate_output("task", "output")
    assert verdict["pass"] is False
    assert rows(tmp_path / "dispatch.db", "SELECT type FROM events WHERE data LIKE '%Hello%'") == []


async def test_factory_of_the_fallback_raises(tmp_path: Path) -> None:
    """A fallback that cannot be made fails its attempt as client_missing, billed nothing, and the task has an end."""
    PLAYS["flash"] = lambda: basic(success=False, response="", error="no", error_type="overloaded")
    haiku = {"provider": f"{HERE}:explodes"}
    async with opened(tmp_path, flash={}, haiku=haiku) as executor:
        result = await executor.execute("flash", "Hello", retry_count=0)
    assert (result.success, result.tier, result.error_type, result.attempts) == (False, "haiku", "client_missing", 2)


async def test_factory_says_that_it_is_unready(tmp_path: Path) -> None:
    """A factory may say like ``prepare`` what is missing; its tier's fallback takes over."""
    PLAYS["haiku"] = basic
    async with opened(tmp_path, flash={"provider": f"{HERE}:unready"}, haiku={}) as executor:
        result = await executor.execute("flash", "Hello")
    assert (result.success, result.tier, result.attempts) == (True, "haiku", 2)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("broken"),
        StopIteration("over"),
        StopAsyncIteration(),
        asyncio.CancelledError("own"),
        ExceptionGroup("several", [ValueError("a"), OSError("b")]),
        Unprintable(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"),
        RuntimeError("x" * 10_000_000),
    ],
    ids=["RuntimeError", "StopIteration", "StopAsyncIteration", "own cancel", "group", "unprintable", "lone", "huge"],
)
async def test_whatever_a_client_raises(tmp_path: Path, error: BaseException) -> None:
    """What a client raises is a failed attempt, of type other, billing unknown, its own cancellation too."""
    result, row = await dispatched(tmp_path, raising(error))
    assert (result.success, result.error_type, row["usage_source"]) == (False, "other", "unknown")
    assert result.error is not None
    assert type(error).__name__ in result.error or isinstance(error, StopIteration)
    assert len(result.error) < 100_000


async def test_timeout_of_a_clients_own(tmp_path: Path) -> None:
    """A client that raises TimeoutError has timed out, whoever set the time."""
    result, row = await dispatched(tmp_path, raising(TimeoutError("socket")))
    assert (result.error_type, row["cost_nano_usd"], row["usage_source"]) == ("timeout", None, "unknown")
    assert result.error == "the client itself failed: TimeoutError: socket"


@pytest.mark.parametrize("error", [BaseExceptionGroup("all", [asyncio.CancelledError()])], ids=["group"])
async def test_what_is_not_for_us_goes_on(tmp_path: Path, error: BaseException) -> None:
    """An exception that is no Exception is recorded as an interruption and goes on to the caller."""
    PLAYS["haiku"] = raising(error)
    async with opened(tmp_path, haiku={}) as executor:
        with pytest.raises(BaseExceptionGroup):
            await executor.execute("haiku", "Hello", retry_count=0)
    assert rows(tmp_path / "dispatch.db", "SELECT error_type FROM attempts") == [{"error_type": "interrupted"}]


@pytest.mark.parametrize(
    "given",
    [None, "text", {"response": "x", "success": True}, basic, object()],
    ids=["nothing", "text", "dict", "function", "object"],
)
async def test_results_that_are_none(tmp_path: Path, given: Any) -> None:
    """What is no ExecutionResult is a failure that names what it was."""
    result, _ = await dispatched(tmp_path, lambda: given)
    assert (result.success, result.error_type) == (False, "other")
    assert f"the client gave a {type(given).__name__}" in (result.error or "")


@pytest.mark.parametrize(
    ("fields", "column", "stored"),
    [
        ({"latency_ms": -5}, "latency_ms", None),
        ({"latency_ms": 2**80}, "latency_ms", None),
        ({"tokens_input": -1}, "tokens_input", None),
        ({"tokens_output": 2**70}, "tokens_output", None),
        ({"ttft_ms": -1}, "ttft_ms", None),
        ({"provider_requests": -1}, "provider_requests", None),
        ({"status_code": -7}, "status_code", None),
        ({"request_id": "r\ud800"}, "request_id", "r?"),
        ({"served_model": "m\udfff"}, "response_model", "m?"),
        ({"usage": (Usage(model="m", input_uncached_tokens=2**63 - 1, cache_read_tokens=2**63 - 1),)}, "attempt", 1),
        ({"task_id": "mine", "attempts": 77, "cost_nano_usd": 1}, "cost_nano_usd", None),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_absurd_figures_are_unknown(tmp_path: Path, fields: dict[str, Any], column: str, stored: Any) -> None:
    """A figure that cannot be is unknown, never zero; the answer that came with it is kept."""
    result, row = await dispatched(tmp_path, lambda: basic(**fields))
    assert (result.success, result.response, result.attempts) == (True, "fine", 1)
    assert row[column] == stored


async def test_surrogates_in_an_answer(tmp_path: Path) -> None:
    """Half a pair in an answer is replaced, since no file can hold it; the rest is kept."""
    result, _ = await dispatched(tmp_path, lambda: basic(response="a\ud800b"))
    assert (result.success, result.response) == (True, "a?b")


async def test_big_answer(tmp_path: Path) -> None:
    """An answer of 40 MB is kept whole; one beyond 64 MiB is dropped and said to be."""
    result, _ = await dispatched(tmp_path, lambda: basic(response="é" * 20_000_000))
    assert (result.success, len(result.response)) == (True, 20_000_000)


@pytest.mark.parametrize(
    ("fields", "error_type"),
    [
        ({"response": ""}, "api_error"),
        ({"response": "", "finish_reason": "max_tokens"}, "truncated"),
        ({"response": "x" * (64 * 2**20 + 1)}, "api_error"),
        ({"error_type": "overloaded"}, "overloaded"),
        ({"success": False, "error": None}, "other"),
        ({"success": False, "error": "\ud800"}, "other"),
        ({"success": False, "error_type": "rate_limited", "retry_after_ms": 2**63 - 1}, "rate_limited"),
    ],
    ids=["no text", "cut without text", "too big", "both", "no words", "surrogate", "retry-after for ever"],
)
async def test_successes_that_are_none(tmp_path: Path, fields: dict[str, Any], error_type: str) -> None:
    """A success without a text, or with an error type, is a failure with its tokens kept."""
    result, row = await dispatched(tmp_path, lambda: basic(**fields))
    assert (result.success, result.error_type, result.response) == (False, error_type, "")
    assert (row["tokens_input"], row["tokens_output"]) == (3, 4)
    assert result.error


@pytest.mark.parametrize(
    "broken",
    [{"usage": ("x",)}, {"response": None}, {"usage_source": "made up"}, {"error_type": "new", "success": False}],
    ids=lambda fields: next(iter(fields)),
)
async def test_results_put_together_by_force(tmp_path: Path, broken: dict[str, Any]) -> None:
    """A result that went around its own checks loses no record of its call."""
    result, row = await dispatched(tmp_path, lambda: basic().model_copy(update=broken))
    assert (result.success, result.error_type, row["state"]) == (False, "other", "failed")
    assert "cannot be recorded" in (result.error or "")


class Prepared(Duck):
    """A client that gives trouble before anything is sent."""

    def __init__(self, does: Callable[[], Any]) -> None:
        super().__init__(basic)
        self.does = does

    def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> Any:
        return self.does()


async def gives(value: Any) -> Any:
    return value


async def raises(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    ("does", "error_type"),
    [
        (lambda: raises(RuntimeError("no licence")), "other"),
        (lambda: raises(asyncio.CancelledError()), "other"),
        (lambda: gives("tab"), "other"),
        (lambda: None, "other"),
        (lambda: raises(ClientUnready("later", error_type="connection")), "connection"),
    ],
    ids=["raises", "cancels itself", "unknown prefix", "no coroutine", "unready"],
)
async def test_clients_that_cannot_be_made_ready(
    tmp_path: Path, does: Callable[[], Any], error_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt whose client cannot be made ready starts and fails in one transaction, billed nothing."""
    monkeypatch.setitem(globals(), "duck", lambda _: Prepared(does))
    result, row = await dispatched(tmp_path, basic)
    assert (result.success, result.error_type, row["usage_source"], row["cost_nano_usd"]) == (
        False,
        error_type,
        "not_billed",
        0,
    )


class Stubborn(Duck):
    """A client that will not end when it is told to."""

    def __init__(self) -> None:
        super().__init__(basic)
        self.free = asyncio.Event()

    async def execute(self, prompt: str, max_tokens: int = 4096, **options: Any) -> Any:
        options["on_text"]("in time")
        while not self.free.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.free.wait()
        options["on_text"]("too late")
        return basic(response="too late")


async def test_client_that_swallows_its_end_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that ignores deadline and cancellation cannot hold the task: a timeout, and unheard from then on."""
    heard: list[str] = []
    for name in ("ledger.executor.attempt.GRACE_S", "ledger.executor.calling.END_S"):
        monkeypatch.setattr(name, 0.02)
    stubborn = Stubborn()
    monkeypatch.setitem(globals(), "duck", lambda _: stubborn)
    result, row = await dispatched(tmp_path, basic, timeout_s=0.02, on_text=heard.append)
    assert (result.error_type, row["state"], row["usage_source"]) == ("timeout", "failed", "unknown")
    stubborn.free.set()
    await asyncio.sleep(0.01)
    assert heard == ["in time"]


@pytest.mark.parametrize("close", [None, raising(RuntimeError()), lambda: 5], ids=["none", "raises", "no coroutine"])
async def test_clients_that_cannot_be_closed(
    tmp_path: Path, close: Callable[[], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client's trouble in closing keeps neither the others nor the ledger open."""
    client = Duck(basic)
    client.aclose = close  # type: ignore[attr-defined]  # ducks have whatever one gives them
    monkeypatch.setitem(globals(), "duck", lambda _: client)
    result, _ = await dispatched(tmp_path, basic)
    assert result.success


async def test_answer_of_the_judge_by_a_foreign_client(tmp_path: Path) -> None:
    """A foreign judge that ignores the schema is read like any other, and never passes by accident."""
    PLAYS["sonnet"] = lambda: answer("pass")
    async with opened(tmp_path, sonnet={}) as executor:
        verdict = await executor.validate_output("task", "output")
    assert (verdict["pass"], verdict["confidence"], verdict["escalate"], sorted(verdict)) == (
        False,
        0,
        True,
        ["confidence", "escalate", "issues", "pass"],
    )


@pytest.mark.parametrize("mode", ["process", "warm"])
def test_a_model_that_names_none_is_a_mistake_of_the_configuration(mode: str) -> None:
    """Such a model is refused before anything is written, like any other mistake there."""
    with pytest.raises(ConfigurationError, match="a tier's model cannot be used: 'auto' lets the Gemini CLI choose"):
        build_client("gemini", "auto", {"mode": mode})
