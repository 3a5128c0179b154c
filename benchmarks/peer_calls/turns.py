"""Makes calls when told: a line on stdin is a turn, the answer its seconds, wall and processor.

Knows nothing but the standard library, since every peer's environment has to run it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version

__all__ = ["KEY", "MODEL", "PROMPT", "take_turns"]

KEY = "not-a-real-key"
MODEL = "claude-haiku-5-5"
PROMPT = "Summarise the following paragraph in one sentence. " * 10


async def take_turns(distribution: str, call: Callable[[], Awaitable[object]], in_flight: int) -> None:
    """Say which version is here, then make as many calls as each line says, so many at once."""
    await call()
    sys.stdout.write(f"{version(distribution)}\n")
    sys.stdout.flush()
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        left = iter(range(int(line)))

        async def caller(calls: Iterator[int] = left) -> None:
            for _ in calls:
                await call()

        begun, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller() for _ in range(in_flight)))
        sys.stdout.write(f"{time.perf_counter() - begun} {time.process_time() - cpu}\n")
        sys.stdout.flush()
