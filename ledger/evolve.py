"""``evolve`` and ``fold``: from events to a state. Total, since history cannot be refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from ledger import events as e
from ledger.parts import Answered
from ledger.policy import ErrorClass, Purpose, error_class
from ledger.state import INITIAL, Absent, Ended, Given, Held, Loose, Ready, Running, State, Task, Undecided, Waiting

__all__ = ["evolve", "fold"]


def fold(events: Iterable[e.Event], state: State = INITIAL) -> State:
    """Return the state after ``events``."""
    return reduce(evolve, events, state)


def evolve(state: State, event: e.Event) -> State:
    """Return the state after one more event; an event that says nothing about this state leaves it as it is."""
    if isinstance(state, Absent):
        return _submitted(event) if isinstance(event, e.TaskSubmitted) else state
    if isinstance(event, e.AttemptSettled):
        return _settled(state, event)
    if isinstance(state, Ended):
        return state
    task = state.task
    match event:
        case e.AttemptStarted():
            return Running(replace(task, attempts=event.attempt, fence=event.fence, worker=event.worker), event)
        case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned():
            if isinstance(state, Running) and state.started.attempt == event.attempt:
                return _ended_attempt(task, state.started.purpose, event)
            return state
        case e.ValidationPassed() | e.ValidationFailed() | e.ValidationErrored():
            return _judged(task, event)
        case e.RetryScheduled():
            return Waiting(task, event.not_before_ms, event.inputs.decided_at_ms)
        case e.FallbackSelected():
            return Ready(_moved(task, event.purpose, event.to_step))
        case e.EscalationSelected():
            return Ready(_moved(task, "generate", event.to_step))
        case e.TaskHeld():
            return Held(task)
        case e.TaskReleased():
            return Ready(task)
        case e.TaskSucceeded() | e.TaskFailed() | e.TaskCancelled():
            return Ended(task, event)
        case _:
            return state


def _submitted(event: e.TaskSubmitted) -> State:
    return Ready(Task(submitted=event, purpose="validate" if event.kind == "validation" else "generate", step=1))


def _moved(task: Task, purpose: Purpose, step: int) -> Task:
    return replace(task, purpose=purpose, step=step, tries=0, second_chance_spent=False)


def _ended_attempt(
    task: Task,
    purpose: Purpose,
    event: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned,
) -> State:
    """Count the attempt as what it was, and leave the choice to ``decide``."""
    if isinstance(event, e.AttemptOrphaned) or event.cost_nano_usd is None:
        loose = Loose(event.attempt, purpose, task.step, isinstance(event, e.AttemptOrphaned))
        task = replace(task, loose=(*task.loose, loose))
    match event:
        case e.AttemptOrphaned():
            answered = Answered(event="attempt.orphaned", attempt=event.attempt, error_type=None)
            return Undecided(replace(task, orphans=task.orphans + 1), answered)
        case e.AttemptFailed():
            answered = Answered(event="attempt.failed", attempt=event.attempt, error_type=event.error_type)
            if event.error_type == "interrupted":
                return Undecided(task, answered)
            once = error_class(event.error_type, task.submitted.policy) is ErrorClass.RETRY_ONCE
            spent = task.second_chance_spent
            task = replace(task, tries=task.tries + 1, orphans=0, second_chance_spent=spent or once)
            return Undecided(task, answered, event.retryable, once and spent, event.retry_after_ms)
        case e.AttemptSucceeded():
            task = replace(task, tries=task.tries + 1, orphans=0)
            answered = Answered(event="attempt.succeeded", attempt=event.attempt, error_type=None)
            return Undecided(task, answered) if purpose == "validate" else _answered(task, task.step, answered)


def _answered(task: Task, step: int, outcome: Answered) -> State:
    """Go on to the judge where there is one."""
    if outcome.attempt is not None:
        task = replace(task, answer=Given(outcome.attempt, step))
    if task.submitted.judge:
        return Ready(_moved(task, "validate", 1))
    return Undecided(task, outcome)


def _judged(task: Task, event: e.ValidationPassed | e.ValidationFailed | e.ValidationErrored) -> State:
    match event:
        case e.ValidationPassed():
            answered = Answered(event="validation.passed", attempt=event.judge_attempt, error_type=None)
            return Undecided(task, answered, passed=True)
        case e.ValidationFailed():
            answered = Answered(event="validation.failed", attempt=event.judge_attempt, error_type=None)
            return Undecided(task, answered, passed=False, escalate=event.escalate)
        case e.ValidationErrored():
            answered = Answered(event="validation.errored", attempt=event.judge_attempt, error_type=event.error_type)
            return Undecided(task, answered, escalate=True)


def _settled(state: Ready | Running | Undecided | Waiting | Held | Ended, event: e.AttemptSettled) -> State:
    """Close the attempt's account; a late answer is used while the task waits for one."""
    loose = state.task.loose_end(event.attempt)
    if loose is None:
        return state
    task = replace(state.task, loose=tuple(other for other in state.task.loose if other != loose))
    wanted = loose.orphaned and event.outcome == "succeeded" and loose.purpose == task.purpose == "generate"
    if wanted and isinstance(state, Ready | Waiting | Held):
        return _answered(task, loose.step, Answered(event="attempt.settled", attempt=event.attempt, error_type=None))
    return replace(state, task=task)
