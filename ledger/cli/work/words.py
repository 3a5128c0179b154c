"""Instants and durations as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["clock", "instant", "plural"]


def instant(at_ms: int) -> str:
    """Return a UTC instant to the second."""
    return _time(at_ms).strftime("%Y-%m-%d %H:%M:%S")


def clock(at_ms: int) -> str:
    """Return the time of day, UTC, to the millisecond."""
    return _time(at_ms).strftime("%H:%M:%S.") + f"{at_ms % 1000:03d}"


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 1000, UTC)


def plural(count: int, word: str) -> str:
    """Return a count with its word."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
