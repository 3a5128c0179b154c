"""The clients' contract, on every client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from clients.anthropic import AnthropicClient
from clients.base import ModelClient
from clients.gemini import GeminiClient
from clients.simulated import SimulatedClient
from tests.contracts.client_contract import ClientContract, Play, Stage, WireContract, WireStage
from tests.emulator import Emulator
from tests.emulator import anthropic as api
from tests.emulator import gemini as google


class SimulatedStage:
    """The simulated client is its own provider; a call is counted when its latency begins."""

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
        self._called = asyncio.Event()
        self._calls = 0
        self.play()

    def play(self, *plays: Play) -> None:
        script = [self.outcomes[play] for play in plays]
        self.client: ModelClient = SimulatedClient(script=script, latency_ms=1, sleep=self._sleep)

    def calls(self) -> int:
        return self._calls

    async def until_called(self) -> None:
        await self._called.wait()

    async def _sleep(self, seconds: float) -> None:
        self._calls += 1
        self._called.set()
        await asyncio.sleep(seconds)


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

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self._server = api.Anthropic(emulator)
        self.client: ModelClient = AnthropicClient(api_key="sk-contract", base_url=emulator.url)

    def play(self, *plays: Play) -> None:
        self._server.script(*(self.steps[play] for play in plays))

    def calls(self) -> int:
        return len(self._emulator.log)

    async def until_called(self) -> None:
        assert await asyncio.to_thread(self._emulator.wait_for, 1)

    def prompts(self) -> list[str]:
        return [api.prompt_of(request.json()) for request in self._server.requests]

    def systems(self) -> list[str | None]:
        return [api.system_of(request.json()) for request in self._server.requests]


class GeminiStage:
    """The real Gemini CLI against the emulator."""

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
        self.client: ModelClient = GeminiClient(env=env)

    def play(self, *plays: Play) -> None:
        self._server.script(*(self.steps[play] for play in plays))

    def calls(self) -> int:
        return len(self._emulator.log)

    async def until_called(self) -> None:
        assert await asyncio.to_thread(self._emulator.wait_for, 1, 60)


class TestSimulatedClient(ClientContract):
    @pytest.fixture
    async def stage(self) -> AsyncIterator[Stage]:
        played = SimulatedStage()
        yield played
        await played.client.aclose()


class TestAnthropicClient(WireContract):
    @pytest.fixture
    async def wire(self) -> AsyncIterator[WireStage]:
        with Emulator() as emulator:
            played = AnthropicStage(emulator)
            await played.client.prepare("imports the SDK")
            yield played
            await played.client.aclose()

    @pytest.fixture
    def stage(self, wire: WireStage) -> Stage:
        return wire


@pytest.mark.gemini_cli
class TestGeminiClient(ClientContract):
    @pytest.fixture
    def stage(self) -> Iterator[Stage]:
        with Emulator() as emulator:
            yield GeminiStage(emulator)
