"""The Gemini client's streams: the real CLI against the emulator, and a fake CLI for what the real one does rarely."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.base import ErrorType, Usage, UsageSource
from clients.gemini import GeminiClient
from tests.contracts.client_contract import check_shape
from tests.emulator import Emulator
from tests.emulator import gemini as api
from tests.emulator.streams import broken, cut_up, slow
from tests.fake_cli import fake_cli

KEY = "key-canary-0123456789"
TEXT = "Grüße 🎈, 日本語 and \x1b[31mred\x1b[0m: the end."

PREAMBLE = """
import json, os, subprocess, sys, time
def say(*events):
    for event in events:
        os.write(1, (json.dumps(event) + "\\n").encode())
def text(content, role="assistant"):
    return {"type": "message", "role": role, "content": content, "delta": True}
def end(status="success", models=None, **more):
    return {"type": "result", "status": status, "stats": {"models": models or {}}, **more}
def note_pids():
    child = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)"])
    with open(NOTES + ".new", "w") as file:
        json.dump([os.getpid(), child.pid], file)
    os.rename(NOTES + ".new", NOTES)
GOOD = {"m": {"total_tokens": 12, "input_tokens": 7, "output_tokens": 3, "cached": 2, "input": 5}}
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the private folders of a test where it can see them."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Where a fake CLI writes down its processes."""
    return tmp_path / "notes.json"


@pytest.fixture
def fake(tmp_path: Path, notes: Path) -> Callable[[str], GeminiClient]:
    """Make a client whose CLI is this Python text."""

    def make(script: str) -> GeminiClient:
        fake_cli(tmp_path, f"NOTES = {str(notes)!r}\n{PREAMBLE}\n{script}\n")
        return GeminiClient(env={"PATH": str(tmp_path), "GEMINI_API_KEY": KEY})

    return make


@pytest.fixture
def server() -> Iterator[api.Google]:
    with Emulator() as emulator:
        yield api.Google(emulator)


