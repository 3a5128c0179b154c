"""What the executor asks of the world: time, sleep, ids, jitter. A simulation can own them all."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import uuid_utils

__all__ = ["Ports"]

SALT_BYTES: Final = 16
SALTS_AT_ONCE: Final = 64


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _uuid7() -> str:
    return str(uuid_utils.uuid7())


def _draw(limit_ppm: int) -> int:
    return random.randint(-limit_ppm, limit_ppm)  # noqa: S311 - jitter, not secrecy; seeded anew in a forked child


class _Salts:
    """Salts from the operating system, many at a time: to ask for one costs more than an event's hash."""

    def __init__(self) -> None:
        self._fresh: Iterator[bytes] = iter(())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)  # or parent and child would use the same ones

    def __call__(self) -> bytes:
        salt = next(self._fresh, None)
        if salt is None:
            many = secrets.token_bytes(SALT_BYTES * SALTS_AT_ONCE)
            salt, *rest = (many[at : at + SALT_BYTES] for at in range(0, len(many), SALT_BYTES))
            self._fresh = iter(rest)
        return salt

    def _forget(self) -> None:
        self._fresh = iter(())


_new_salt: Final = _Salts()


def _nothing(_point: str) -> None:
    """Do nothing."""


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
    new_salt: Callable[[], bytes] = _new_salt
    """Sixteen fresh bytes for one text."""
    passing: Callable[[str], None] = _nothing
    """Told of each point of the protocol as it is passed (``before start`` …): where a test kills, raises or pauses."""
