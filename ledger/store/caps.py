"""Whether one more attempt fits under the caps on spending: the rule, for stores to apply in the adding transaction.

What has a cost counts with that; what has none with the bound that it started with, as reserved while it runs and as
unknown once it has ended, however it ended. So the sum never grows when an attempt ends below its bound, and what fits
at the start fits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ledger.canonical import INT64_MAX
from ledger.envelope import Cap, Recorded
from ledger.events import TaskSubmitted
from ledger.parts import BudgetSeen
from ledger.store.projection import Changes, Known
from ledger.store.protocol import CapReached, Spent
from ledger.store.views import DAY

__all__ = ["DAY_MS", "SPENT", "Purses", "Scope", "check_caps", "scope_of", "scoped", "spent_from", "spent_of"]

DAY_MS: Final = 86_400_000
NANO: Final = 1_000_000_000
PENDING: Final = "cost_nano_usd IS NULL AND state {} 'running'"

# In whole dollars and the rest apart: a sum of 64-bit figures may be more than 64 bits, and is exact all the same.
_sums: Final = ", ".join(
    f"coalesce(sum(CASE WHEN {when} THEN {column} {part} {NANO} END), 0)"
    for column, when in (
        ("cost_nano_usd", "cost_nano_usd IS NOT NULL"),
        ("exposure_nano_usd", PENDING.format("<>")),
        ("exposure_nano_usd", PENDING.format("=")),
    )
    for part in ("/", "%")
)
SPENT: Final = f"""
SELECT {_sums}, coalesce(sum(CASE WHEN cost_nano_usd IS NULL AND exposure_nano_usd IS NULL THEN 1 END), 0)
FROM attempts WHERE {DAY} = $1 AND ($2::text IS NULL OR tier = $2)
    AND ($3::text IS NULL OR EXISTS (
        SELECT 1 FROM task_labels AS label
        WHERE label.task_id = attempts.task_id AND label.key = $3 AND label.value = $4))
"""  # noqa: S608 - our own columns
"""Takes a scope's ``values``; SQLite reads it with ``?`` and without casts."""

Rows = Iterable[Mapping[str, Any]]
Label = tuple[str, str]


class Scope(NamedTuple):
    """Which attempts of all tasks count: those started in a UTC day, of one tier or label if one is named."""

    day: int
    tier: str | None
    label: Label | None

    def values(self) -> tuple[int, str | None, str | None, str | None]:
        """Return the parameters of ``SPENT``."""
        key, value = self.label or (None, None)
        return self.day, self.tier, key, value


def scope_of(cap: Cap, at_ms: int) -> Scope:
    """Return what a day's cap counts at an instant."""
    return Scope(at_ms // DAY_MS, cap.tier, cap.label)


def scoped(scope: Scope, rows: Rows) -> list[Mapping[str, Any]]:
    """Return those of a stream's rows of ``attempts`` that count, but for their label."""
    return [row for row in rows if row["started_at_ms"] // DAY_MS == scope.day and scope.tier in (None, row["tier"])]


def spent_of(rows: Rows) -> Spent:
    """Sum rows of ``attempts``."""
    settled = unknown = reserved = unbounded = 0
    for row in rows:
        cost, exposure = row["cost_nano_usd"], row["exposure_nano_usd"]
        if cost is not None:
            settled += cost
        elif exposure is None:
            unbounded += 1
        elif row["state"] == "running":
            reserved += exposure
        else:
            unknown += exposure
    return Spent(settled, unknown, reserved, unbounded)


def spent_from(row: Iterable[Any]) -> Spent:
    """Return the sums that ``SPENT`` gives."""
    usd, rest, unknown_usd, unknown_rest, reserved_usd, reserved_rest, unbounded = map(int, row)
    return Spent(usd * NANO + rest, unknown_usd * NANO + unknown_rest, reserved_usd * NANO + reserved_rest, unbounded)


class Purses:
    """What stands against caps within one transaction: read once for each scope, then kept up with what is added.

    Args:
        written: sums the rows of ``attempts`` that a scope counts.
    """

    def __init__(self, written: Callable[[Scope], Spent]) -> None:
        self._written = written
        self._sums: dict[Scope, Spent] = {}
        self._added: list[tuple[Known, Changes, Recorded]] = []

    def spent(self, scope: Scope) -> Spent:
        """Return what stands against a scope now."""
        if scope not in self._sums:
            total = self._written(scope)
            for known, changes, first in self._added:
                total = _moved(total, _grown(scope, known, changes, first))
            self._sums[scope] = total
        return self._sums[scope]

    def add(self, known: Known, changes: Changes, first: Recorded) -> None:
        """Take a stream's changes as written; ``first`` is the stream's first event."""
        if changes.attempts_started or changes.attempts_ended:
            self._added.append((known, changes, first))
            for scope, total in self._sums.items():
                self._sums[scope] = _moved(total, _grown(scope, known, changes, first))


def check_caps(
    caps: Sequence[Cap], known: Known, changes: Changes, spent: Callable[[Scope], Spent], position: int
) -> None:
    """Refuse a stream's changes if an attempt that they start, and leave running, does not fit under a cap.

    Args:
        caps: those that the attempt is held to.
        known: the stream before the changes.
        changes: what they make of it.
        spent: what stands against a scope before the changes.
        position: of the newest event before them.

    Raises:
        CapReached: it does not fit; what it says of a cap is true as of ``position``.
    """
    if not caps:
        return
    new = [row for number in changes.attempts_started if (row := changes.attempts[number])["state"] == "running"]
    if not new:
        return
    asking = {row["attempt"] for row in new}
    older = [row for number, row in changes.attempts.items() if number not in asking]
    sights = []
    for cap in caps:
        if cap.of_task:
            before = spent_of(older)
        else:
            scope = scope_of(cap, new[0]["started_at_ms"])
            mine = _less(spent_of(scoped(scope, older)), spent_of(scoped(scope, known.attempts.values())))
            before = _moved(spent(scope), mine)
        seen = _seen(cap, before, spent_of(new), position)
        if not seen.fits:
            sights.append(seen)
    if sights:
        raise CapReached(tuple(sights))


def _seen(cap: Cap, before: Spent, asked: Spent, position: int) -> BudgetSeen:
    strict = cap.refuses_unpriced
    return BudgetSeen(
        cap=cap.name,
        limit=cap.limit_nano_usd,
        settled=_bounded(before.settled),
        unknown=None if strict and before.unbounded else _bounded(before.unknown),
        reserved=_bounded(before.reserved),
        asked=None if strict and asked.unbounded else _bounded(asked.reserved),
        position=position,
    )


def _grown(scope: Scope, known: Known, changes: Changes, first: Recorded) -> Spent:
    """Return what a stream's changes add to a scope."""
    if scope.label is not None:
        submitted = first.event()
        if not isinstance(submitted, TaskSubmitted) or submitted.labels.get(scope.label[0]) != scope.label[1]:
            return Spent()
    return _less(spent_of(scoped(scope, changes.attempts.values())), spent_of(scoped(scope, known.attempts.values())))


def _moved(total: Spent, by: Spent) -> Spent:
    return Spent(*(one + other for one, other in zip(total, by, strict=True)))


def _less(total: Spent, by: Spent) -> Spent:
    return Spent(*(one - other for one, other in zip(total, by, strict=True)))


def _bounded(total: int) -> int:
    return min(max(total, 0), INT64_MAX)
