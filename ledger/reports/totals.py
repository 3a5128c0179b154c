"""The total of a report whose rows can be added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledger.reports.asked import Report, share

__all__ = ["summed"]

SHARES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "bought_nothing_share": ("cost_bought_nothing_nano_usd", ("cost_nano_usd",)),
    "pass_rate": ("passed", ("passed", "failed")),
    "disagreement_rate": ("disagreed", ("judged_again",)),
}


def summed(report: Report) -> dict[str, Any]:
    """Return counts, money and durations of all rows together, and the shares of the sums."""
    total: dict[str, Any] = {}
    for column in report.columns:
        values = [row[column.name] for row in report.rows]
        if column.kind in ("count", "money", "ms"):
            total[column.name] = None if None in values else sum(values)
        elif column.kind == "words":
            total[column.name] = _together(values)
        elif column.kind == "key":
            total[column.name] = None
    for name, (part, whole) in SHARES.items():
        if part in total:
            total[name] = share(total[part], sum(total[one] for one in whole))
    return total


def _together(counts: list[Mapping[str, int]]) -> dict[str, int]:
    return {word: sum(one.get(word, 0) for one in counts) for word in sorted(set().union(*counts))}
