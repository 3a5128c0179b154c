"""What every client of a model does, whoever the provider is.

A client joins by a ``Stage``, which plays its provider, and a subclass of ``ClientContract`` (or of ``WireContract``,
when the stage can tell what arrived) with a fixture ``stage``; see ``test_clients.py``.
"""

from __future__ import annotations

import asyncio
import time
from typing import Literal, Protocol

import pytest

from clients.base import ErrorType, ExecutionResult, ModelClient, UsageSource
from clients.errors import PromptRefused
from clients.judging import judge_request, read_verdict

__all__ = ["ClientContract", "Play", "Stage", "StreamContract", "StreamStage", "WireContract", "check_shape"]

Play = Literal["rate_limited", "overloaded", "api_error", "connection", "content_refused", "empty", "hang"]
"""What a stage lets happen to one call; "hang" never answers."""

FAILURES: dict[Play, tuple[ErrorType, UsageSource]] = {
    "rate_limited": ("rate_limited", "not_billed"),
    "overloaded": ("overloaded", "not_billed"),
    "api_error": ("api_error", "not_billed"),
    "connection": ("connection", "unknown"),
    "content_refused": ("content_refused", "provider"),
    "empty": ("api_error", "provider"),
}


class Stage(Protocol):
    """A client with a provider that does as it is told; unscripted calls get an answer that repeats the prompt."""

    client: ModelClient
    timeout_s: float
    """What every call is given; none needs it."""
    silence_s: float
    """What a call is given that gets no answer: long enough for this client's start."""

    def play(self, *plays: Play) -> None:
        """Let these happen to the next calls, one each."""

    def calls(self) -> int:
        """Count the requests that the provider received."""

    async def until_called(self) -> None:
        """Wait until the provider has received a request."""


class WireStage(Stage, Protocol):
    """A stage that knows what arrived."""

    def prompts(self) -> list[str]:
        """Give the user's texts as they arrived, with what the client says it put before them taken away."""

    def systems(self) -> list[str | None]:
        """Give the system texts as they arrived."""


class StreamStage(Stage, Protocol):
    """A stage whose client streams."""

    def play_break(self) -> None:
        """Let the next call's stream lose its connection after some text."""


def check_shape(result: ExecutionResult) -> None:
    """Check what holds for every result, success or not."""
    assert result.success == (result.error is None) == (result.error_type is None)
    assert result.success == bool(result.response)
    assert result.latency_ms >= 0
    assert ExecutionResult.model_validate_json(result.model_dump_json()) == result
    counted = result.usage_source in {"provider", "stream_partial"}
    assert counted == bool(result.usage)
    sums = [
        sum(counts)
        for counts in zip(*((row.tokens_input or 0, row.output_tokens or 0) for row in result.usage), strict=True)
    ]
    assert (sums or [None, None]) == [result.tokens_input, result.tokens_output]
    known = (result.task_id, result.tier, result.attempts, result.cost_nano_usd)
    assert known == (None, None, None, None)


class ClientContract:
    """The suite; a subclass gives the fixture ``stage``."""

    async def test_an_answer(self, stage: Stage) -> None:
        """An answer has text, models, tokens that add up, and took one request."""
        result = await stage.client.execute("What is a ledger?", timeout_s=stage.timeout_s)
        check_shape(result)
        assert (
            result.success,
            result.usage_source,
            result.provider_requests,
            stage.calls(),
        ) == (True, "provider", 1, 1)
        assert "What is a ledger?" in result.response
        assert result.model
        assert result.served_model
        assert result.tokens_input
        assert result.tokens_output

    @pytest.mark.parametrize("play", FAILURES)
    async def test_a_failure(self, stage: Stage, play: Play) -> None:
        """A failure is a result with a type, a message for people and no text; nothing was tried again."""
        stage.play(play)
        result = await stage.client.execute("hello", timeout_s=stage.timeout_s)
        check_shape(result)
        assert FAILURES[play] == (result.error_type, result.usage_source)
        assert stage.calls() == 1
        assert 0 < len(str(result.error)) < 1000

    async def test_a_failure_leaves_the_client_fit(self, stage: Stage) -> None:
        """After a failure the next call is answered."""
        stage.play("connection")
        await stage.client.execute("hello", timeout_s=stage.timeout_s)
        assert (await stage.client.execute("hello", timeout_s=stage.timeout_s)).success

    async def test_a_silent_provider(self, stage: Stage) -> None:
        """A provider that never answers costs the timeout and little more; whether it billed is unknown."""
        await stage.client.prepare("hello")
        stage.play("hang")
        started = time.monotonic()
        result = await stage.client.execute("hello", timeout_s=stage.silence_s)
        assert stage.silence_s - 0.1 < time.monotonic() - started < stage.silence_s + 5
        check_shape(result)
        assert (result.error_type, result.usage_source) == ("timeout", "unknown")
        assert stage.calls() <= 1

    async def test_cancelling(self, stage: Stage) -> None:
        """A cancelled call ends at once, as a cancellation."""
        stage.play("hang")
        call = asyncio.create_task(stage.client.execute("hello", timeout_s=60))
        await stage.until_called()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await call

    async def test_calls_at_once_keep_apart(self, stage: Stage) -> None:
        """Calls at the same time each get their own answer."""
        prompts = [f"prompt number {number}" for number in range(4)]
        results = await asyncio.gather(*(stage.client.execute(prompt, timeout_s=60) for prompt in prompts))
        assert [prompt in result.response for prompt, result in zip(prompts, results, strict=True)] == [True] * 4
        assert stage.calls() == 4

    @pytest.mark.parametrize("prompt", ["", "half a pair \ud800"], ids=["empty", "lone surrogate"])
    async def test_prompts_that_cannot_be_sent(self, stage: Stage, prompt: str) -> None:
        """What can never be sent is refused, before any request."""
        with pytest.raises(PromptRefused):
            await stage.client.prepare(prompt)
        with pytest.raises(PromptRefused):
            await stage.client.execute(prompt)
        assert stage.calls() == 0

    async def test_systems_that_cannot_be_sent(self, stage: Stage) -> None:
        """A system text is checked likewise, and named."""
        with pytest.raises(PromptRefused) as caught:
            await stage.client.prepare("hello", system="\udfff")
        assert caught.value.field == "system"

    async def test_preparing_sends_nothing(self, stage: Stage) -> None:
        """Making ready is no call, and can be done again."""
        assert (await stage.client.prepare("hello"), await stage.client.prepare("hello")) == (None, None)
        assert stage.calls() == 0

    async def test_a_verdict(self, stage: Stage) -> None:
        """Asked with the judge's request, a provider's verdict arrives as text that reads as one."""
        request = judge_request("Say hello.", "hello")
        result = await stage.client.execute(
            request.prompt, 1024, system=request.system, schema=request.schema, timeout_s=stage.timeout_s
        )
        assert 0 <= read_verdict(result.response).confidence_thousandths <= 1000

    async def test_text_as_it_comes(self, stage: Stage) -> None:
        """What ``on_text`` gets, if anything, is the whole text in order."""
        pieces: list[str] = []
        result = await stage.client.execute("hello", on_text=pieces.append, timeout_s=stage.timeout_s)
        assert "".join(pieces) in {result.response, ""}

    async def test_closing_twice(self, stage: Stage) -> None:
        """Closing is possible before, after and between calls."""
        await stage.client.aclose()
        assert (await stage.client.execute("hello", timeout_s=stage.timeout_s)).success
        await stage.client.aclose()
        await stage.client.aclose()


