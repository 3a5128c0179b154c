"""Statements that add up by groups, alike on both engines, and what becomes of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, get_args

from ledger.canonical import INT64_MAX
from ledger.errors import RequestRefused
from ledger.parts import DecisionKind
from ledger.policy import Tier
from ledger.reports.asked import LABEL, ROWS_MAX, Asked, Column
from ledger.reports.reading import Snapshot, SumTooLarge

__all__ = [
    "Grouping",
    "Key",
    "Measures",
    "Total",
    "by_attempt",
    "by_row",
    "grouped",
    "is_bounded",
    "merged",
    "of_instant",
    "started",
    "tasks_among",
]

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
BILLION: Final = 1_000_000_000
YEAR_10000_MS: Final = 253_402_300_800_000
TIERS: Final[tuple[str, ...]] = get_args(Tier)
ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("tier", "tier_from", "tier_to", "tier_judged", "judge"), TIERS),
    "decision": get_args(DecisionKind),
}
"""Words that have an order of their own."""

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Total:
    """The sum of what is known, 0 where nothing is; in billions and the rest where that is too much for SQLite."""

    expression: str

    @property
    def whole(self) -> str:
        """Return it in one piece."""
        return f"COALESCE(SUM({self.expression}), 0)"

    @property
    def parts(self) -> str:
        """Return it in two."""
        return f"COALESCE(SUM(({self.expression}) / {BILLION}), 0), COALESCE(SUM(({self.expression}) % {BILLION}), 0)"


Measures = Mapping[str, str | Total]
"""Aggregates by their names."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """The groups of one statement: expressions, and the joins that labels take."""

    names: tuple[str, ...]
    expressions: tuple[str, ...]
    joins: str
    wanted: Mapping[str, Any]

    def and_by(self, name: str, expression: str) -> Grouping:
        """Return finer groups."""
        return replace(self, names=(*self.names, name), expressions=(*self.expressions, expression))

    def given(self, values: Mapping[str, Any]) -> Grouping:
        """Return the same groups for a statement with more parameters."""
        return replace(self, wanted={**self.wanted, **values})

    async def sums(self, snapshot: Snapshot, measures: Measures, source: str, where: str) -> dict[Key, dict[str, Any]]:
        """Return measures by group, each by its name.

        Args:
            snapshot: the ledger.
            measures: an aggregate by its name.
            source: what stands after FROM.
            where: which rows.

        Raises:
            RequestRefused: there are more groups than a report has rows.
        """
        totals = {name for name, measure in measures.items() if isinstance(measure, Total)}
        whole = [measure.whole if isinstance(measure, Total) else measure for measure in measures.values()]
        parts = [measure.parts if isinstance(measure, Total) else measure for measure in measures.values()]
        try:
            found = await snapshot.rows(self._text(whole, source, where), self.wanted)
        except SumTooLarge:
            found = await snapshot.rows(self._text(parts, source, where), self.wanted)
            pieces = [2 if name in totals else 1 for name in measures]
            found = [_whole(row, len(self.names), pieces) for row in found]
        if len(found) > ROWS_MAX:
            said = f"the report would have more than {ROWS_MAX:,} rows; narrow it by --since, --until or fewer groups"
            raise RequestRefused(said, field="by")
        width = len(self.names)
        return {tuple(row[:width]): dict(zip(measures, row[width:], strict=True)) for row in found}

    def _text(self, measures: Sequence[str], source: str, where: str) -> str:
        told = ", ".join((*self.expressions, *measures))
        places = ", ".join(str(place + 1) for place in range(len(self.names)))
        groups = f"GROUP BY {places}" if places else ""
        return f"SELECT {told} FROM {source} {self.joins} WHERE {where} {groups} LIMIT {ROWS_MAX + 1}"  # noqa: S608 - our own words; what users say comes as parameters

    def row(self, key: Key) -> dict[str, Any]:
        """Return a group's key as a row's first columns."""
        return {name: _told(name, value) for name, value in zip(self.names, key, strict=True)}

    def columns(self) -> list[Column]:
        """Return the columns of the key."""
        return [Column(name, "key") for name in self.names]


def grouped(asked: Asked, known: Mapping[str, str], task: str, **wanted: Any) -> Grouping:
    """Return the groups of a statement.

    Args:
        asked: what the report is asked for.
        known: an expression for each group that may be asked for.
        task: the expression of the task whose labels count.
        wanted: more parameters.
    """
    names = tuple(dict.fromkeys(asked.by))
    labels = [name for name in names if name.startswith(LABEL)]
    joins = [
        f"LEFT JOIN task_labels label_{number} ON label_{number}.task_id = {task}"
        f" AND label_{number}.key = :label_{number}"
        for number in range(len(labels))
    ]
    values = {name: f"label_{number}.value" for number, name in enumerate(labels)}
    keys = {f"label_{number}": name.removeprefix(LABEL) for number, name in enumerate(labels)}
    expressions = tuple({**known, **values}[name] for name in names)
    return Grouping(names, expressions, " ".join(joins), {**asked.window, **keys, **wanted})


def by_attempt(alias: str) -> dict[str, str]:
    """Return the groups of attempts, by the name that a statement gives the table."""
    return {
        "tier": f"{alias}.tier",
        "model": f"COALESCE({alias}.response_model, {alias}.request_model)",
        "purpose": f"{alias}.purpose",
        **of_instant(f"{alias}.started_at_ms"),
    }


def by_row(asked: Asked) -> dict[str, str]:
    """Return the groups of attempts ``a`` for a statement that takes figures which no index has.

    Of all times SQLite would follow the index of days and look up each row, where the table in its own order takes a
    third of the time. The sum keeps it from that.
    """
    instant = "a.started_at_ms" if is_bounded(asked) else "(a.started_at_ms + 0)"
    return by_attempt("a") | of_instant(instant)


def is_bounded(asked: Asked) -> bool:
    """Say whether less than all times is asked for."""
    return asked.since_ms > 0 or asked.until_ms < INT64_MAX


def of_instant(column: str) -> dict[str, str]:
    """Return the groups of an instant, in UTC; integers, of which both engines make the same."""
    return {"day": f"{column} / {DAY_MS}", "hour": f"{column} / {HOUR_MS}"}


def started(asked: Asked) -> str:
    """Return the condition that attempts ``a`` started in the time that is asked for.

    A time with bounds is asked for by its days as well, for which there is an index.
    """
    conditions = ["a.started_at_ms >= :since_ms AND a.started_at_ms < :until_ms"]
    if asked.since_ms > 0:
        conditions.append(f"a.started_at_ms / {DAY_MS} >= :since_ms / {DAY_MS}")
    if asked.until_ms < INT64_MAX:
        conditions.append(f"a.started_at_ms / {DAY_MS} <= :until_ms / {DAY_MS}")
    return " AND ".join(conditions)


def tasks_among(asked: Asked) -> str:
    """Return the aggregate of how many tasks a group's attempts ``a`` are of.

    Each task counts at its first attempt in the group. Most tasks have one attempt, so this is cheap where a distinct
    count would sort every id.
    """
    here, there = by_attempt("a"), by_attempt("earlier")
    same = [f"{there[name]} = {here[name]}" for name in asked.by if name in here]
    told = " AND ".join(
        [
            "earlier.task_id = a.task_id AND earlier.attempt < a.attempt",
            "earlier.started_at_ms >= :since_ms AND earlier.started_at_ms < :until_ms",
            *same,
        ]
    )
    again = f"EXISTS (SELECT 1 FROM attempts earlier WHERE {told})"  # noqa: S608 - our own words
    return f"COALESCE(SUM(CASE WHEN a.attempt = 1 THEN 1 WHEN {again} THEN 0 ELSE 1 END), 0)"


def merged(keys: Iterable[Key], names: Sequence[str]) -> list[Key]:
    """Return groups once each, in their order: tiers upwards, decisions as a task meets them, the unknown last."""
    return sorted(set(keys), key=lambda key: [_place(name, value) for name, value in zip(names, key, strict=True)])


def _whole(row: tuple[Any, ...], keys: int, pieces: Sequence[int]) -> tuple[Any, ...]:
    """Put sums that came in two parts together; Python's integers have no end."""
    values = iter(row[keys:])
    return (*row[:keys], *(next(values) if count == 1 else next(values) * BILLION + next(values) for count in pieces))


def _place(name: str, value: Any) -> tuple[bool, int, Any]:
    if value is None:
        return True, 0, ""
    order = ORDERS.get(name, ())
    return (False, order.index(value), "") if value in order else (False, len(order), value)


def _told(name: str, value: Any) -> Any:
    if name == "day":
        return _utc(value * DAY_MS).date().isoformat()
    if name == "hour":
        return f"{_utc(value * HOUR_MS):%Y-%m-%dT%H:00Z}"
    return value


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(min(at_ms, YEAR_10000_MS - 1) // 1000, UTC)
