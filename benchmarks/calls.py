"""Calls at a number in flight: bare SDK or through the ledger, on either transport of the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anthropic

from benchmarks.workload import PROMPT, Nothing, Opened, config
from clients.anthropic import AnthropicClient
from clients.base import ModelClient
from ledger import Executor, Ledger
from ledger.store.protocol import Store

__all__ = ["KEY", "Call", "bare", "has_aiohttp", "ledger", "ledger_alone", "many", "over"]

Call = Callable[[], Awaitable[object]]

KEY: Final = "not-a-real-key"


def has_aiohttp() -> bool:
    """Say whether the SDK's other transport is installed."""
    try:
        anthropic.DefaultAioHttpClient()
    except RuntimeError:
        return False
    return True


@asynccontextmanager
async def bare(url: str, *, aiohttp: bool) -> AsyncIterator[Call]:
    """Give the SDK alone, as its own documentation uses it."""
    http = anthropic.DefaultAioHttpClient() if aiohttp else anthropic.DefaultAsyncHttpxClient()
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0, http_client=http) as sdk:
        yield lambda: sdk.messages.create(
            model="claude-haiku-5-5", max_tokens=4096, messages=[{"role": "user", "content": PROMPT}]
        )


@asynccontextmanager
async def ledger(url: str, folder: Path, in_flight: int, *, aiohttp: bool) -> AsyncIterator[Call]:
    """Give a dispatch through the ledger and the SDK."""
    client = AnthropicClient("haiku", api_key=KEY, base_url=url, transport="aiohttp" if aiohttp else "httpx")
    await client.prepare(PROMPT)
    async with _dispatching(client, folder, in_flight) as call:
        yield call


@asynccontextmanager
async def ledger_alone(folder: Path, in_flight: int) -> AsyncIterator[Call]:
    """Give a dispatch whose client is replaced by nothing."""
    async with _dispatching(Nothing(), folder, in_flight) as call:
        yield call


@asynccontextmanager
async def _dispatching(client: ModelClient, folder: Path, in_flight: int) -> AsyncIterator[Call]:
    async with (
        Ledger.open(folder / "bench.db") as opened,
        Executor(opened, config(max(in_flight, 1)), build=lambda *_: client) as executor,
    ):
        yield lambda: _succeeded(executor)


@asynccontextmanager
async def over(store: Store) -> AsyncIterator[Call]:
    """Give a dispatch over a store that is open already, its client replaced by nothing."""
    async with Executor(Opened(store), config(1), build=lambda *_: Nothing()) as executor:
        yield lambda: _succeeded(executor)


async def _succeeded(executor: Executor) -> None:
    result = await executor.execute("haiku", PROMPT)
    if not result.success:
        raise RuntimeError(f"a dispatch failed: {result.error}")


async def many(call: Call, count: int, in_flight: int) -> None:
    """Call so often, with so many at once."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(caller() for _ in range(in_flight)))
