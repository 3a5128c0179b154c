"""Who lives and who is about to start what, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ledger.store.protocol import Worker

__all__ = ["CLOCK_SET_BACK_MS", "Roster", "newest_ended", "open_tasks"]

CLOCK_SET_BACK_MS: Final = 60_000
"""What is this much further ahead than it can be was written before a clock was set back."""

Rows = Iterable[Mapping[str, Any]]


def newest_ended(attempts: Rows, provider: str, model: str) -> list[Mapping[str, Any]]:
    """Return what has ended of a provider's model, the last to end first."""
    asked = [row for row in attempts if (row["provider"], row["request_model"]) == (provider, model)]
    ended = [row for row in asked if row["ended_at_ms"] is not None]
    return sorted(ended, key=lambda row: (row["ended_at_ms"], row["task_id"], row["attempt"]), reverse=True)


def open_tasks(tasks: Rows) -> list[Mapping[str, Any]]:
    """Return what a worker may go on with, now or later."""
    return [row for row in tasks if row["ended_at_ms"] is None and row["waiting_for"] != "person"]


class Roster:
    """Workers with their beats, and claims by task."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[int, int]] = {}
        self._claims: dict[str, tuple[str, int]] = {}

    def beat(self, worker: str, now_ms: int) -> None:
        """Note that a worker lives."""
        beats, _ = self._beats.get(worker, (0, 0))
        self._beats[worker] = beats + 1, now_ms

    def leave(self, worker: str) -> None:
        """Forget a worker and its claims."""
        self._beats.pop(worker, None)
        self.unclaim(worker, [task_id for task_id, (owner, _) in self._claims.items() if owner == worker])

    def workers(self, now_ms: int) -> list[Worker]:
        """Return who has beaten and not left."""
        return [Worker(name, beats, now_ms - at_ms) for name, (beats, at_ms) in sorted(self._beats.items())]

    def claim(
        self, worker: str, tasks: Rows, owners: Sequence[str | None], limit: int, until_ms: tuple[int, int]
    ) -> list[str]:
        """Reserve due tasks; ``until_ms`` is now and the instant at which the claim ends."""
        now_ms, end_ms = until_ms
        free = [row for row in open_tasks(tasks) if not self._is_taken(row["task_id"], worker, until_ms)]
        due: list[tuple[int, str]] = []
        for owner in set(owners):
            mine = [row for row in free if row["worker"] == owner]
            ready = [((0, row["task_id"]), row) for row in mine if row["not_before_ms"] is None]
            waits = [row for row in mine if row["not_before_ms"] is not None]
            over = [((row["not_before_ms"], row["task_id"]), row) for row in waits if row["not_before_ms"] <= now_ms]
            set_back = [
                ((row["waiting_since_ms"], row["task_id"]), row)
                for row in waits
                if row["not_before_ms"] > now_ms and row["waiting_since_ms"] > now_ms + CLOCK_SET_BACK_MS
            ]
            for arm in (ready, over, set_back):
                first = sorted(arm, key=lambda keyed: keyed[0])[: max(limit, 0)]
                due += [(_due_ms(row), row["task_id"]) for _, row in first]
        chosen = [task_id for _, task_id in sorted(due)[: max(limit, 0)]]
        self._claims |= dict.fromkeys(chosen, (worker, end_ms))
        return chosen

    def unclaim(self, worker: str, task_ids: Sequence[str]) -> None:
        """Give back what the worker has claimed of these."""
        for task_id in task_ids:
            if self._claims.get(task_id, ("", 0))[0] == worker:
                del self._claims[task_id]

    def _is_taken(self, task_id: str, worker: str, until_ms: tuple[int, int]) -> bool:
        owner, claimed_until_ms = self._claims.get(task_id, (worker, 0))
        now_ms, end_ms = until_ms
        return owner != worker and now_ms < claimed_until_ms <= end_ms + CLOCK_SET_BACK_MS


def _due_ms(row: Mapping[str, Any]) -> int:
    not_before_ms: int | None = row["not_before_ms"]
    created_at_ms: int = row["created_at_ms"]
    return created_at_ms if not_before_ms is None else not_before_ms
