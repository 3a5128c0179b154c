"""Text as it comes: the real SDK against the emulator, the simulated client, and both through the executor."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.anthropic import AnthropicClient
from clients.base import ExecutionResult, Usage
from clients.pieces import Pieces
from clients.simulated import SimulatedClient
from ledger import Executor, Ledger
from ledger.config import Config
from tests.contracts.client_contract import check_shape
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.emulator.streams import How, broken, cut_up, slow
from tests.world import rows

KEY = "sk-canary-0123456789"
TEXT = "Grüße 🎈, 日本語 and e\u0301: the end."


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture
def server(emulator: Emulator) -> api.Anthropic:
    return api.Anthropic(emulator)


@pytest.fixture(params=["aiohttp", pytest.param("httpx", marks=pytest.mark.slow)])
async def client(server: api.Anthropic, request: pytest.FixtureRequest) -> AsyncIterator[AnthropicClient]:
    made = AnthropicClient(api_key=KEY, base_url=server.url, transport=request.param)
    await made.prepare("warm")
    yield made
    await made.aclose()


def known(result: ExecutionResult) -> dict[str, Any]:
    """Give what a streamed call and one in one piece have to agree on."""
    return result.model_dump(exclude={"latency_ms", "ttft_ms", "raw_usage", "request_id"})


def connections(server: api.Anthropic) -> int:
    """Count the connections to the server that somebody still holds at this end."""
    port = int(server.url.rpartition(":")[2])
    held = {"01", "08"}  # established; closed by the server only
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(int(line[2].rpartition(":")[2], 16) == port and line[3] in held for line in lines)


@pytest.mark.parametrize(
    ("pieces", "heard"),
    [
        (["a", "", "b"], ["a", "b"]),
        (["a\ud83c", "\udf88b"], ["a", "🎈b"]),
        (["\ud83c", "", "\udf88"], ["🎈"]),
        (["\ud83c", "x"], ["\ufffdx"]),
        (["\udf88x"], ["\ufffdx"]),
        (["x\ud83c"], ["x", "\ufffd"]),
        ([], []),
    ],
    ids=["plain", "a pair in two", "a pair with nothing between", "a half", "the other half", "a half at the end", "-"],
)
def test_every_piece_is_unicode(pieces: list[str], heard: list[str]) -> None:
    """Halves of a pair are put together, one alone is replaced, and the pieces make the whole."""
    passed: list[str] = []
    taken = Pieces(passed.append)
    for piece in pieces:
        taken.add(piece)
    assert ("".join(heard), heard) == (taken.end(), passed)


def test_a_hearer_that_raised_or_left_hears_no_more() -> None:
    """After an error of its own, and after the call, nothing is passed on; the text is still whole."""

    def hear(text: str) -> None:
        passed.append(text)
        raise KeyError(text)

    passed: list[str] = []
    raising, closed = Pieces(hear), Pieces(hear)
    closed.close()
    for taken in (raising, closed):
        taken.add("a")
        taken.add("b")
    assert (["a"], "ab", "ab") == (passed, raising.end(), closed.end())
    assert (repr(KeyError("a")), None) == (repr(raising.fault), closed.fault)


async def test_text_comes_while_it_is_made(server: api.Anthropic, client: AnthropicClient) -> None:
    """Each piece is heard when it comes, in the event loop's thread, and the first one is timed."""
    server.script(slow(api.answer(TEXT, pieces=8), 0.05))
    heard: list[tuple[str, asyncio.AbstractEventLoop]] = []
    result = await client.execute("hello", on_text=lambda text: heard.append((text, asyncio.get_running_loop())))
    assert (TEXT, TEXT, 8) == (result.response, "".join(text for text, _ in heard), len(heard))
    assert {asyncio.get_running_loop()} == {loop for _, loop in heard}
    assert result.ttft_ms is not None
    assert 100 <= result.ttft_ms <= result.latency_ms - 100
    assert server.requests[0].json()["stream"] is True


