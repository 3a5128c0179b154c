"""A finished task's record taken apart: how its calls ended, and what others did in between. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from ledger import commands as c
from ledger import events as e
from ledger.evolve import evolve
from ledger.parts import Decision, Outcome
from ledger.policy import Purpose
from ledger.questions import question
from ledger.replay.derivation import seen_after
from ledger.state import INITIAL, Absent, State, Task

__all__ = ["SUBMITTED", "Call", "Ending", "Figures", "Point", "Record", "call_of", "read_record"]


class Call(NamedTuple):
    """What a recorded outcome is an answer to: whom was asked, and by a judge's call about which attempt."""

    purpose: Purpose
    provider: str
    model: str
    judged_attempt: int | None


class Point(NamedTuple):
    """An instant of a history, by recorded attempt: when it had started, or when it had ended; 0 is the submission."""

    attempt: int
    ended: bool


SUBMITTED: Final = Point(0, ended=True)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a recorded attempt ended."""

    started: e.AttemptStarted
    timeout_ms: int
    fact: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned | None = None
    """None where nothing ended it but the task's cancellation."""
    verdict: e.ValidationPassed | e.ValidationFailed | None = None
    seen: c.Seen = field(default_factory=lambda: c.Seen(at_ms=0))
    """What the decision that followed had seen."""


@dataclass(slots=True)
class Figures:
    """What a history took; an unknown cost counts as an attempt, with its exposure where one is known."""

    attempts: int = 0
    waits_ms: int = 0
    latency_ms: int = 0
    cost_known_nano_usd: int = 0
    cost_unknown_attempts: int = 0
    exposure_nano_usd: int = 0
    exposure_unknown_attempts: int = 0

    def add(self, other: Figures) -> None:
        """Add another history's."""
        for name in Figures.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def spend(self, cost: int | None, exposure: int | None, latency_ms: int | None) -> None:
        """Add an attempt."""
        self.attempts += 1
        self.latency_ms += latency_ms or 0
        self.cost_known_nano_usd += cost or 0
        if cost is None:
            self.cost_unknown_attempts += 1
            self.exposure_nano_usd += exposure or 0
            self.exposure_unknown_attempts += exposure is None


@dataclass(slots=True)
class Record:
    """All that a backtest may use of a task."""

    submitted: e.TaskSubmitted
    endings: dict[Call, list[Ending]] = field(default_factory=dict)
    """By call, in their order: the n-th call of another policy takes the n-th."""
    places: dict[int, tuple[list[Ending], int]] = field(default_factory=dict)
    """Where an attempt's ending stands among those."""
    between: dict[Point, list[c.Command]] = field(default_factory=dict)
    """What was not the task's own doing: breakers and caps that stood in the way, late answers, what people did."""
    money: dict[int, tuple[int | None, int | None, int | None]] = field(default_factory=dict)
    """Cost, exposure and latency by attempt, late and reconciled accounts included."""
    waits_ms: int = 0
    end: e.TaskSucceeded | e.TaskFailed | e.TaskCancelled | None = None

    def figures(self) -> Figures:
        """Return what happened."""
        figures = Figures(waits_ms=self.waits_ms)
        for account in self.money.values():
            figures.spend(*account)
        return figures


def call_of(task: Task, judged_attempt: int | None) -> Call:
    """Return the call that a task makes next."""
    judged = judged_attempt if task.purpose == "validate" else None
    return Call(task.purpose, task.at.provider, task.at.model, judged)


def read_record(events: Sequence[e.Event]) -> Record | None:
    """Take a task's events apart; None where they begin no task."""
    if not events or not isinstance(events[0], e.TaskSubmitted):
        return None
    record, point = Record(events[0]), SUBMITTED
    state: State = INITIAL
    for at, event in enumerate(events):
        point = _read(record, events, at, state, point)
        state = evolve(state, event)
    return record


def _read(record: Record, events: Sequence[e.Event], at: int, state: State, point: Point) -> Point:
    event = events[at]
    match event:
        case e.AttemptStarted() if not isinstance(state, Absent):
            ending = Ending(event, state.task.at.timeout_ms)
            endings = record.endings.setdefault(call_of(state.task, state.task.judged_attempt), [])
            record.places[event.attempt] = (endings, len(endings))
            endings.append(ending)
            record.money[event.attempt] = (None, event.upper_bound_nano_usd, None)
            return Point(event.attempt, ended=False)
        case e.AttemptOrphaned(cause="cancelled"):
            _account(record, event)
        case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned():
            _account(record, event)
            _end(record, event, events, at)
            return Point(event.attempt, ended=True)
        case e.AttemptSettled():
            _account(record, event)
            record.between.setdefault(point, []).append(c.Settle(event, seen_after(events, at)))
        case e.TaskSucceeded() | e.TaskFailed() | e.TaskCancelled():
            record.end = event
        case _:
            pass
    if isinstance(event, e.RetryScheduled):
        record.waits_ms += event.wait_ms
    if isinstance(event, Decision):
        command = question(event)
        if isinstance(command, c.Brake | c.Budget | c.Release | c.Cancel):
            record.between.setdefault(point, []).append(command)
    return point


def _end(
    record: Record,
    fact: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned,
    events: Sequence[e.Event],
    at: int,
) -> None:
    following = events[at + 1] if at + 1 < len(events) else None
    verdict = following if isinstance(following, e.ValidationPassed | e.ValidationFailed) else None
    place = record.places.get(fact.attempt)
    if place is not None:
        endings, number = place
        endings[number] = replace(endings[number], fact=fact, verdict=verdict, seen=seen_after(events, at))


def _account(record: Record, event: Outcome | e.AttemptOrphaned) -> None:
    """Keep an attempt's account; a later one replaces it, but for what it does not know."""
    _, bound, latency = record.money.get(event.attempt, (None, None, None))
    if isinstance(event, e.AttemptOrphaned):
        record.money[event.attempt] = (None, event.exposure_nano_usd, latency)
        return
    exposure = None if event.cost_nano_usd is not None else event.exposure_nano_usd
    if isinstance(event, e.AttemptSettled) and event.cost_nano_usd is None and exposure is None:
        exposure = bound
    latency_ms = latency if event.latency_ms is None else event.latency_ms
    record.money[event.attempt] = (event.cost_nano_usd, exposure, latency_ms)