def real(server: api.Google) -> GeminiClient:
    env = {"PATH": os.environ["PATH"], "GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url}
    return GeminiClient(env=env)


def noted(notes: Path) -> list[int]:
    pids: list[int] = json.loads(notes.read_text())
    return pids


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def ended(notes: Path) -> bool:
    """Wait until the processes of a fake CLI are dead; a zombie is."""
    pids = noted(notes)
    for _ in range(1000):
        if not any(map(is_alive, pids)):
            return True
        await asyncio.sleep(0.01)
    return False


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.gemini_cli
async def test_text_and_tokens_of_the_real_cli(server: api.Google) -> None:
    """Text comes as it is made, byte for byte; thinking tokens, left out of a stream, are what the total has more."""
    usage = {"promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 5, "thoughtsTokenCount": 9}
    step = api.answer(TEXT, usage=usage, served="gemini-2.5-flash-002", pieces=5)
    server.script(slow(step, 0.15))
    heard: list[tuple[str, asyncio.AbstractEventLoop]] = []
    result = await real(server).execute(
        "hello", 123, on_text=lambda text: heard.append((text, asyncio.get_running_loop()))
    )
    check_shape(result)
    row = Usage(
        model="gemini-2.5-flash-002",
        input_uncached_tokens=60,
        cache_read_tokens=40,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=14,
        reasoning_tokens=9,
    )
    assert ((row,), "provider", 1, 1) == (
        result.usage,
        result.usage_source,
        result.provider_requests,
        len(server.requests),
    )
    assert (TEXT, TEXT, 5) == (result.response, "".join(text for text, _ in heard), len(heard))
    assert {asyncio.get_running_loop()} == {loop for _, loop in heard}
    assert result.ttft_ms is not None
    assert 0 < result.ttft_ms < result.latency_ms - 200
    assert json.loads(result.raw_usage or "")["gemini-2.5-flash-002"]["total_tokens"] == 114
    assert server.requests[0].json()["generationConfig"]["maxOutputTokens"] == 123


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
async def test_borders_of_chunks_mean_nothing_to_the_real_cli(server: api.Google) -> None:
    """A character in two chunks arrives whole."""
    server.script(cut_up(api.answer("🎈日本語", pieces=2), 7))
    pieces: list[str] = []
    result = await real(server).execute("hello", on_text=pieces.append)
    assert (True, "🎈日本語", "🎈日本語") == (result.success, result.response, "".join(pieces))


def in_four(after: int = 2, last: bytes = b"", *, dropped: bool = False) -> api.Step:
    step = api.answer("some text that goes", pieces=4, usage_throughout=True)
    return broken(step, after, "dropped" if dropped else "ended", last=last, delay_s=0.1)


DATA_ERROR = b"data: " + api.stream_error() + b"\r\n\r\n"

FAULTS: dict[str, tuple[api.Step, ErrorType | None, UsageSource, str]] = {
    "429": (api.error(429, "slow down", retry_delay_s=2.5), "rate_limited", "not_billed", ""),
    "404": (api.error(404), "not_found", "not_billed", ""),
    "wrong key": (api.error(400, "API key not valid."), "authentication", "not_billed", ""),
    "key suspended": (api.error(403, f"Consumer 'api_key:{KEY}' has been suspended."), "permission", "not_billed", ""),
    "empty": (api.empty(), "api_error", "provider", ""),
    "refused": (api.refusal(), "content_refused", "provider", ""),
    "recitation": (api.refusal(reason="RECITATION"), "content_refused", "provider", ""),
    "other policy": (api.refusal(reason="OTHER"), "content_refused", "provider", ""),
    "blocked": (api.blocked(), "api_error", "stream_partial", ""),
    "no text at the limit": (api.max_tokens(), "truncated", "provider", ""),
    "limit after text": (api.max_tokens("so far"), None, "provider", "so far"),
    "no usage": (api.answer("x", usage={}), None, "unknown", "x"),
    "early end": (api.early_end(), "api_error", "stream_partial", "Half an"),
    "early end, usage throughout": (in_four(), "api_error", "stream_partial", "some text "),
    "tool call": (api.tool_call(command="ls"), "api_error", "unknown", ""),
    "garbage": (api.garbage(), "api_error", "unknown", ""),
    "garbage in the text": (in_four(last=b"data: {no json\r\n\r\n"), "api_error", "unknown", "some text "),
    "dropped": (api.dropped(), "connection", "unknown", ""),
    "dropped in the text": (in_four(dropped=True), "connection", "unknown", "some text "),
    "error in the text": (in_four(last=api.stream_error()), "overloaded", "unknown", "some text "),
    "error as an event": (in_four(last=DATA_ERROR), "api_error", "stream_partial", "some text "),
}


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
@pytest.mark.parametrize(("step", "error_type", "usage_source", "heard"), FAULTS.values(), ids=FAULTS)
async def test_ends_of_a_stream(
    server: api.Google, step: api.Step, error_type: ErrorType | None, usage_source: UsageSource, heard: str
) -> None:
    """However a stream of the CLI ends, it is one request, and what is known is kept."""
    server.script(step)
    pieces: list[str] = []
    streamed = await real(server).execute("hello", on_text=pieces.append)
    assert (len(server.requests), KEY in streamed.model_dump_json()) == (1, False)
    check_shape(streamed)
    assert (error_type, usage_source, heard) == (streamed.error_type, streamed.usage_source, "".join(pieces))
    assert (streamed.ttft_ms is not None) == bool(heard)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
@pytest.mark.parametrize("name", ["429", "no text at the limit", "blocked", "error in the text"])
async def test_streaming_changes_no_result(server: api.Google, name: str) -> None:
    """A call says the same of its end, streamed or in one piece: status, waits, words, tokens."""
    server.script(*[FAULTS[name][0]] * 2)
    streamed = await real(server).execute("hello", on_text=lambda _: None)
    whole = await real(server).execute("hello")
    left_out = {"latency_ms", "ttft_ms", "raw_usage"}
    assert whole.model_dump(exclude=left_out) == streamed.model_dump(exclude=left_out)


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
@pytest.mark.parametrize("streamed", [True, False])
async def test_long_texts_arrive_whole(server: api.Google, streamed: bool) -> None:  # noqa: FBT001 - two ways of one call
    """A long prompt, which the CLI repeats in a stream, and a long answer are not cut when the CLI exits."""
    answer = "".join(f"line {number}\n" for number in range(30_000))
    server.script(api.answer(answer, pieces=300))

    def hear(text: str) -> None:
        pieces.append(text)
        time.sleep(0.002)  # a hearer that takes its time holds the CLI up in nothing

    pieces: list[str] = []
    prompt = "word " * 60_000
    result = await real(server).execute(prompt, 10**6, on_text=hear if streamed else None)
    assert (None, True, prompt) == (result.error, result.response == answer, api.prompt_of(server.requests[0].json()))
    assert "".join(pieces) == (answer if streamed else "")


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
async def test_a_prompt_beyond_the_context_sends_nothing(server: api.Google) -> None:
    """What the CLI holds too long for the model is told apart in a stream as well."""
    result = await real(server).execute("word " * 1_000_000, timeout_s=60, on_text=lambda _: None)
    assert (result.error_type, result.usage_source, result.provider_requests, server.requests) == (
        "context_window_exceeded",
        "not_billed",
        0,
        [],
    )


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.gemini_cli
async def test_cancelling_the_real_cli_in_mid_stream(server: api.Google, temporary: Path) -> None:
    """A call cancelled in its text ends at once, with its folder."""
    server.script(broken(api.answer("some text that goes", pieces=4), 2, "stalled"))
    begun = asyncio.Event()
    call = asyncio.create_task(real(server).execute("hello", on_text=lambda _: begun.set()))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await call
    assert left_in(temporary) == []


PLAYED: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a whole answer": (
        'say({"type": "init"}, text("the prompt", "user"), text("po"), text("ng"), end(models=GOOD))',
        {"success": True, "tokens_input": 7, "tokens_output": 5, "usage_source": "provider"},
        ["po", "ng"],
    ),
    "noise": (
        """
os.write(1, b"[debug] x\\n\\n[1]\\n{\\n" + b"[" * 9999 + b"\\n")
say({"type": "news"}, text(5), text("a"), end())
""",
        {"success": True, "usage_source": "unknown", "usage": ()},
        ["a"],
    ),
    "a pair in two pieces": (
        'say(text("\\ud83c"), text("\\udf88"), end(models=GOOD))',
        {"success": True, "response": "🎈"},
        ["🎈"],
    ),
    "bytes in drops": (
        """
for byte in (json.dumps(text("日🎈"), ensure_ascii=False) + "\\n").encode():
    os.write(1, bytes([byte]))
    time.sleep(0.001)
say(end(models=GOOD))
""",
        {"success": True, "response": "日🎈"},
        ["日🎈"],
    ),
    "no end": ('say(text("half"))', {"error_type": "api_error", "usage_source": "unknown"}, ["half"]),
    "half an end": (
        'say(text("half")); os.write(1, b\'{"type": "result", "stat\')',
        {"error_type": "api_error", "usage_source": "unknown"},
        ["half"],
    ),
    "an end of another shape": (
        'say(text("half"), {"type": "result"})',
        {"error_type": "api_error", "usage_source": "unknown", "usage": ()},
        ["half"],
    ),
    "totals that cannot be": (
        'say(text("x"), end(models={"m": {**GOOD["m"], "total_tokens": 8}}))',
        {"success": True, "usage_source": "unknown", "tokens_output": None},
        ["x"],
    ),
    "an error status after text": (
        'say(text("x"), end("error", error={"message": "[API Error: busy]"})); sys.exit(247)',
        {"error_type": "overloaded", "usage_source": "unknown", "provider_requests": 1, "status_code": 503},
        ["x"],
    ),
    "an error without a bracket": (
        'say(end("error", error={"message": "[API Error: busy"})); sys.exit(247)',
        {"error": "Gemini answered 503: busy"},
        [],
    ),
    "refused settings": (
        'sys.stderr.write("Invalid configuration in settings.json:\\n"); say(text("x"), end(models=GOOD))',
        {"error_type": "other", "usage_source": "provider", "tokens_input": 7, "response": ""},
        ["x"],
    ),
    "endless": (
        'while True: os.write(1, b"x" * 2**20)',
        {"error_type": "api_error", "usage_source": "unknown"},
        [],
    ),
}


