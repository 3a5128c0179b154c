"""What a call through the real Gemini CLI costs beyond the model's own time: the server answers at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from benchmarks.local_server import running
from benchmarks.measuring import Plan, Table, figure, folder_in, median
from benchmarks.workload import PROMPT, config
from clients.base import ExecutionResult, ModelClient
from clients.gemini import GeminiClient
from clients.gemini_warm import WarmGeminiClient
from ledger import Executor, Ledger

__all__ = ["measure"]

CALLS: Final = 5
CALLS_WARM: Final = 60
AT_ONCE: Final = 20
COLUMNS: Final = ("of", "at once", "p50 ms", "calls/s")

Call = Callable[[], Awaitable[ExecutionResult]]


def measure(plan: Plan) -> str:
    """Return the table, or why there is none."""
    program = shutil.which("gemini")
    if program is None:
        return "gemini: skipped, the Gemini CLI is not on PATH\n"
    with running() as url, folder_in(plan.folder) as folder:
        env = {"PATH": os.environ["PATH"], "GEMINI_API_KEY": "not-a-real-key", "GOOGLE_GEMINI_BASE_URL": url}
        table = Table("gemini, the CLI against a local server that answers at once", COLUMNS)
        table.rows.append(_version(program, plan.times(CALLS)))
        asyncio.run(_measured(table, env, folder, plan))
    return str(table)


def _version(program: str, times: int) -> tuple[str, str, str, str]:
    """Start the CLI without a call: what no caller can avoid who starts it anew."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - found on PATH
        took.append(time.perf_counter() - begun)
    return "gemini --version", "1", figure(median(took) * 1000), figure(1 / median(took))


async def _measured(table: Table, env: dict[str, str], folder: Path, plan: Plan) -> None:
    cold = GeminiClient("gemini-flash", env=env)
    await _rows(table, "a process a call", cold, folder / "cold.db", plan.times(CALLS), ())
    warm = WarmGeminiClient("gemini-flash", env=env)
    try:
        await warm.execute(PROMPT)
        await _rows(table, "kept warm", warm, folder / "warm.db", plan.times(CALLS_WARM), (AT_ONCE,))
    finally:
        await warm.aclose()


async def _rows(
    table: Table, name: str, client: ModelClient, ledger: Path, calls: int, at_once: tuple[int, ...]
) -> None:
    """Call the client by itself and through the ledger, one by one, then so many at once."""
    async with Ledger.open(ledger) as opened, Executor(opened, config(AT_ONCE), build=lambda *_: client) as executor:
        ways: dict[str, Call] = {
            name: lambda: client.execute(PROMPT),
            f"{name}, through the ledger": lambda: executor.execute("flash", PROMPT),
        }
        for way, call in ways.items():
            for many in (1, *at_once):
                took, whole_s = await _timed(call, calls, many)
                speed = figure(len(took) / whole_s)
                table.rows.append((way, str(many), figure(median(took) * 1000), speed))


async def _timed(call: Call, calls: int, at_once: int) -> tuple[list[float], float]:
    took: list[float] = []
    left = iter(range(calls))

    async def caller() -> None:
        for _ in left:
            begun = time.perf_counter()
            result = await call()
            if not result.success:
                raise RuntimeError(f"a call failed: {result.error}")
            took.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return took, time.perf_counter() - begun
