"""What is appended and dispatched: a client that costs nothing, and the appends that real dispatches make."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import uuid_utils

from benchmarks.local_server import ANSWER
from clients.base import ExecutionResult, ModelClient, OnText, Usage
from ledger import Config, Executor, Ledger
from ledger.envelope import Append, NewEvent, Stream
from ledger.handle import Nearby
from ledger.store.memory import MemoryStore
from ledger.store.protocol import Store
from ledger.system_events import BreakerClosed
from ledger.upcasting import decode

__all__ = ["PROMPT", "Nothing", "Opened", "config", "dispatches", "fresh", "now_ms", "small"]

MANY: Final = 1000
"""Calls at once that the captured appends allow: as many as there are appenders, and more."""
PROMPT: Final = "Summarise the following paragraph in one sentence. " * 10
RESULT: Final = ExecutionResult(
    model="claude-haiku-5-5",
    response=ANSWER,
    success=True,
    latency_ms=1,
    tokens_input=120,
    tokens_output=90,
    usage=(
        Usage(
            model="claude-haiku-5-5",
            input_uncached_tokens=120,
            cache_read_tokens=0,
            cache_write_5m_tokens=0,
            cache_write_1h_tokens=0,
            output_tokens=90,
            service_tier="standard",
        ),
    ),
    usage_source="provider",
    served_model="claude-haiku-5-5",
    finish_reason="end_turn",
    request_id="req_01",
    raw_usage='{"input_tokens":120,"output_tokens":90}',
    provider_requests=1,
)


class Nothing(ModelClient):
    """A client in whose place there is nothing: what is left is the ledger."""

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
        """Answer at once."""
        return RESULT


def now_ms() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1_000_000


def config(concurrency: int) -> Config:
    """Let every provider have this many calls at once."""
    many = {"concurrency": concurrency}
    return Config.from_mapping({"providers": {"anthropic": many, "gemini": many, "simulated": many}})


class _Heard(MemoryStore):
    """A store that keeps what it was asked to append."""

    def __init__(self) -> None:
        super().__init__(now_ms=now_ms)
        self.heard: list[Append] = []

    async def append(self, append: Append) -> Stream:
        self.heard.append(append)
        return await super().append(append)


class Opened(Ledger):
    """A ledger whose store is there already."""

    def __init__(self, opened: Store) -> None:
        super().__init__("nowhere")
        self._opened = opened

    async def store(self) -> Store:
        """Return it."""
        return self._opened

    async def nearby(self) -> Nearby:
        """Return no folders."""
        return Nearby(None, None)


async def dispatches(count: int) -> list[Sequence[Append]]:
    """Return the appends of real dispatches: two each, of two events and a payload."""
    heard: list[Sequence[Append]] = []
    for _ in range(count):
        store = _Heard()
        executor = Executor(Opened(store), config(MANY), build=lambda *_: Nothing())
        await executor.execute("haiku", PROMPT, labels={"job": "bench"})
        await executor.aclose()
        heard.append([append for append in store.heard if not append.task_id.startswith("ledger:")])
    return heard


def small(streams: int) -> list[Sequence[Append]]:
    """Return appends of one small event each, four to a stream, without payload or projection."""
    event = BreakerClosed(provider="anthropic", model="claude-haiku-5-5", trial_event_id="none")
    return [[Append("", version, (NewEvent("", event, "system"),)) for version in range(4)] for _ in range(streams)]


def fresh(appends: Sequence[Append]) -> list[Append]:
    """Return appends as if made anew: another task, other ids, and events that nobody has encoded yet."""
    task_id = str(uuid_utils.uuid7())
    return [
        replace(
            append,
            task_id=task_id,
            events=tuple(
                replace(
                    new,
                    event_id=str(uuid_utils.uuid7()),
                    event=decode(new.event.TYPE, new.event.SCHEMA_VERSION, new.event.data()),
                )
                for new in append.events
            ),
        )
        for append in appends
    ]