@pytest.mark.parametrize(("script", "wanted", "heard"), PLAYED.values(), ids=PLAYED)
async def test_what_a_cli_may_say(
    fake: Callable[[str], GeminiClient], temporary: Path, script: str, wanted: dict[str, Any], heard: list[str]
) -> None:
    """A stream is read whatever stands in it, and is an answer only with a good end."""
    pieces: list[str] = []
    result = await fake(script).execute("hello", on_text=pieces.append, timeout_s=30)
    assert (wanted, heard) == ({name: getattr(result, name) for name in wanted}, pieces)
    assert result.success == bool(result.response)
    assert left_in(temporary) == []


async def test_how_the_cli_is_asked(fake: Callable[[str], GeminiClient]) -> None:
    """The CLI is asked for a stream, and to leave the text as it is."""
    result = await fake("say(text(json.dumps(sys.argv[1:])), end())").execute("hello", on_text=lambda _: None)
    arguments = ["-m", "gemini-2.5-flash", "-o", "stream-json", "--raw-output", "-e", "none", "--session-id"]
    assert arguments == json.loads(result.response)[:-1]


@pytest.mark.slow
async def test_the_deadline_covers_the_stream(
    fake: Callable[[str], GeminiClient], notes: Path, temporary: Path
) -> None:
    """A CLI that goes on and on is killed at the deadline with its child; nothing is heard after it."""
    pieces: list[str] = []
    client = fake('note_pids()\nwhile True: say(text("x")); time.sleep(0.01)')
    result = await client.execute("hello", on_text=pieces.append, timeout_s=2)
    heard = len(pieces)
    assert (result.error_type, result.usage_source, result.response) == ("timeout", "unknown", "")
    assert result.ttft_ms is not None
    assert result.ttft_ms < 2000 <= result.latency_ms
    assert await ended(notes)
    assert len(pieces) == heard > 0
    assert left_in(temporary) == []


