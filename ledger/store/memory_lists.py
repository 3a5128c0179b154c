"""Which tasks and attempts are asked for, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.envelope import Payload
from ledger.store.caps import Scope, scoped, spent_of
from ledger.store.projection import Changes
from ledger.store.protocol import Spent, TaskQuery

__all__ = ["matching", "spent_in"]

Projections = Mapping[str, Changes]
"""By task."""


def matching(
    projected: Projections, payloads: Mapping[tuple[str, str], Payload], query: TaskQuery
) -> list[Mapping[str, Any]]:
    """Return the rows of ``tasks`` that a query asks for, newest first."""
    rows = [changes.task for changes in projected.values() if changes.task is not None]
    found = [
        row
        for row in rows
        if query.state in (None, row["state"])
        and query.tier in (None, row["tier_requested"])
        and (query.since_ms is None or row["created_at_ms"] >= query.since_ms)
        and (query.after is None or (row["created_at_ms"], row["task_id"]) < query.after)
        and all(_has_label(projected, payloads, row["task_id"], label) for label in query.labels.items())
    ]
    return sorted(found, key=lambda row: (row["created_at_ms"], row["task_id"]), reverse=True)


def _has_label(
    projected: Projections, payloads: Mapping[tuple[str, str], Payload], task_id: str, label: tuple[str, str]
) -> bool:
    """Look a label up; the one that can be erased is a payload."""
    if label[0] == "subject":
        payload = payloads.get((task_id, "subject"))
        return payload is not None and payload.content == label[1].encode("utf-8", "surrogatepass")
    return any((row["key"], row["value"]) == label for row in projected[task_id].task_labels)


def spent_in(projected: Projections, scope: Scope) -> Spent:
    """Sum the attempts that a scope counts."""
    of_label = [
        changes
        for changes in projected.values()
        if scope.label is None or any((row["key"], row["value"]) == scope.label for row in changes.task_labels)
    ]
    return spent_of(row for changes in of_label for row in scoped(scope, changes.attempts.values()))
