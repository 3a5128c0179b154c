"""What the executor asks of the world: time, sleep, ids, jitter. A simulation can own them all."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uuid_utils

__all__ = ["Ports"]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _uuid7() -> str:
    return str(uuid_utils.uuid7())


def _draw(limit_ppm: int) -> int:
    return secrets.randbelow(2 * limit_ppm + 1) - limit_ppm


@dataclass(frozen=True, slots=True)
class Ports:
    """The outside world as functions; the defaults are the real one."""

    now_ms: Callable[[], int] = _now_ms
    """The wall clock, UTC milliseconds."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Wait that many seconds."""
    new_id: Callable[[], str] = _uuid7
    """A new UUIDv7, as text."""
    draw_ppm: Callable[[int], int] = _draw
    """A whole number within plus or minus the limit: the jitter of one decision."""
    new_salt: Callable[[], bytes] = lambda: secrets.token_bytes(16)
    """Sixteen fresh bytes for one text."""