WHOLE: dict[str, api.Step] = {
    "plain": api.answer("one two three"),
    "every count": api.answer(
        "hi",
        usage={
            "input_tokens": 11,
            "cache_read_input_tokens": 200,
            "cache_creation_input_tokens": 70,
            "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 40},
            "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 20},
            "service_tier": "priority",
            "inference_geo": "eu",
        },
        model="claude-haiku-5-5-served",
    ),
    "no cache counts": api.answer("hi", usage={"cache_read_input_tokens": None, "cache_creation": None}),
    "blocks": api.answer(
        blocks=[
            {"type": "thinking", "thinking": "hm, let me see"},
            {"type": "text", "text": "a🎈b"},
            {"type": "text", "text": "c"},
        ]
    ),
    "refusal after text": api.refusal("I began"),
    "refusal": api.refusal(),
    "limit after text": api.max_tokens("so far"),
    "limit before text": api.max_tokens(),
    "window full": api.answer("x", stop_reason="model_context_window_exceeded"),
    "empty": api.empty(),
    "only thinking": api.answer(blocks=[{"type": "thinking", "thinking": "hm"}]),
    "no reason": api.answer("x", stop_reason=None),
    "429": api.error(429, "rate_limit_error", "slow down", headers={"retry-after": "7"}),
    "spend limit": api.error(429, "rate_limit_error", "no", details={"error_code": "enforced_spend_limit_reached"}),
    "401": api.error(401, "authentication_error", f"the key {KEY} is wrong"),
    "529": api.error(529, "overloaded_error", "busy"),
    "dropped": api.dropped(),
    "page": api.garbage(),
    "nothing": api.raw(b""),
    "no message": api.wrong_json(),
    "a proxy that cannot stream": api.raw(
        '{"content": [{"type": "text", "text": "whole"}], "usage": {"input_tokens": 3, "output_tokens": 1},'
        '"stop_reason": "end_turn", "model": "m"}'
    ),
}


@pytest.mark.parametrize("step", WHOLE.values(), ids=WHOLE)
async def test_streaming_changes_no_result(server: api.Anthropic, client: AnthropicClient, step: api.Step) -> None:
    """A call says the same of its end, its tokens and its text, streamed or not; each is one request."""
    pieces: list[str] = []
    server.script(step, step)
    streamed = await client.execute("hello", on_text=pieces.append)
    assert len(server.requests) == 1
    assert known(await client.execute("hello")) == known(streamed)
    assert not streamed.success or "".join(pieces) == streamed.response
    assert (streamed.ttft_ms is not None) == bool(pieces) or streamed.served_model == "m"
    assert KEY not in streamed.model_dump_json()


async def test_counts_of_a_stream_are_running_totals(server: api.Anthropic, client: AnthropicClient) -> None:
    """What the API said last of a count holds; what it leaves out or sends as null stays, and all is kept as text."""
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "be"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "gun"}},
        {"type": "new_event_of_tomorrow", "text": "no"},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 3, "input_tokens": None}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 10, "new": 1}},
        {"type": "message_stop"},
    ]
    server.script(api.raw(b"".join(map(api.event, told)), content_type="text/event-stream; charset=utf-8"))
    result = await client.execute("hello", on_text=lambda _: None)
    assert ("begun", 10, 3, "provider") == (
        result.response,
        result.tokens_input,
        result.tokens_output,
        result.usage_source,
    )
    assert {"input_tokens": 10, "output_tokens": 3, "new": 1} == json.loads(result.raw_usage or "")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
async def test_borders_of_chunks_mean_nothing(server: api.Anthropic, client: AnthropicClient, size: int) -> None:
    """A character, or an event, in two chunks arrives whole."""
    pieces: list[str] = []
    server.script(cut_up(api.answer(TEXT, pieces=5), size))
    result = await client.execute("hello", on_text=pieces.append)
    assert (True, TEXT, TEXT) == (result.success, result.response, "".join(pieces))


STARTED = 1  # message_start
HEARD = 5  # and a ping, the block's start, two of four pieces
ALL_HEARD = 7
STOPPED = 9  # all but message_stop


