"""Several pairs of hands at one work, and what becomes of the others when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

__all__ = ["side_by_side"]

DRAIN_S: Final = 30.0
"""How long, after the ledger failed one task, the others may still bring in answers that are paid for."""
CLEAN_UP_S: Final = 15.0


async def side_by_side(work: Callable[[], Awaitable[bool]], hands: int) -> None:
    """Call ``work`` with so many hands until it says that nothing is left; raise what stopped one of them.

    After a failure nothing new is begun, and what is in flight may end within a bound.
    """
    stopped = False

    async def go_on() -> None:
        while not stopped and await work():
            pass

    working = [asyncio.create_task(go_on()) for _ in range(hands)]
    try:
        _, running = await asyncio.wait(working, return_when=asyncio.FIRST_EXCEPTION)
        if running:
            stopped = True
            await asyncio.wait(running, timeout=DRAIN_S)
    finally:
        for task in working:
            task.cancel()
        await asyncio.wait(working, timeout=CLEAN_UP_S)
    failures = [error for task in working if task.done() and not task.cancelled() and (error := task.exception())]
    if failures:
        raise failures[0]
