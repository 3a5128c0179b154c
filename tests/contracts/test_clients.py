"""The clients' contract, on every client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, get_args

import pytest
import pytest_asyncio

from clients.anthropic import AnthropicClient
from clients.anthropic_sdk import Transport
from clients.base import ExecutionResult, ModelClient
from clients.gemini import GeminiClient
from clients.gemini_warm import WarmGeminiClient
from clients.simulated import SimulatedClient
from tests.contracts.client_contract import (
    ClientContract,
    Play,
    Stage,
    StreamContract,
    StreamStage,
    WireContract,
    WireStage,
)
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.emulator import gemini as google
from tests.emulator.streams import broken


class Counted(SimulatedClient):
    """A simulated client that counts its calls."""

    def __init__(self, script: Sequence[dict[str, Any]]) -> None:
        super().__init__(script=script, latency_ms=1)
        self.called = asyncio.Event()
        self.calls = 0

    async def execute(self, prompt: str, max_tokens: int = 4096, **options: Any) -> ExecutionResult:
        await self.prepare(prompt)
        self.calls += 1
        self.called.set()
        return await super().execute(prompt, max_tokens, **options)


class SimulatedStage:
    """The simulated client is its own provider."""

    timeout_s = 10.0
    silence_s = 0.3
    outcomes: dict[Play, dict[str, Any]] = {  # noqa: RUF012 - a table, never changed
        "rate_limited": {"error_type": "rate_limited"},
        "overloaded": {"error_type": "overloaded"},
        "api_error": {"error_type": "api_error"},
        "connection": {"error_type": "connection"},
        "content_refused": {"error_type": "content_refused"},
        "empty": {"text": ""},
        "hang": {"latency_ms": 3_600_000},
    }

    def __init__(self) -> None:
        self._use({})

    def play(self, *plays: Play) -> None:
        self._use(*(self.outcomes[play] for play in plays))

    def play_break(self) -> None:
        self._use({"error_type": "connection", "partial": "Once upon"})

    def calls(self) -> int:
        return self._counted.calls

    async def until_called(self) -> None:
        await self._counted.called.wait()

    def _use(self, *script: dict[str, Any]) -> None:
        self._counted = Counted(script)
        self.client: ModelClient = self._counted


class AnthropicStage:
    """The real SDK against the emulator."""

    timeout_s = 10.0
    silence_s = 0.3
    steps: dict[Play, api.Step] = {  # noqa: RUF012 - a table, never changed
        "rate_limited": api.error(429, "rate_limit_error", "slow down"),
        "overloaded": api.error(529, "overloaded_error", "busy"),
        "api_error": api.error(500, "api_error", "oh"),
        "connection": api.dropped(),
        "content_refused": api.refusal(),
        "empty": api.empty(),
        "hang": api.hang(),
    }

    def __init__(self, emulator: Emulator, transport: Transport) -> None:
        self._emulator = emulator
        self._server = api.Anthropic(emulator)
        self.client: ModelClient = AnthropicClient(api_key="sk-contract", base_url=emulator.url, transport=transport)

    def play(self, *plays: Play) -> None:
        self._server.script(*(self.steps[play] for play in plays))

    def play_break(self) -> None:
        self._server.script(broken(api.answer("some text that goes on"), 4))

    def calls(self) -> int:
        return len(self._emulator.log)

    async def until_called(self) -> None:
        assert await asyncio.to_thread(self._emulator.wait_for, 1)

    def prompts(self) -> list[str]:
        return [api.prompt_of(request.json()) for request in self._server.requests]

    def systems(self) -> list[str | None]:
        return [api.system_of(request.json()) for request in self._server.requests]


class GeminiStage:
    """The real Gemini CLI against the emulator, a process a call."""

    make: Callable[..., ModelClient] = GeminiClient
    timeout_s = 60.0
    silence_s = 8.0
    steps: dict[Play, google.Step] = {  # noqa: RUF012 - a table, never changed
        "rate_limited": google.error(429, "slow down", reason="RESOURCE_EXHAUSTED"),
        "overloaded": google.error(503, "busy", reason="UNAVAILABLE"),
        "api_error": google.error(500, "oh", reason="INTERNAL"),
        "connection": google.dropped(),
        "content_refused": google.refusal(),
        "empty": google.empty(),
        "hang": google.hang(),
    }

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._server = google.Google(emulator)
        env = {
            "PATH": os.environ["PATH"],
            "GEMINI_API_KEY": "contract-key",
            "GOOGLE_GEMINI_BASE_URL": emulator.url,
        }
        self.client: ModelClient = self.make(env=env)

    def play(self, *plays: Play) -> None:
        self._server.script(*(self.steps[play] for play in plays))

    def play_break(self) -> None:
        self._server.script(broken(google.answer("some text that goes on", pieces=4), 2, delay_s=0.1))

    def calls(self) -> int:
        return len(self._emulator.log)

    async def until_called(self) -> None:
        assert await asyncio.to_thread(self._emulator.wait_for, 1, 60)


class WarmGeminiStage(GeminiStage):
    """The real Gemini CLI, kept for all the tests."""

    make = WarmGeminiClient
    silence_s = 1.0  # the contract makes it ready before

    def forget(self) -> None:
        """Begin anew, with the same client."""
        self._server = google.Google(self._emulator)
        self._emulator.log.clear()

    def prompts(self) -> list[str]:
        return [google.prompt_of(request.json()) for request in self._server.requests]

    def systems(self) -> list[str | None]:
        return [google.system_of(request.json()) for request in self._server.requests]


class TestSimulatedClient(ClientContract, StreamContract):
    @pytest.fixture
    async def streaming(self) -> AsyncIterator[StreamStage]:
        played = SimulatedStage()
        yield played
        await played.client.aclose()

    @pytest.fixture
    def stage(self, streaming: StreamStage) -> Stage:
        return streaming


class TestAnthropicClient(WireContract, StreamContract):
    @pytest.fixture(params=get_args(Transport))
    async def wire(self, request: pytest.FixtureRequest) -> AsyncIterator[AnthropicStage]:
        with Emulator() as emulator:
            played = AnthropicStage(emulator, request.param)
            await played.client.prepare("imports the SDK")
            yield played
            await played.client.aclose()

    @pytest.fixture
    def stage(self, wire: WireStage) -> Stage:
        return wire

    @pytest.fixture
    def streaming(self, wire: AnthropicStage) -> StreamStage:
        return wire


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def kept() -> AsyncIterator[WarmGeminiStage]:
    """Play all of a class's tests with one process."""
    with Emulator() as emulator:
        played = WarmGeminiStage(emulator)
        yield played
        await played.client.aclose()


@pytest.mark.gemini_cli
@pytest.mark.asyncio(loop_scope="class")
class TestWarmGeminiClient(WireContract, StreamContract):
    @pytest.fixture
    def wire(self, kept: WarmGeminiStage) -> WarmGeminiStage:
        kept.forget()
        return kept

    @pytest.fixture
    def stage(self, wire: WireStage) -> Stage:
        return wire

    @pytest.fixture
    def streaming(self, wire: WarmGeminiStage) -> StreamStage:
        return wire


@pytest.mark.slow
@pytest.mark.gemini_cli
class TestGeminiClient(ClientContract, StreamContract):
    @pytest.fixture
    def streaming(self) -> Iterator[StreamStage]:
        with Emulator() as emulator:
            yield GeminiStage(emulator)

    @pytest.fixture
    def stage(self, streaming: StreamStage) -> Stage:
        return streaming
