"""What can happen to a stream on its way, whoever sends it: slow, cut up, or broken at a given point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from tests.emulator.server import Reply, Request

__all__ = ["How", "broken", "cut_up", "slow"]

Step = Callable[[Request], Reply]

How = Literal["dropped", "ended", "stalled"]
"""The connection closes; the body ends as if it were whole; nothing more comes, and the connection stays."""


def broken(step: Step, after: int, how: How = "dropped", *, last: bytes = b"", delay_s: float = 0.0) -> Step:
    """Break a stream after so many of its events, with ``last`` as its last words."""

    def break_off(request: Request) -> Reply:
        whole = step(request)
        chunks = (*whole.chunks[:after], *((last,) if last else ()))
        size = sum(map(len, chunks)) if how == "dropped" else None
        return replace(whole, chunks=chunks, drop_after=size, stall=how == "stalled", chunk_delay_s=delay_s)

    return break_off


def slow(step: Step, delay_s: float) -> Step:
    """Wait between two events of a stream."""
    return lambda request: replace(step(request), chunk_delay_s=delay_s)


def cut_up(step: Step, size: int) -> Step:
    """Send a stream in chunks of so many bytes, which end where they will."""

    def cut(request: Request) -> Reply:
        whole = step(request)
        body = b"".join(whole.chunks)
        return replace(whole, chunks=tuple(body[at : at + size] for at in range(0, len(body), size)))

    return cut
