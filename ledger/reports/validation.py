"""``report validation``: what judges said, what that cost, and how often somebody else saw it otherwise."""

from __future__ import annotations

from typing import Any, Final

from ledger.reports.asked import Asked, Column, Report, share
from ledger.reports.grouping import Grouping, Key, Measures, Total, grouped, merged, of_instant
from ledger.reports.reading import Snapshot

__all__ = ["validation"]

JUDGE: Final = "CASE WHEN v.judge_attempt IS NULL AND v.error_type IS NULL THEN 'person' ELSE judge.tier END"
SOURCE: Final = (
    "validations v LEFT JOIN tasks t ON t.task_id = v.task_id"
    " LEFT JOIN attempts judged ON judged.task_id = v.task_id"
    " AND judged.attempt = COALESCE(v.judged_attempt, t.attempt_final)"
    " LEFT JOIN attempts judge ON judge.task_id = v.judge_task_id AND judge.attempt = v.judge_attempt"
)
"""Verdicts, the attempts that they are about, and the calls that they came from."""
CALLS: Final = (
    "attempts judge LEFT JOIN validations v ON v.judge_task_id = judge.task_id AND v.judge_attempt ="
    " (SELECT MIN(next.judge_attempt) FROM validations next"
    " WHERE next.judge_task_id = judge.task_id AND next.judge_attempt >= judge.attempt)"
    " LEFT JOIN tasks t ON t.task_id = v.task_id"
    " LEFT JOIN attempts judged ON judged.task_id = v.task_id"
    " AND judged.attempt = COALESCE(v.judged_attempt, t.attempt_final)"
)
"""Judges' calls, each with the verdict that it came to in the end."""
KNOWN: Final = {
    "tier_judged": "judged.tier",
    "model": "COALESCE(judged.response_model, judged.request_model)",
    "purpose": "'validate'",
}
OTHER: Final = (
    "FROM validations other LEFT JOIN tasks of_other ON of_other.task_id = other.task_id"
    " WHERE other.task_id = v.task_id AND other.error_type IS NULL"
    " AND COALESCE(other.judged_attempt, of_other.attempt_final) = COALESCE(v.judged_attempt, t.attempt_final)"
)
AGAIN: Final = (
    f"SELECT 1 {OTHER} AND (other.recorded_at_ms, other.judge_task_id, other.version)"
    " > (v.recorded_at_ms, v.judge_task_id, v.version)"
)
PERSON: Final = (
    f"(SELECT other.pass {OTHER} AND other.judge_attempt IS NULL"
    " ORDER BY other.recorded_at_ms DESC, other.judge_task_id DESC, other.version DESC LIMIT 1)"
)
"""What a person said of the answer; who has said several things has said the last."""
GIVEN: Final = "v.error_type IS NULL"
BY_MACHINE: Final = f"{GIVEN} AND v.judge_attempt IS NOT NULL"


def _count(condition: str) -> str:
    return f"COUNT(CASE WHEN {condition} THEN 1 END)"


COUNTS: Final[Measures] = {
    "verdicts": "COUNT(*)",
    "passed": _count(f"{GIVEN} AND v.pass = 1"),
    "failed": _count(f"{GIVEN} AND v.pass = 0"),
    "errored": _count("v.error_type IS NOT NULL"),
    "escalated": _count(f"{GIVEN} AND v.escalate = 1"),
    "judged_again": _count(f"{GIVEN} AND EXISTS ({AGAIN})"),
    "disagreed": _count(f"{GIVEN} AND EXISTS ({AGAIN} AND other.pass <> v.pass)"),
    "judged_by_person": _count(f"{BY_MACHINE} AND {PERSON} IS NOT NULL"),
    "false_passes": _count(f"{BY_MACHINE} AND v.pass = 1 AND {PERSON} = 0"),
    "false_fails": _count(f"{BY_MACHINE} AND v.pass = 0 AND {PERSON} = 1"),
}
COSTS: Final[Measures] = {
    "judge_attempts": "COUNT(*)",
    "judge_cost_nano_usd": Total("judge.cost_nano_usd"),
    "judge_cost_unknown_attempts": "COUNT(*) - COUNT(judge.cost_nano_usd)",
}
COLUMNS: Final = (
    Column("verdicts", "count"),
    Column("passed", "count"),
    Column("failed", "count"),
    Column("errored", "count"),
    Column("pass_rate", "share"),
    Column("escalated", "count"),
    Column("judged_again", "count"),
    Column("disagreed", "count"),
    Column("disagreement_rate", "share"),
    Column("judged_by_person", "count"),
    Column("false_passes", "count"),
    Column("false_fails", "count"),
    Column("judge_attempts", "count"),
    Column("judge_cost_nano_usd", "money"),
    Column("judge_cost_unknown_attempts", "count"),
    Column("errors", "words"),
)


async def validation(snapshot: Snapshot, asked: Asked) -> Report:
    """Return verdicts by the tier that was judged and by the judge; a row without a tier is of texts without a task.

    Raises:
        RequestRefused: too many groups.
    """
    by = tuple(name for name in asked.by if name != "tier")
    asked = Asked(by, asked.since_ms, asked.until_ms)
    verdicts = _groups(asked, "v.recorded_at_ms", JUDGE, "v.judge_task_id")
    calls = _groups(asked, "judge.started_at_ms", "judge.tier", "judge.task_id")
    within = "v.recorded_at_ms >= :since_ms AND v.recorded_at_ms < :until_ms"
    counted = await verdicts.sums(snapshot, COUNTS, SOURCE, within)
    errors = await _errors(snapshot, verdicts, within)
    started = "judge.started_at_ms >= :since_ms AND judge.started_at_ms < :until_ms AND judge.purpose = 'validate'"
    costs = await calls.sums(snapshot, COSTS, CALLS, started)
    rows = []
    for key in merged((*counted, *costs), verdicts.names):
        found: dict[str, Any] = {column.name: 0 for column in COLUMNS}
        found |= counted.get(key, {}) | costs.get(key, {})
        found["pass_rate"] = share(found["passed"], found["passed"] + found["failed"])
        found["disagreement_rate"] = share(found["disagreed"], found["judged_again"])
        found["errors"] = dict(sorted(errors.get(key, {}).items()))
        rows.append(verdicts.row(key) | found)
    return Report((*verdicts.columns(), *COLUMNS), rows)


def _groups(asked: Asked, instant: str, judge: str, judge_task: str) -> Grouping:
    """Return groups; labels are those of the judged task, else of the judging one."""
    groups = grouped(asked, {**KNOWN, **of_instant(instant)}, f"COALESCE(v.task_id, {judge_task})")
    return groups.and_by("tier_judged", KNOWN["tier_judged"]).and_by("judge", judge)


async def _errors(snapshot: Snapshot, grouping: Grouping, within: str) -> dict[Key, dict[str, int]]:
    """Return by group how often each kind of error kept a verdict from being given."""
    kinds = grouping.and_by("error", "v.error_type")
    found = await kinds.sums(snapshot, {"count": "COUNT(*)"}, SOURCE, f"{within} AND v.error_type IS NOT NULL")
    by_group: dict[Key, dict[str, int]] = {}
    for (*key, error), counted in found.items():
        by_group.setdefault(tuple(key), {})[error] = counted["count"]
    return by_group
