"""``evolve`` and ``fold``: from events to a state. Total, since history cannot be refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Final

from ledger import events as e
from ledger.parts import Answered, Fact
from ledger.policy import ErrorType, Purpose
from ledger.state import INITIAL, Absent, Ended, Given, Held, Loose, Ready, Running, State, Task, Undecided, Waiting

__all__ = ["evolve", "fold"]

Known = Ready | Running | Undecided | Waiting | Held | Ended


FACTS: Final = 256


@lru_cache(FACTS)
def _fact(event: Fact, attempt: int | None, error_type: ErrorType | None) -> Answered:
    """Return the fact that a decision is to answer; there are few different ones, and each is frozen."""
    return Answered(event=event, attempt=attempt, error_type=error_type)


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
            return Running(_claimed(task, event), event)
        case e.TaskSucceeded() | e.TaskFailed() | e.TaskCancelled():
            return Ended(task, event)
        case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptOrphaned():
            if isinstance(state, Running) and state.started.attempt == event.attempt:
                return _ended_attempt(task, state.started.purpose, event)
            return state
        case e.ValidationPassed() | e.ValidationFailed() | e.ValidationErrored():
            return _judged(task, event)
        case e.RetryScheduled():
            return Waiting(task, event.not_before_ms, event.inputs.decided_at_ms)
        case e.FallbackSelected():
            return _moved(state, event.purpose, event.to_step)
        case e.EscalationSelected():
            return _moved(state, "generate", event.to_step)
        case e.BudgetRefused():
            return Undecided(task, _fact("budget.refused", None, "budget_refused"))
        case e.TaskHeld():
            return Held(task)
        case e.TaskReleased():
            return Ready(task._replace(owner=None))
        case _:
            return state


def _submitted(event: e.TaskSubmitted) -> State:
    purpose: Purpose = "validate" if event.kind == "validation" else "generate"
    return Ready(Task(submitted=event, purpose=purpose, step=1, owner=event.owner))


def _claimed(task: Task, event: e.AttemptStarted) -> Task:
    return task._replace(
        attempts=event.attempt, made=task.made + 1, fence=event.fence, worker=event.worker, owner=event.worker
    )


def _moved(state: Known, purpose: Purpose, step: int) -> State:
    """Go to a step with nothing tried there; one that is not on the map leads nowhere."""
    moved = state.task._replace(purpose=purpose, step=step, tries=0, errors=(), made=0)
    return Ready(moved) if step <= len(moved.steps) else state


def _ended_attempt(
    task: Task,
    purpose: Purpose,
    event: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned,
) -> State:
    """Count the attempt as what it was, and leave the choice to ``decide``."""
    loose = task.loose
    if isinstance(event, e.AttemptOrphaned) or event.cost_nano_usd is None:
        loose = (*loose, Loose(event.attempt, purpose, task.step, isinstance(event, e.AttemptOrphaned)))
    match event:
        case e.AttemptOrphaned():
            answered = _fact("attempt.orphaned", event.attempt, None)
            return _or_late(Undecided(task._replace(orphans=task.orphans + 1, loose=loose), answered))
        case e.AttemptFailed():
            answered = _fact("attempt.failed", event.attempt, event.error_type)
            if event.error_type == "interrupted":
                task = task._replace(loose=loose)
            else:
                errors = (*task.errors, event.error_type)
                task = task._replace(tries=task.tries + 1, errors=errors, orphans=0, loose=loose)
            return _or_late(Undecided(task, answered, event.retryable, event.retry_after_ms))
        case e.AttemptSucceeded():
            task = task._replace(tries=task.tries + 1, orphans=0, late=None, loose=loose)
            answered = _fact("attempt.succeeded", event.attempt, None)
            return Undecided(task, answered) if purpose == "validate" else _answered(task, task.step, answered)


def _or_late(state: Undecided) -> State:
    """Use a late answer that came while this attempt, which gave none, was running."""
    late = state.task.late
    if late is None:
        return state
    answered = _fact("attempt.settled", late.attempt, None)
    return _answered(state.task._replace(late=None), late.step, answered)


def _answered(task: Task, step: int, outcome: Answered) -> State:
    """Go on to the judge where there is one, and an attempt left to ask with."""
    if outcome.attempt is not None:
        task = task._replace(answer=Given(outcome.attempt, step))
    undecided = Undecided(task, outcome)
    return _moved(undecided, "validate", 1) if task.submitted.judge and not task.spent else undecided


def _judged(task: Task, event: e.ValidationPassed | e.ValidationFailed | e.ValidationErrored) -> State:
    match event:
        case e.ValidationPassed():
            answered = _fact("validation.passed", event.judge_attempt, None)
            return Undecided(task, answered, passed=True)
        case e.ValidationFailed():
            answered = _fact("validation.failed", event.judge_attempt, None)
            return Undecided(task, answered, passed=False, escalate=event.escalate)
        case e.ValidationErrored():
            answered = _fact("validation.errored", event.judge_attempt, event.error_type)
            return Undecided(task, answered)


def _settled(state: Known, event: e.AttemptSettled) -> State:
    """Close the attempt's account, unless its cost is still to come; use a late answer while the task waits for one."""
    loose = state.task.loose_end(event.attempt)
    if loose is None:
        return state
    open_still = (loose._replace(orphaned=False),) if event.via == "late" and event.cost_nano_usd is None else ()
    task = state.task._replace(loose=(*(other for other in state.task.loose if other != loose), *open_still))
    answers = loose.orphaned and event.outcome == "succeeded" and event.response_digest is not None
    wanted = loose.purpose == task.purpose == "generate" and (task.answer is None or loose.step == task.step)
    if isinstance(state, Ended):
        return replace(state, task=task)
    if event.via == "late" and event.error_type != "interrupted":
        task = task._replace(orphans=0)
    if answers and wanted and isinstance(state, Running):
        return replace(state, task=task._replace(late=Given(event.attempt, loose.step)))
    if answers and wanted and isinstance(state, Ready | Waiting | Held):
        return _answered(task, loose.step, _fact("attempt.settled", event.attempt, None))
    return replace(state, task=task)