def broken_at(after: int, how: How = "dropped", last: bytes = b"") -> api.Step:
    return broken(api.answer("some text that goes on", pieces=4, usage={"output_tokens": 40}), after, how, last=last)


BREAKS: dict[str, tuple[api.Step, str, str, str]] = {
    "disconnect before the message": (broken_at(0, last=b": hello\n\n"), "connection", "unknown", ""),
    "disconnect before text": (broken_at(STARTED), "connection", "stream_partial", ""),
    "disconnect in the text": (broken_at(HEARD), "connection", "stream_partial", "some text th"),
    "disconnect in an event": (
        broken_at(HEARD, last=b"event: content_bl"),
        "connection",
        "stream_partial",
        "some text th",
    ),
    "disconnect before the stop": (broken_at(STOPPED), "connection", "stream_partial", "some text that goes on"),
    "error at once": (broken_at(0, "ended", api.stream_error()), "overloaded", "unknown", ""),
    "error in the text": (
        broken_at(HEARD, "ended", api.stream_error()),
        "overloaded",
        "stream_partial",
        "some text th",
    ),
    "error, then silence": (
        broken_at(HEARD, "stalled", api.stream_error()),
        "overloaded",
        "stream_partial",
        "some text th",
    ),
    "another error": (
        broken_at(HEARD, "ended", api.stream_error("api_error", "Internal")),
        "api_error",
        "stream_partial",
        "some text th",
    ),
    "early end at once": (broken_at(0, "ended", b": hello\n\n"), "api_error", "unknown", ""),
    "early end in the text": (broken_at(HEARD, "ended"), "api_error", "stream_partial", "some text th"),
    "early end after the text": (
        broken_at(ALL_HEARD, "ended"),
        "api_error",
        "stream_partial",
        "some text that goes on",
    ),
    "early end before the stop": (broken_at(STOPPED, "ended"), "api_error", "stream_partial", "some text that goes on"),
    "garbage": (
        broken_at(HEARD, "ended", b"event: x\ndata: {no json\n\n"),
        "api_error",
        "stream_partial",
        "some text th",
    ),
    "a list": (broken_at(HEARD, "ended", b"event: x\ndata: [1]\n\n"), "api_error", "stream_partial", "some text th"),
    "deep garbage": (
        broken_at(HEARD, "ended", b"event: x\ndata: " + b"[" * 100_000 + b"\n\n"),
        "api_error",
        "stream_partial",
        "some text th",
    ),
    "no delta": (
        broken_at(HEARD, "ended", api.event({"type": "content_block_delta"})),
        "api_error",
        "stream_partial",
        "some text th",
    ),
    "no UTF-8": (
        broken_at(HEARD, "ended", b'event: x\ndata: "\xff"\n\n'),
        "api_error",
        "stream_partial",
        "some text th",
    ),
    "a page": (broken_at(0, "ended", b"<html>Bad gateway, but 200</html>"), "api_error", "unknown", ""),
}


@pytest.mark.parametrize(("step", "error_type", "usage_source", "heard"), BREAKS.values(), ids=BREAKS)
async def test_a_broken_stream_is_no_success(
    server: api.Anthropic, client: AnthropicClient, step: api.Step, error_type: str, usage_source: str, heard: str
) -> None:
    """However a stream breaks, it is one failed request that keeps the tokens, model and time known by then."""
    pieces: list[str] = []
    server.script(step)
    result = await client.execute("hello", on_text=pieces.append, timeout_s=5)
    check_shape(result)
    assert (error_type, usage_source, heard) == (result.error_type, result.usage_source, "".join(pieces))
    assert (len(server.requests), result.provider_requests, result.response) == (1, 1, "")
    assert (result.status_code, result.request_id) == (200, "req_00000000")
    assert (result.ttft_ms is not None) == bool(heard)
    partial = usage_source == "stream_partial"
    output = 40 if "stop" in step_name(step) else 1
    assert (11 if partial else None, output if partial else None) == (result.tokens_input, result.tokens_output)
    assert ("claude-haiku-5-5" if partial else None) == result.served_model
    assert (await client.execute("again", on_text=pieces.append)).success


