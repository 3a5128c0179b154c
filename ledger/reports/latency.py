"""``report latency``: how long answers took, and how long tasks waited for another attempt."""

from __future__ import annotations

from typing import Any, Final

from ledger.reports.asked import Asked, Column, Report, average
from ledger.reports.grouping import (
    Grouping,
    Key,
    Measures,
    Total,
    by_attempt,
    by_row,
    grouped,
    is_bounded,
    merged,
    started,
)
from ledger.reports.ranks import PERCENTS, of_latencies, ranks
from ledger.reports.reading import Snapshot

__all__ = ["WAITED", "latency", "waited"]

WAITED: Final[Measures] = {"waits": "COUNT(*)", "waited_ms": Total("a.started_at_ms - before.ended_at_ms")}
COLUMNS: Final = (
    Column("attempts", "count"),
    Column("mean_ms", "ms"),
    *(Column(f"p{percent}_ms", "ms") for percent in PERCENTS),
    Column("max_ms", "ms"),
    Column("unmeasured_attempts", "count"),
    Column("ttft_attempts", "count"),
    *(Column(f"ttft_p{percent}_ms", "ms") for percent in PERCENTS),
    Column("waits", "count"),
    Column("waited_ms", "ms"),
)


async def latency(snapshot: Snapshot, asked: Asked) -> Report:
    """Return how long generating attempts that succeeded took; judges' too where it is told by purpose.

    Raises:
        RequestRefused: there are too many groups.
    """
    grouping = grouped(asked, by_attempt("a"), "a.task_id")
    within = started(asked) + ("" if "purpose" in asked.by else " AND a.purpose = 'generate'")
    answered = f"{within} AND a.state = 'succeeded'"
    counted = await grouping.sums(
        snapshot,
        {
            "attempts": "COUNT(a.latency_ms)",
            "total_ms": Total("a.latency_ms"),
            "max_ms": "MAX(a.latency_ms)",
            "unmeasured_attempts": "COUNT(*) - COUNT(a.latency_ms)",
        },
        "attempts a",
        answered,
    )
    sizes = {key: row["attempts"] for key, row in counted.items()}
    whole = await of_latencies(snapshot, asked, grouping, answered, sizes)
    # No index has this figure, and one that it is not in would be read in no order of the table's.
    answered = f"{within} AND CASE WHEN a.state = 'succeeded' THEN 1 END = 1"
    first = await ranks(snapshot, grouped(asked, by_row(asked), "a.task_id"), "ttft_ms", answered)
    waits = await waited(snapshot, asked, grouping, within)
    rows = []
    for key in merged((*counted, *waits), grouping.names):
        found: dict[str, Any] = dict.fromkeys(column.name for column in COLUMNS)
        found |= {"attempts": 0, "unmeasured_attempts": 0, "ttft_attempts": 0, "waits": 0, "waited_ms": 0}
        found |= counted.get(key, {}) | waits.get(key, {})
        found["mean_ms"] = average(found.pop("total_ms", None), found["attempts"])
        found |= whole.get(key, {})
        found |= {f"ttft_{name}": value for name, value in first.get(key, {}).items()}
        rows.append(grouping.row(key) | found)
    return Report((*grouping.columns(), *COLUMNS), rows)


async def waited(snapshot: Snapshot, asked: Asked, grouping: Grouping, within: str) -> dict[Key, dict[str, Any]]:
    """Return by group how often attempts ``a`` waited after the one before them, and how long."""
    source, same = "attempts a", "before.task_id = a.task_id AND before.attempt = a.attempt - 1"
    if not is_bounded(asked):
        # Few attempts are not the first: their keys are found in an index, and SQLite joins in the order that is said.
        source = "attempts later CROSS JOIN attempts a"
        same += " AND later.attempt > 1 AND a.task_id = later.task_id AND a.attempt = later.attempt"
    waits = f"{same} AND a.attempt > 1 AND a.started_at_ms > before.ended_at_ms"
    return await grouping.sums(snapshot, WAITED, f"{source} CROSS JOIN attempts before", f"{within} AND {waits}")
