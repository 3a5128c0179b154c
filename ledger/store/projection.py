"""From events to the rows of ``tasks``, ``attempts``, ``decisions``, ``validations`` and ``task_labels``. Pure.

One implementation serves the append (``project``, from what the stream had come to), the rebuild and the verifier
(``project_stream``, from nothing). It is total, like ``evolve``: history cannot be refused, so an event that says
nothing about the rows so far leaves them as they are. A stream that does not begin with ``task.submitted`` has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger import events as e
from ledger.envelope import Recorded
from ledger.evolve import evolve, fold
from ledger.parts import Decision
from ledger.state import Held, State, Waiting
from ledger.store import rows
from ledger.store.protocol import Projected
from ledger.store.rows import Row

__all__ = ["Changes", "History", "Known", "project", "project_events", "project_stream"]

WAITING_FOR: Final = {"breaker_open": "breaker", "budget": "budget"}
"""What a task waits for, by the rule of its wait."""

History = Callable[[], Iterable[e.Event]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a stream has come to: its row of ``tasks`` and its rows of ``attempts`` by number."""

    task: Mapping[str, Any] | None = None
    attempts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What new events make of the projections' rows."""

    task: Row | None = None
    """The whole row as it now stands; None where the stream is no task."""
    attempts: dict[int, Row] = field(default_factory=dict)
    """All rows as they now stand, by number."""
    attempts_started: list[int] = field(default_factory=list)
    """Numbers whose rows are new."""
    attempts_ended: list[int] = field(default_factory=list)
    """Numbers whose ``rows.OUTCOME`` columns changed; may name a new one too."""
    decisions: list[Row] = field(default_factory=list)
    validations: list[Row] = field(default_factory=list)
    task_labels: list[Row] = field(default_factory=list)


def project(known: Known, new: Iterable[tuple[Recorded, e.Event]], history: History) -> Changes:
    """Return what ``new`` events, each with its envelope, make of what is known of their stream.

    Only whether a late answer is still waited for takes more than ``known``: then, and only then, ``history`` is asked
    for the events before the new ones.
    """
    changes = Changes(
        task=None if known.task is None else dict(known.task),
        attempts={number: dict(row) for number, row in known.attempts.items()},
    )
    past: list[e.Event] = []
    for recorded, event in new:
        _apply(changes, recorded, event)
        if isinstance(event, e.AttemptSettled) and changes.task is not None:
            changes.task |= _late(changes.task, fold((*history(), *past)), event)
        past.append(event)
    if changes.task is not None:
        changes.task |= rows.totals(changes.attempts)
        if changes.task["attempt_final"] is not None:
            changes.task |= rows.final_attempt(changes.attempts, changes.task["attempt_final"])
    return changes


def project_stream(stream: Sequence[Recorded]) -> Projected:
    """Return all rows of a stream.

    Raises:
        EventInvalid: a stored event cannot be read.
    """
    return project_events((recorded, recorded.event()) for recorded in stream)


def project_events(events: Iterable[tuple[Recorded, e.Event]]) -> Projected:
    """Return all rows of a stream's events, each with its envelope."""
    changes = project(Known(), events, tuple)
    return Projected(
        tasks=() if changes.task is None else (changes.task,),
        attempts=tuple(changes.attempts[number] for number in sorted(changes.attempts)),
        decisions=tuple(changes.decisions),
        validations=tuple(changes.validations),
        task_labels=tuple(sorted(changes.task_labels, key=lambda row: str(row["key"]))),
    )


def _apply(changes: Changes, recorded: Recorded, event: e.Event) -> None:
    if changes.task is None:
        if not isinstance(event, e.TaskSubmitted):
            return
        changes.task = rows.task(recorded, event)
        changes.task_labels += [
            {"task_id": recorded.task_id, "key": key, "value": value, "created_at_ms": recorded.recorded_at_ms}
            for key, value in event.labels.items()
        ]
    if isinstance(event, Decision):
        changes.decisions.append(rows.decision(recorded, event))
    match event:
        case e.AttemptStarted() | e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned() | e.AttemptSettled():
            _attempt(changes, changes.task, recorded, event)
        case e.ValidationPassed() | e.ValidationFailed() | e.ValidationErrored():
            changes.validations.append(rows.validation(recorded, event, changes.task))
        case _ if changes.task["ended_at_ms"] is None:
            changes.task |= _decided(changes, recorded, event)


def _attempt(
    changes: Changes,
    task: Row,
    recorded: Recorded,
    event: e.AttemptStarted | e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned | e.AttemptSettled,
) -> None:
    """Give the attempt its row or its outcome, and the task the state that follows."""
    before = changes.attempts.get(event.attempt)
    if isinstance(event, e.AttemptStarted):
        if before is None:
            changes.attempts[event.attempt] = rows.attempt(recorded, event)
            changes.attempts_started.append(event.attempt)
        if task["ended_at_ms"] is None:
            task |= _state("running") | {"worker": event.worker}
        return
    if before is None or (before["state"] != "running" and not isinstance(event, e.AttemptSettled)):
        return
    changes.attempts[event.attempt] = before | rows.outcome(before, recorded, event)
    changes.attempts_ended.append(event.attempt)
    if task["ended_at_ms"] is None and not isinstance(event, e.AttemptSettled):
        task |= _state("pending")


def _late(task: Row, before: State, event: e.AttemptSettled) -> Row:
    """Return what a settled attempt changes of a task: a late answer ends its wait, anything else is money only."""
    waits = isinstance(before, Waiting | Held) and not isinstance(evolve(before, event), Waiting | Held)
    return _state("pending") if waits and task["ended_at_ms"] is None else {}


def _decided(changes: Changes, recorded: Recorded, event: e.Event) -> Row:
    """Return what a decision changes of the task's row."""
    match event:
        case e.RetryScheduled():
            waiting_for = WAITING_FOR.get(event.rule, "backoff")
            return _state("waiting", waiting_for, event.not_before_ms, event.inputs.decided_at_ms)
        case e.FallbackSelected() | e.EscalationSelected():
            return _state("pending")
        case e.TaskReleased():
            return _state("pending") | {"worker": None}
        case e.TaskHeld():
            return _state("waiting", "person")
        case e.TaskSucceeded():
            accepted = None if event.accepted is None else int(event.accepted)
            return _end(changes, recorded, "succeeded", event.attempt) | {"accepted": accepted}
        case e.TaskFailed():
            return _end(changes, recorded, "failed", None) | {"error_type": event.error_type}
        case e.TaskCancelled():
            return _end(changes, recorded, "cancelled", None) | {"error_type": "cancelled"}
        case _:
            return {}


def _state(
    state: str, waiting_for: str | None = None, not_before_ms: int | None = None, waiting_since_ms: int | None = None
) -> Row:
    return {
        "state": state,
        "waiting_for": waiting_for,
        "not_before_ms": not_before_ms,
        "waiting_since_ms": waiting_since_ms,
    }


def _end(changes: Changes, recorded: Recorded, state: str, answering: int | None) -> Row:
    """Return the end; what is final is the attempt that answered, else the last."""
    last = max(changes.attempts, default=None)
    return _state(state) | {
        "ended_at_ms": recorded.recorded_at_ms,
        "attempt_final": answering if answering in changes.attempts else last,
    }