def step_name(step: api.Step) -> str:
    return next(name for name, row in BREAKS.items() if row[0] is step)


async def test_an_error_in_a_stream_shows_no_key(server: api.Anthropic, client: AnthropicClient) -> None:
    """What the provider says in the middle is cleaned and bounded like any message."""
    server.script(broken_at(HEARD, "ended", api.stream_error("overloaded_error", KEY + "x" * 5000)))
    result = await client.execute("hello", on_text=lambda _: None)
    assert KEY not in result.model_dump_json()
    assert len(str(result.error)) < 700


async def test_what_comes_after_the_end_changes_nothing(server: api.Anthropic, client: AnthropicClient) -> None:
    """A connection that breaks when the message is whole takes nothing from it."""
    server.script(broken(api.answer("whole"), 99), broken(api.answer("whole"), 99, "ended", last=b"data: {garbage\n\n"))
    assert [True, True] == [(await client.execute("hello", on_text=lambda _: None)).success for _ in range(2)]


@pytest.mark.parametrize("how", ["stalled", "trickling"])
async def test_the_deadline_covers_the_whole_stream(server: api.Anthropic, client: AnthropicClient, how: str) -> None:
    """A stream that stops in silence, or goes on too long, ends at the deadline; nothing is heard after it."""
    endless = slow(api.answer("x" * 400, pieces=400), 0.02)
    server.script(broken_at(HEARD, "stalled") if how == "stalled" else endless)
    pieces: list[str] = []
    started = time.monotonic()
    result = await client.execute("hello", on_text=pieces.append, timeout_s=1)
    assert 0.9 < time.monotonic() - started < 4
    check_shape(result)
    assert ("timeout", "stream_partial", 11, 200) == (
        result.error_type,
        result.usage_source,
        result.tokens_input,
        result.status_code,
    )
    heard = len(pieces)
    await asyncio.sleep(0.1)
    assert len(pieces) == heard > 0
    assert connections(server) == 0


async def test_cancelling_in_mid_stream(server: api.Anthropic, client: AnthropicClient) -> None:
    """A call cancelled in mid-stream ends at once, closes its connection, and says nothing more."""
    server.script(broken_at(HEARD, "stalled"))
    begun = asyncio.Event()
    call = asyncio.create_task(client.execute("hello", on_text=lambda _: begun.set()))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await call
    assert connections(server) == 0
    assert (await client.execute("again", on_text=lambda _: None)).success


@pytest.mark.parametrize("error", [KeyError("mine"), TimeoutError("mine"), asyncio.CancelledError("mine")], ids=repr)
async def test_a_hearer_that_raises(server: api.Anthropic, client: AnthropicClient, error: BaseException) -> None:
    """What ``on_text`` raises is the caller's own, is raised as it is, and leaves no connection."""

    def hear(text: str) -> None:
        heard.append(text)
        raise error

    heard: list[str] = []
    server.script(broken_at(HEARD, "stalled"))
    with pytest.raises(type(error), match="mine"):
        await client.execute("hello", on_text=hear)
    assert (["some t"], 0) == (heard, connections(server))
    assert (await client.execute("again")).success


async def test_a_slow_hearer_loses_nothing(server: api.Anthropic, client: AnthropicClient) -> None:
    """Text waits for a hearer that takes its time."""
    pieces: list[str] = []

    def hear(text: str) -> None:
        pieces.append(text)
        time.sleep(0.005)

    server.script(api.answer("word " * 2000, pieces=40))
    result = await client.execute("hello", on_text=hear)
    assert ("word " * 2000, "word " * 2000) == (result.response, "".join(pieces))
    assert result.latency_ms >= 150


async def test_connections_are_used_again(server: api.Anthropic, client: AnthropicClient) -> None:
    """A stream that was read to its end leaves its connection to the next call."""
    for _ in range(3):
        assert (await client.execute("hello", on_text=lambda _: None)).success
    assert connections(server) == 1


