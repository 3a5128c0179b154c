"""``report routing``: what was decided, why, from where to where, and what stood in the way."""

from __future__ import annotations

from typing import Any, Final

from ledger.events import BudgetRefused, Event
from ledger.parts import Decision
from ledger.reports.asked import Asked, Column, Report
from ledger.reports.grouping import Grouping, Key, Measures, Total, grouped, merged, of_instant
from ledger.reports.reading import Snapshot
from ledger.upcasting import decode

__all__ = ["routing"]

PAGE: Final = 500
WITHIN: Final = "d.recorded_at_ms >= :since_ms AND d.recorded_at_ms < :until_ms"
OBSTRUCTED: Final = "(d.decision = 'refused' OR d.reason IN ('breaker_open', 'budget'))"
"""Decisions that something outside the task led to; their events say what."""
DECISION: Final = {
    "decision": "d.decision",
    "reason": "d.reason",
    "tier_from": "d.tier_from",
    "tier_to": "d.tier_to",
}
WAIT: Final = "CASE WHEN d.not_before_ms > d.recorded_at_ms THEN d.not_before_ms - d.recorded_at_ms ELSE 0 END"
OF_TASK: Final = {
    "tier": "t.tier_requested",
    "model": "t.model_final",
    "purpose": "CASE t.kind WHEN 'validation' THEN 'validate' ELSE 'generate' END",
}
COUNTS: Final[Measures] = {"decisions": "COUNT(*)", "wait_ms": Total(WAIT)}
COLUMNS: Final = (
    *(Column(name, "key") for name in DECISION),
    Column("obstacle", "key"),
    Column("decisions", "count"),
    Column("wait_ms", "ms"),
)


async def routing(snapshot: Snapshot, asked: Asked) -> Report:
    """Return decisions by kind, reason and tiers, and by their day, hour and labels, or what is their task's.

    That is the tier asked for, the model that stands for the whole task in the end, and what it was made for.

    Raises:
        RequestRefused: too many groups.
    """
    groups = grouped(asked, {**OF_TASK, **of_instant("d.recorded_at_ms")}, "d.task_id")
    finer = groups
    for name, expression in DECISION.items():
        finer = finer.and_by(name, expression)
    source = "decisions d JOIN tasks t ON t.task_id = d.task_id" if OF_TASK.keys() & asked.by else "decisions d"
    plain = await finer.sums(snapshot, COUNTS, source, f"{WITHIN} AND NOT {OBSTRUCTED}")
    sums = {(*key, None): found for key, found in plain.items()}
    sums |= await _obstructed(snapshot, finer, source)
    keys = merged(sums, (*finer.names, "obstacle"))
    rows = [finer.row(key[:-1]) | {"obstacle": key[-1]} | sums[key] for key in keys]
    return Report((*groups.columns(), *COLUMNS), rows)


async def _obstructed(snapshot: Snapshot, grouping: Grouping, source: str) -> dict[Key, dict[str, Any]]:
    """Count, page by page, decisions whose events have to be read to know what stood in the way."""
    place = grouping.and_by("task_id", "d.task_id").and_by("version", "d.version")
    text = (
        f"SELECT {', '.join(place.expressions)}, {WAIT}, e.type, e.schema_version, e.data"  # noqa: S608 - our own words
        f" FROM {source} JOIN events e ON e.task_id = d.task_id AND e.version = d.version {grouping.joins}"
        f" WHERE {WITHIN} AND {OBSTRUCTED} AND (d.task_id, d.version) > (:after_task, :after_version)"
        f" ORDER BY d.task_id, d.version LIMIT {PAGE}"
    )
    sums: dict[Key, dict[str, Any]] = {}
    after: tuple[str, int] = ("", 0)
    while True:
        wanted = {**grouping.wanted, "after_task": after[0], "after_version": after[1]}
        page = await snapshot.rows(text, wanted)
        for *key, _task, _version, wait_ms, kind, schema_version, data in page:
            obstacle = _obstacle(decode(kind, schema_version, data))
            found = sums.setdefault((*key, obstacle), {"decisions": 0, "wait_ms": 0})
            found["decisions"] += 1
            found["wait_ms"] += wait_ms
        if len(page) < PAGE:
            return sums
        after = page[-1][-6], page[-1][-5]


def _obstacle(event: Event) -> str | None:
    """Name the breakers that were open, or the caps that left no room."""
    if isinstance(event, BudgetRefused):
        return f"budget {event.cap}"
    if not isinstance(event, Decision):
        return None
    if event.reason == "budget":
        named = {f"budget {budget.cap}" for budget in event.inputs.budgets if not budget.fits}
    else:
        named = {f"breaker {brake.provider}/{brake.model}" for brake in event.inputs.brakes}
    return " + ".join(sorted(named)) or None
