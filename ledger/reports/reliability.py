"""``report reliability``: how often attempts failed, of what, how often they were repeated, and the time that took."""

from __future__ import annotations

from typing import Any, Final

from ledger.reports.asked import Asked, Column, Report, share
from ledger.reports.grouping import (
    Key,
    Measures,
    Total,
    by_attempt,
    by_row,
    grouped,
    merged,
    of_instant,
    started,
    tasks_among,
)
from ledger.reports.latency import waited
from ledger.reports.reading import Snapshot

__all__ = ["reliability"]

STATES: Final = ("succeeded", "failed", "orphaned", "settled", "running")
REPEATS: Final = (
    "a.attempt > 1 AND EXISTS (SELECT 1 FROM attempts before WHERE before.task_id = a.task_id"
    " AND before.attempt = a.attempt - 1 AND before.step = a.step AND before.purpose = a.purpose)"
)
COUNTS: Final[Measures] = {
    "attempts": "COUNT(*)",
    **{state: f"COUNT(CASE WHEN a.state = '{state}' THEN 1 END)" for state in STATES},
    "retries": f"COUNT(CASE WHEN {REPEATS} THEN 1 END)",
    "provider_requests": Total("a.provider_requests"),
    "hidden_requests": Total("CASE WHEN a.provider_requests > 1 THEN a.provider_requests - 1 END"),
    "requests_unknown_attempts": "COUNT(*) - COUNT(a.provider_requests)",
    "failed_ms": Total("CASE WHEN a.state = 'failed' THEN a.latency_ms END"),
}
COLUMNS: Final = (
    Column("attempts", "count"),
    Column("tasks", "count"),
    *(Column(state, "count") for state in STATES),
    Column("success_rate", "share"),
    Column("failure_rate", "share"),
    Column("orphan_rate", "share"),
    Column("retries", "count"),
    Column("retries_per_task", "ratio"),
    Column("provider_requests", "count"),
    Column("hidden_requests", "count"),
    Column("requests_unknown_attempts", "count"),
    Column("requests_per_task", "ratio"),
    Column("fallbacks", "count"),
    Column("waits", "count"),
    Column("waited_ms", "ms"),
    Column("failed_ms", "ms"),
    Column("errors", "words"),
)


async def reliability(snapshot: Snapshot, asked: Asked) -> Report:
    """Return how attempts ended, by group.

    Raises:
        RequestRefused: there are too many groups.
    """
    grouping = grouped(asked, by_attempt("a"), "a.task_id")
    counts: Measures = {**COUNTS, "tasks": tasks_among(asked)}
    counted = await grouped(asked, by_row(asked), "a.task_id").sums(snapshot, counts, "attempts a", started(asked))
    waits = await waited(snapshot, asked, grouping, started(asked))
    errors = await _errors(snapshot, asked)
    handed_over = await _fallbacks(snapshot, asked)
    rows = []
    for key in merged((*counted, *(handed_over or ())), grouping.names):
        found: dict[str, Any] = {column.name: 0 for column in COLUMNS}
        found |= counted.get(key, {}) | waits.get(key, {})
        found["fallbacks"] = None if handed_over is None else handed_over.get(key, 0)
        found["errors"] = dict(sorted(errors.get(key, {}).items()))
        ended = found["attempts"] - found["running"]
        found["success_rate"] = share(found["succeeded"], ended)
        found["failure_rate"] = share(found["failed"], ended)
        found["orphan_rate"] = share(found["orphaned"], ended)
        found["retries_per_task"] = share(found["retries"], found["tasks"])
        found["requests_per_task"] = share(found["provider_requests"], found["tasks"])
        rows.append(grouping.row(key) | found)
    return Report((*grouping.columns(), *COLUMNS), rows)


async def _errors(snapshot: Snapshot, asked: Asked) -> dict[Key, dict[str, int]]:
    """Return by group how often each kind of error ended an attempt."""
    kinds = grouped(asked, by_row(asked), "a.task_id").and_by("error", "a.error_type")
    found = await kinds.sums(
        snapshot, {"count": "COUNT(*)"}, "attempts a", f"{started(asked)} AND a.error_type IS NOT NULL"
    )
    by_group: dict[Key, dict[str, int]] = {}
    for (*key, error), counted in found.items():
        by_group.setdefault(tuple(key), {})[error] = counted["count"]
    return by_group


async def _fallbacks(snapshot: Snapshot, asked: Asked) -> dict[Key, int] | None:
    """Return by group how often a tier was left for the next step; a model and a purpose are not what is left."""
    if {"model", "purpose"} & set(asked.by):
        return None
    known = {"tier": "d.tier_from", **of_instant("d.recorded_at_ms")}
    within = "d.recorded_at_ms >= :since_ms AND d.recorded_at_ms < :until_ms AND d.decision = 'fallback'"
    found = await grouped(asked, known, "d.task_id").sums(snapshot, {"count": "COUNT(*)"}, "decisions d", within)
    return {key: counted["count"] for key, counted in found.items()}
