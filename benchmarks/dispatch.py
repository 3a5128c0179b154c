"""Dispatches through the Anthropic SDK against a fast server on loopback, beside the SDK without a ledger."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from benchmarks import calls
from benchmarks.local_server import running
from benchmarks.measuring import Plan, Stopwatch, Table, figure, folder_in, median

__all__ = ["measure"]

ROUNDS: Final = 9
CALLS: Final = {1: 60, 32: 300, 128: 400}
"""Calls in a round, by how many are in flight."""
COLUMNS: Final = ("in flight", "of", "calls/s", "x bare SDK", "us CPU/call")
BARE: Final = "bare SDK, httpx"
BARE_AIOHTTP: Final = "bare SDK, aiohttp"
LEDGER: Final = "ledger, httpx"
LEDGER_AIOHTTP: Final = "ledger, aiohttp"
ALONE: Final = "ledger, no client"


def measure(plan: Plan) -> str:
    """Return the table."""
    return str(asyncio.run(_table(plan)))


async def _table(plan: Plan) -> Table:
    table = Table("dispatch, against a local server that answers at once; x is to the bare SDK on httpx", COLUMNS)
    with running() as url, folder_in(plan.folder) as folder:
        for in_flight, count in CALLS.items():
            runs = await _runs(url, folder / str(in_flight), in_flight, plan.times(count), plan)
            for of, figures in runs.items():
                speed, ratio, cpu_us = map(median, zip(*figures, strict=True))
                table.rows.append((str(in_flight), of, figure(speed), figure(ratio), figure(cpu_us)))
            if LEDGER_AIOHTTP in runs:
                pairs = zip(runs[LEDGER_AIOHTTP], runs[BARE_AIOHTTP], strict=True)
                ratio = median([ledger[0] / bare[0] for ledger, bare in pairs])
                table.notes.append(f"{in_flight} in flight on aiohttp: the ledger makes {ratio:.2f} of the bare SDK's")
    if not calls.has_aiohttp():
        table.notes.append("aiohttp: skipped, it is not installed (pip install aiohttp)")
    table.notes.append(
        f"the processor's time is the caller's process, the server has its own; {plan.times(ROUNDS)} rounds"
    )
    return table


async def _runs(
    url: str, folder: Path, in_flight: int, count: int, plan: Plan
) -> dict[str, list[tuple[float, float, float]]]:
    """Take turns, so that whatever else the machine does falls on all alike; calls a second, ratio, CPU a call."""
    async with AsyncExitStack() as stack:
        opened = {BARE: await stack.enter_async_context(calls.bare(url, aiohttp=False))}
        for name, aiohttp in ((LEDGER, False), (LEDGER_AIOHTTP, True)):
            if aiohttp and not calls.has_aiohttp():
                continue
            if aiohttp:
                opened[BARE_AIOHTTP] = await stack.enter_async_context(calls.bare(url, aiohttp=True))
            place = folder / name.replace(", ", "-")
            place.mkdir(parents=True)
            opened[name] = await stack.enter_async_context(calls.ledger(url, place, in_flight, aiohttp=aiohttp))
        (folder / "alone").mkdir()
        opened[ALONE] = await stack.enter_async_context(calls.ledger_alone(folder / "alone", in_flight))
        runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in opened}
        for call in opened.values():
            await calls.many(call, min(count, in_flight), in_flight)
        for _ in range(plan.times(ROUNDS)):
            for name, call in opened.items():
                with Stopwatch() as watch:
                    await calls.many(call, count, in_flight)
                speed = count / watch.wall_s
                ratio = speed / runs[BARE][-1][0] if name != BARE else 1.0
                runs[name].append((speed, ratio, watch.cpu_s / count * 1e6))
    return runs