class WireContract(ClientContract):
    """The suite of clients whose provider can tell what arrived."""

    @pytest.mark.parametrize(
        "prompt",
        [
            "@/etc/hostname and @README.md",
            "--yolo",
            "-p",
            "/init",
            " /quit",
            "!ls",
            "$HOME `id` $(id) %s {x}",
            "  blanks around \n\n",
            "\r\n\t\ufeff\u2028",
            "NUL \0 and \x1b[31m",
            "grüße 🎈 日本語 e\u0301",
            "long " * 50_000,
        ],
        ids=lambda prompt: repr(prompt[:20]),
    )
    async def test_prompts_arrive_as_they_are(self, wire: WireStage, prompt: str) -> None:
        """A prompt is text and nothing else, whatever it looks like."""
        result = await wire.client.execute(prompt, timeout_s=60)
        assert (True, [prompt]) == (result.success, wire.prompts())

    async def test_the_system_text_arrives(self, wire: WireStage) -> None:
        """The system text arrives apart from the prompt."""
        await wire.client.execute("hello", system="Answer in Latin.", timeout_s=60)
        assert (wire.prompts(), wire.systems()) == (["hello"], ["Answer in Latin."])


class StreamContract:
    """The suite of clients that stream; a subclass gives the fixture ``streaming``."""

    async def test_streamed_text_is_the_answer(self, streaming: StreamStage) -> None:
        """The pieces, none of them empty, make the answer, and the first is timed; without a hearer none is."""
        pieces: list[str] = []
        result = await streaming.client.execute("Tell", on_text=pieces.append, timeout_s=streaming.timeout_s)
        check_shape(result)
        assert (True, result.response, "provider") == (result.success, "".join(pieces), result.usage_source)
        assert "" not in pieces
        assert result.ttft_ms is not None
        assert 0 <= result.ttft_ms <= result.latency_ms
        alone = await streaming.client.execute("Tell", timeout_s=streaming.timeout_s)
        assert (True, None, result.served_model) == (alone.success, alone.ttft_ms, alone.served_model)

    async def test_a_stream_that_breaks(self, streaming: StreamStage) -> None:
        """A stream that breaks is one failed call, with what is known of it; the next call is answered."""
        pieces: list[str] = []
        streaming.play_break()
        result = await streaming.client.execute("Tell", on_text=pieces.append, timeout_s=streaming.timeout_s)
        check_shape(result)
        assert ("connection", "", 1) == (result.error_type, result.response, streaming.calls())
        assert result.usage_source in {"stream_partial", "unknown"}
        assert (len(pieces) > 0, result.ttft_ms is not None) == (True, True)
        again = await streaming.client.execute("Tell", on_text=pieces.append, timeout_s=streaming.timeout_s)
        assert again.success

    async def test_a_hearer_that_raises(self, streaming: StreamStage) -> None:
        """What ``on_text`` raises comes out as it is and ends the call; the next call is answered."""

        def hear(text: str) -> None:
            heard.append(text)
            raise LookupError("mine")

        heard: list[str] = []
        with pytest.raises(LookupError, match="mine"):
            await streaming.client.execute("Tell", on_text=hear, timeout_s=streaming.timeout_s)
        assert len(heard) == 1
        assert (await streaming.client.execute("Tell", timeout_s=streaming.timeout_s)).success

    async def test_streams_at_once_keep_apart(self, streaming: StreamStage) -> None:
        """Streams at the same time are each heard by their own caller only."""
        heard: dict[str, list[str]] = {f"prompt number {number}": [] for number in range(3)}
        results = await asyncio.gather(
            *(streaming.client.execute(prompt, on_text=pieces.append, timeout_s=60) for prompt, pieces in heard.items())
        )
        assert ["".join(pieces) for pieces in heard.values()] == [result.response for result in results]
        assert [prompt in result.response for prompt, result in zip(heard, results, strict=True)] == [True] * 3
