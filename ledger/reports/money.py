"""What attempts cost by group: as the ledger knows it now, or under money that is given for each attempt instead."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.reports.grouping import Grouping, Key, Measures, Total
from ledger.reports.reading import Snapshot

__all__ = ["LATE_FOR_NOTHING", "OF_LOST_TASKS", "WITHOUT_ANSWER", "Account", "Money", "add_up", "measures"]

Money = tuple[str, int, int | None, int | None]
"""Task, attempt, its cost and its exposure in nano-USD."""

WITHOUT_ANSWER: Final = "a.state IN ('failed', 'orphaned')"
LATE_FOR_NOTHING: Final = (
    "a.state = 'settled' AND (a.error_type IS NOT NULL OR NOT EXISTS (SELECT 1 FROM tasks final"
    " WHERE final.task_id = a.task_id AND final.state = 'succeeded' AND final.attempt_final = a.attempt))"
)
"""An answer that came late bought something where it became the task's."""
OF_LOST_TASKS: Final = (
    "a.state = 'succeeded' AND EXISTS (SELECT 1 FROM tasks lost"
    " WHERE lost.task_id = a.task_id AND lost.state IN ('failed', 'cancelled'))"
)


@dataclass(frozen=True, slots=True)
class Account:
    """Sums by group over attempts ``a`` and their money ``m.cost`` and ``m.exposure``, as far as they have come."""

    grouping: Grouping
    aggregates: Measures
    """Such that what they give for parts can be added up."""
    where: str
    joined: str = ""
    sums: dict[Key, dict[str, Any]] = field(default_factory=dict)


async def add_up(snapshot: Snapshot, pages: AsyncIterator[Sequence[Money]], accounts: Sequence[Account]) -> None:
    """Add to accounts money that is given for each attempt, page by page."""
    async for page in pages:
        if not page:
            continue
        listed, values = _listed(len(page)), _values(page)
        for account in accounts:
            grouping = account.grouping.given(values)
            pair = "a.task_id = m.task_id AND a.attempt = m.attempt"
            source = f"({listed}) m JOIN attempts a ON {pair} {account.joined}"
            for key, found in (await grouping.sums(snapshot, account.aggregates, source, account.where)).items():
                before = account.sums.setdefault(key, dict.fromkeys(account.aggregates, 0))
                for name, value in found.items():
                    before[name] += value


def measures(cost: str, exposure: str) -> Measures:
    """Return the aggregates of attempts ``a`` whose money these expressions are."""
    return {
        "cost_nano_usd": Total(cost),
        "cost_unknown_attempts": Total(f"CASE WHEN {cost} IS NULL THEN 1 END"),
        "exposure_nano_usd": Total(f"CASE WHEN {cost} IS NULL THEN {exposure} END"),
        "exposure_unknown_attempts": Total(f"CASE WHEN {cost} IS NULL AND {exposure} IS NULL THEN 1 END"),
        "cost_failed_nano_usd": Total(
            f"CASE WHEN {WITHOUT_ANSWER} OR (a.state = 'settled' AND a.error_type IS NOT NULL) THEN {cost} END"
        ),
        "cost_judges_nano_usd": Total(f"CASE WHEN a.purpose = 'validate' THEN {cost} END"),
    }


def _values(page: Sequence[Money]) -> dict[str, Any]:
    return {
        f"{name}_{row}": value
        for row, money in enumerate(page)
        for name, value in zip(("task", "attempt", "cost", "exposure"), money, strict=True)
    }


def _listed(rows: int) -> str:
    """Return a table of parameters; the casts tell PostgreSQL what they are."""
    return " UNION ALL ".join(
        f"SELECT CAST(:task_{row} AS TEXT) AS task_id, CAST(:attempt_{row} AS BIGINT) AS attempt,"
        f" CAST(:cost_{row} AS BIGINT) AS cost, CAST(:exposure_{row} AS BIGINT) AS exposure"
        for row in range(rows)
    )