@pytest.mark.parametrize(("max_tokens", "streamed"), [(21_333, False), (21_334, True), (128_000, True)])
async def test_long_answers_are_streamed_by_themselves(
    server: api.Anthropic,
    client: AnthropicClient,
    max_tokens: int,
    streamed: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Where the SDK calls for a stream there is one, and nobody needs to know; below there is none."""
    result = await client.execute("hello", max_tokens)
    (request,) = server.requests
    assert (True, streamed, streamed) == (result.success, "stream" in request.json(), result.ttft_ms is not None)
    assert (max_tokens, "Answer to: hello") == (request.json()["max_tokens"], result.response)


async def test_an_endless_stream_is_dropped(
    server: api.Anthropic, client: AnthropicClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream past the limit of bytes is not read on."""
    monkeypatch.setattr("clients.anthropic_bodies.RESPONSE_BYTES_MAX", 10_000)
    server.script(api.answer("x" * 20_000, pieces=200))
    result = await client.execute("hello", on_text=lambda _: None)
    assert (result.error_type, result.usage_source) == ("api_error", "stream_partial")
    assert "10,000 bytes" in str(result.error)


async def test_a_simulated_stream() -> None:
    """A simulated answer comes in pieces over its latency, and is the same without a hearer."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    pieces: list[str] = []
    streamed = await SimulatedClient(latency_ms=103, sleep=sleep).execute("hello", on_text=pieces.append)
    alone = await SimulatedClient(latency_ms=103, sleep=sleep).execute("hello")
    assert (known(alone), alone.response) == (known(streamed), "".join(pieces))
    assert (5, 103, 20) == (len(pieces), round(sum(slept[:-1]) * 1000), streamed.ttft_ms)
    assert (slept[-1], alone.ttft_ms) == (0.103, None)


@pytest.mark.parametrize("error_type", ["connection", "overloaded", "timeout"])
async def test_a_simulated_break(error_type: str) -> None:
    """A script can break a stream off after some text; without a hearer the call fails as ever."""
    script = [{"error_type": error_type, "partial": "Once upon a"}]
    pieces: list[str] = []
    result = await SimulatedClient(script=script, latency_ms=1).execute("hello", on_text=pieces.append)
    check_shape(result)
    assert (error_type, "stream_partial", "Once upon a") == (result.error_type, result.usage_source, "".join(pieces))
    unheard = await SimulatedClient(script=script, latency_ms=1).execute("hello")
    assert (error_type, (), None) == (unheard.error_type, unheard.usage, unheard.ttft_ms)


async def test_the_ledger_keeps_what_a_broken_stream_said_of_itself(
    server: api.Anthropic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry starts the text over and says so; time to first text and the tokens known are in the ledger."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    server.script(
        api.error(529, "overloaded_error", "busy"), broken_at(HEARD), broken_at(HEARD, "ended"), api.answer(TEXT)
    )
    heard: list[str | int] = []
    config = Config.model_validate({"retry": {"backoff_initial_s": 0.001, "retry_count": 3}})
    path = tmp_path / "dispatch.db"
    async with Ledger.open(path) as ledger, Executor(ledger, config) as executor:
        result = await executor.execute("haiku", "Tell", on_text=heard.append, on_restart=heard.append)
    restarts = [piece for piece in heard if isinstance(piece, int)]
    last = "".join(str(piece) for piece in heard[heard.index(4) + 1 :])
    assert (True, TEXT, TEXT, 4) == (result.success, result.response, last, result.attempts)
    assert [3, 4] == restarts
    attempts = rows(path, "SELECT * FROM attempts ORDER BY attempt")
    sources = ["not_billed", "stream_partial", "stream_partial", "provider"]
    assert sources == [row["usage_source"] for row in attempts]
    assert [False, True, True, True] == [row["ttft_ms"] is not None for row in attempts]
    assert [None, 1, 1, result.tokens_output] == [row["tokens_output"] for row in attempts]
    assert [row["response_model"] for row in attempts[1:]] == ["claude-haiku-5-5"] * 3
    assert isinstance(result.usage[0], Usage)
