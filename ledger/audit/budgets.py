"""Checking caps on spending: that what decisions saw of a budget was so, by the events up to the position they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ledger import events as e
from ledger.audit.told import Told, decisions
from ledger.canonical import INT64_MAX
from ledger.envelope import Recorded, Stream
from ledger.errors import EventInvalid
from ledger.parts import BudgetSeen
from ledger.store import rows
from ledger.store.caps import DAY_MS, Scope, scoped, spent_of
from ledger.store.protocol import Problem, Spent, Store

__all__ = ["BudgetSight", "Purses", "budget_sights"]

TASK_CAP: Final = "max_usd_per_task"
PAGE: Final = 2000
SIGHTS_MAX: Final = 100_000
"""More are not checked: each is kept until the walk is over."""
MONEY: Final = ("attempt.started", "attempt.succeeded", "attempt.failed", "attempt.orphaned", "attempt.settled")

Key = tuple[str, Scope] | str
"""What is summed: the attempts of a scope, with its cap's name, or those of one task."""


class BudgetSight(NamedTuple):
    """What one decision says that it saw of one cap."""

    task_id: str
    version: int
    position: int
    recorded_at_ms: int
    seen: BudgetSeen


def budget_sights(stream: Stream, events: Told) -> Iterator[BudgetSight]:
    """Yield what the decisions of a task saw of budgets."""
    for recorded, decision in decisions(stream, events):
        for seen in decision.inputs.budgets:
            place = recorded.task_id, recorded.version, recorded.position, recorded.recorded_at_ms
            yield BudgetSight(*place, seen)


@dataclass(slots=True)
class Sums:
    """What stands against what is asked for, as of a position."""

    totals: dict[Key, Spent] = field(default_factory=lambda: defaultdict(Spent))
    open: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """Attempts whose cost is not known yet."""
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Of tasks with attempts still to come, where a cap on a label is asked for."""


class Purses:
    """What decisions saw of budgets; gathered in a walk by stream, compared in one by position.

    Args:
        store: the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sights: list[BudgetSight] = []

    def look(self, sights: Iterable[BudgetSight]) -> Iterator[Problem]:
        """Gather what decisions saw; what lies after the decision itself is a finding at once."""
        for sight in sights:
            if sight.seen.position >= sight.position:
                yield _problem(sight, f"at position {sight.seen.position}, which is not before the decision")
            elif len(self._sights) < SIGHTS_MAX:
                self._sights.append(sight)

    async def problems(self) -> list[Problem]:
        """Compare all that was gathered with the sums over the events.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        due = sorted(self._sights, key=lambda sight: sight.seen.position, reverse=True)
        wanted = {key for sight in due for key in _keys(sight)}
        labelled = any(isinstance(key, tuple) and key[1].label for key in wanted)
        found: list[Problem] = []
        sums, after = Sums(), 0
        while due:
            page: Sequence[Recorded] = await self._store.page(after, PAGE)
            for recorded in page:
                while due and due[-1].seen.position < recorded.position:
                    found += _compared(due.pop(), sums)
                _add(sums, recorded, wanted, labelled=labelled)
                after = recorded.position
            if not page:
                while due:
                    found += _compared(due.pop(), sums)
        return found


def _keys(sight: BudgetSight) -> list[Key]:
    """Return what a cap sums: of the decision's day, or of one beside it, as the refused start's instant is not kept.

    It was refused on one side of midnight and recorded on the other, or a clock was set in between.
    """
    cap = sight.seen.cap
    if cap == TASK_CAP:
        return [sight.task_id]
    kind, _, name = cap.partition(".")
    key, _, value = name.partition("=")
    tier, label = (name, None) if kind == "per_tier" else (None, (key, value) if kind == "per_label" else None)
    day = sight.recorded_at_ms // DAY_MS
    return [(cap, Scope(near, tier, label)) for near in (day, day - 1, day + 1)]


def _add(sums: Sums, recorded: Recorded, wanted: set[Key], *, labelled: bool) -> None:
    """Take an event into the sums, if it moves money."""
    if labelled and recorded.type == e.TaskSubmitted.TYPE:
        submitted = _read(recorded)
        if isinstance(submitted, e.TaskSubmitted) and submitted.labels:
            sums.labels[recorded.task_id] = submitted.labels
        return
    if recorded.type not in MONEY:
        return
    event = _read(recorded)
    match event:
        case e.AttemptStarted():
            place, before = (recorded.task_id, event.attempt), None
            row: Mapping[str, Any] = rows.attempt(recorded, event)
        case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned() | e.AttemptSettled():
            place = recorded.task_id, event.attempt
            before = sums.open.pop(place, None)
            if before is None:
                return
            row = {**before, **rows.outcome(before, recorded, event)}
        case _:
            return
    if row["cost_nano_usd"] is None:
        sums.open[place] = row
    for key in wanted:
        counts = _counter(key, recorded.task_id, sums)
        if counts is not None:
            more, less = spent_of(counts([row])), spent_of(counts([] if before is None else [before]))
            total = zip(sums.totals[key], more, less, strict=True)
            sums.totals[key] = Spent(*(one + plus - minus for one, plus, minus in total))


def _counter(
    key: Key, task_id: str, sums: Sums
) -> Callable[[list[Mapping[str, Any]]], Sequence[Mapping[str, Any]]] | None:
    """Return what picks the rows that count; None where none of this task do."""
    if isinstance(key, str):
        return (lambda given: given) if key == task_id else None
    scope = key[1]
    if scope.label is not None and sums.labels.get(task_id, {}).get(scope.label[0]) != scope.label[1]:
        return None
    return lambda given: scoped(scope, given)


def _compared(sight: BudgetSight, sums: Sums) -> Iterator[Problem]:
    # A decision holds 64 bits of each figure, and the greatest of those where there is more.
    standing = [Spent(*(min(total, INT64_MAX) for total in sums.totals[key])) for key in _keys(sight)]
    if not any(_is_so(sight.seen, spent) for spent in standing):
        spent = standing[0]
        unknown = "unbounded" if spent.unbounded else str(spent.unknown)
        detail = f"settled {spent.settled}, unknown {unknown}, reserved {spent.reserved} nano-USD"
        yield _problem(
            sight,
            f"settled {sight.seen.settled}, unknown {sight.seen.unknown}, reserved "
            f"{sight.seen.reserved} at position {sight.seen.position}; the events make it {detail}",
        )


def _is_so(seen: BudgetSeen, spent: Spent) -> bool:
    """Compare; where spend may be anything it is NULL, unless the configuration let it count as nothing."""
    unknown = spent.unbounded > 0 if seen.unknown is None else seen.unknown == spent.unknown
    return unknown and (seen.settled, seen.reserved) == (spent.settled, spent.reserved)


def _read(recorded: Recorded) -> e.Event | None:
    try:
        return recorded.event()
    except EventInvalid:
        return None  # reported as a schema problem


def _problem(sight: BudgetSight, detail: str) -> Problem:
    return Problem("budget", sight.task_id, sight.version, f"the decision saw of {sight.seen.cap}: {detail}")
