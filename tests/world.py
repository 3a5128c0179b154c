"""A world of one's own for executor tests: a clock that only moves by sleeping, ids in order, clients on a script."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.base import ErrorType, ExecutionResult, ModelClient, OnText, PromptPrefix, Usage
from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.ports import Ports
from ledger.telemetry import Telemetry

__all__ = ["Play", "World", "answer", "fail", "rows"]

START_MS = 1_790_000_000_000

Play = ExecutionResult | BaseException | Callable[[], Awaitable[ExecutionResult]]


def answer(text: str = "done", *, finish_reason: str = "end_turn") -> ExecutionResult:
    """Make a provider's answer."""
    usage = Usage(
        model="served-model",
        input_uncached_tokens=10,
        cache_read_tokens=0,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=5,
    )
    return ExecutionResult(
        model="asked-model",
        response=text,
        success=True,
        latency_ms=7,
        tokens_input=10,
        tokens_output=5,
        usage=(usage,),
        usage_source="provider",
        served_model="served-model",
        finish_reason=finish_reason,
        request_id="req_1",
        provider_requests=1,
    )


def fail(error_type: ErrorType, **known: Any) -> ExecutionResult:
    """Make a provider's failure; billed an unknown amount only where that can be."""
    billed = error_type in {"timeout", "connection"}
    fields = {"usage_source": "unknown" if billed else "not_billed", "error": f"the provider said {error_type}"}
    return ExecutionResult(model="asked-model", success=False, error_type=error_type, **{**fields, **known})


@dataclass
class Scripted(ModelClient):
    """Plays a script, one entry a call; the last entry repeats."""

    world: World
    provider: str
    model: str

    async def aclose(self) -> None:
        """Hold nothing."""

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        unready = self.world.unready.get(self.provider)
        if unready is not None:
            raise unready
        return None

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        world = self.world
        world.calls.append((self.model, prompt))
        world.flying += 1
        world.most_flying = max(world.most_flying, world.flying)
        try:
            if world.watch is not None:
                world.watch(prompt)
            script = world.scripts.get(self.model) or world.script
            play = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(play, BaseException):
                raise play
            result = play if isinstance(play, ExecutionResult) else await play()
            if on_text is not None and result.success:
                on_text(result.response)
            return result.model_copy(update={"model": self.model})
        finally:
            world.flying -= 1


@dataclass
class World:
    """Everything around an executor."""

    folder: Path
    script: list[Play] = field(default_factory=lambda: [answer()])
    """For every model without a script of its own."""
    scripts: dict[str, list[Play]] = field(default_factory=dict)
    unready: dict[str, Exception] = field(default_factory=dict)
    """What ``prepare`` raises, by provider."""
    watch: Callable[[str], object] | None = None
    """Called at the moment of each call, with the prompt."""
    config: Config = field(default_factory=Config)
    now_ms: int = START_MS
    calls: list[tuple[str, str]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    flying: int = 0
    most_flying: int = 0
    ids: int = 0

    @property
    def path(self) -> Path:
        """Where the ledger is."""
        return self.folder / "dispatch.db"

    def ports(self) -> Ports:
        """Make ports that this world owns."""
        return Ports(now_ms=lambda: self.now_ms, sleep=self.sleep, new_id=self.new_id, draw_ppm=lambda _: 0)

    async def sleep(self, seconds: float) -> None:
        """Move the clock instead of waiting."""
        self.slept.append(seconds)
        self.now_ms += max(1, round(seconds * 1000))
        await asyncio.sleep(0)

    def new_id(self) -> str:
        """Count, in the form of a UUIDv7."""
        self.ids += 1
        return f"01890000-0000-7000-8000-{self.ids:012x}"

    @asynccontextmanager
    async def executor(self, *, checked: bool = True, telemetry: Telemetry | None = None) -> AsyncIterator[Executor]:
        """Open the ledger with an executor of its own; at the end the ledger must verify."""
        async with Ledger.open(self.path, ports=self.ports()) as ledger:
            executor = Executor(
                ledger,
                self.config,
                ports=self.ports(),
                build=lambda provider, model, _: Scripted(self, provider, model),
                telemetry=telemetry,
            )
            async with executor:
                yield executor
            if checked:
                report = await verify(await ledger.store())
                assert report.problems == ()

    def types(self, task_id: str | None = None) -> list[str]:
        """Return the types of tasks' and breakers' events in the ledger, as another program sees them."""
        where = " WHERE task_id NOT LIKE 'ledger:%'" if task_id is None else f" WHERE task_id = '{task_id}'"
        return [row["type"] for row in rows(self.path, f"SELECT type FROM events{where} ORDER BY position")]


def rows(path: Path, sql: str) -> list[dict[str, Any]]:
    """Ask the ledger with plain SQL, from outside."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(sql)]
    finally:
        connection.close()
