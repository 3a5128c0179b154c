"""Whether one more attempt may be in flight: the rule, for stores to apply inside the transaction that adds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ledger.envelope import Limit
from ledger.store.projection import Changes, Known
from ledger.store.protocol import LimitReached

__all__ = ["Places", "check_limits", "growth", "in_flight"]

Rows = Iterable[Mapping[str, Any]]
"""Rows of ``attempts``."""


def check_limits(
    limits: Iterable[Limit], known: Known, changes: Changes, now_ms: int, others: Callable[[Limit], int]
) -> None:
    """Refuse a stream's changes if an attempt that they start, and leave running, is one too many.

    ``others`` counts what is in flight before the changes; of the changes' own stream only what still is then counts.

    Raises:
        LimitReached: there is no place.
    """
    for limit in limits:
        new = sum(_takes_a_place(limit, changes.attempts[number]) for number in changes.attempts_started)
        if not new:
            continue
        older = [row for number, row in changes.attempts.items() if number in known.attempts]
        if others(limit) + growth(limit, known.attempts.values(), older, now_ms) + new > limit.most:
            raise LimitReached(limit)


class Places:
    """What is in flight within one transaction: counted once for each limit, then kept up with what is added.

    Args:
        written: counts the rows of ``attempts`` that take a place of a limit.
        now_ms: the transaction's instant.
    """

    def __init__(self, written: Callable[[Limit], int], now_ms: int) -> None:
        self._written = written
        self._now_ms = now_ms
        self._taken: dict[Limit, int] = {}
        self._flights: list[tuple[Known, Changes]] = []

    def taken(self, limit: Limit) -> int:
        """Return how many places of a limit are taken."""
        if limit not in self._taken:
            self._taken[limit] = self._written(limit) + sum(self._growth(limit, *flight) for flight in self._flights)
        return self._taken[limit]

    def add(self, known: Known, changes: Changes) -> None:
        """Take a stream's changes as written."""
        if changes.attempts_started or changes.attempts_ended:
            self._flights.append((known, changes))
            for limit in self._taken:
                self._taken[limit] += self._growth(limit, known, changes)

    def _growth(self, limit: Limit, known: Known, changes: Changes) -> int:
        return growth(limit, known.attempts.values(), changes.attempts.values(), self._now_ms)


def growth(limit: Limit, before: Rows, after: Rows, now_ms: int) -> int:
    """Return how many more of a stream's attempts are in flight after its changes."""
    return in_flight(limit, after, now_ms) - in_flight(limit, before, now_ms)


def in_flight(limit: Limit, attempts: Rows, now_ms: int) -> int:
    """Count the attempts that take a place of a limit: running, and not past their deadline and the grace."""
    since_ms = now_ms - limit.grace_ms
    return len([row for row in attempts if _takes_a_place(limit, row) and row["deadline_ms"] > since_ms])


def _takes_a_place(limit: Limit, row: Mapping[str, Any]) -> bool:
    return (
        row["state"] == "running" and row["provider"] == limit.provider and limit.model in (None, row["request_model"])
    )