@pytest.mark.parametrize("error", [KeyError("mine"), TimeoutError("mine"), OSError("mine")], ids=repr)
async def test_a_hearer_that_raises(
    fake: Callable[[str], GeminiClient], notes: Path, temporary: Path, error: Exception
) -> None:
    """What ``on_text`` raises is the caller's own, is raised as it is, and leaves neither process nor folder."""

    def hear(text: str) -> None:
        heard.append(text)
        raise error

    heard: list[str] = []
    client = fake('note_pids()\nwhile True: say(text("x")); time.sleep(0.01)')
    started = time.monotonic()
    with pytest.raises(type(error), match="mine"):
        await client.execute("hello", on_text=hear)
    assert time.monotonic() - started < 10
    assert heard == ["x"]
    assert await ended(notes)
    assert left_in(temporary) == []


async def test_a_hearer_that_raises_at_the_end(fake: Callable[[str], GeminiClient]) -> None:
    """Also when the process has ended meanwhile, what ``on_text`` raises comes out."""

    def hear(text: str) -> None:
        raise KeyError(text)

    with pytest.raises(KeyError, match="pong"):
        await fake('say(text("pong"), end(models=GOOD))').execute("hello", on_text=hear)


async def test_cancelling_in_mid_stream(fake: Callable[[str], GeminiClient], notes: Path, temporary: Path) -> None:
    """A call cancelled in its text leaves neither process nor folder, and says nothing more."""
    pieces: list[str] = []
    begun = asyncio.Event()

    def hear(text: str) -> None:
        pieces.append(text)
        begun.set()

    client = fake('note_pids()\nwhile True: say(text("x")); time.sleep(0.01)')
    call = asyncio.create_task(client.execute("hello", on_text=hear))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(10):
            await call
    heard = len(pieces)
    assert await ended(notes)
    assert (len(pieces), left_in(temporary)) == (heard, [])
