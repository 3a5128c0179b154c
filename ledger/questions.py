"""From a recorded decision back to the command that it answered, with all that was seen then."""

from __future__ import annotations

from typing import Final

from ledger import commands as c
from ledger import events as e
from ledger.obstacles import BRAKED, BUDGET
from ledger.parts import Decision, Inputs, TaskRequest

__all__ = ["asked_for", "question", "seen_in"]

REQUEST: Final = tuple(TaskRequest.model_fields)


def seen_in(inputs: Inputs) -> c.Seen:
    """Return what a recorded decision had seen."""
    return c.Seen(
        at_ms=inputs.decided_at_ms,
        jitter_ppm=inputs.jitter_ppm,
        decider=inputs.decider,
        brakes=inputs.brakes,
        budgets=inputs.budgets,
    )


def asked_for(submitted: e.TaskSubmitted) -> TaskRequest:
    """Return the request that a task was submitted with."""
    fields = vars(submitted)
    return TaskRequest.model_validate({name: fields[name] for name in REQUEST})


def question(event: Decision) -> c.Command:
    """Put the question that this event answered; to a recorded outcome, what follows from it."""
    seen = seen_in(event.inputs)
    match event:
        case e.FallbackSelected() | e.RetryScheduled() if event.rule == BRAKED:
            return c.Brake(seen)
        case e.BudgetRefused():
            return c.Budget(seen)
        case e.RetryScheduled() if event.rule == BUDGET:
            return c.Budget(seen)
        case e.TaskSubmitted():
            return c.Submit(asked_for(event), seen)
        case e.TaskReleased():
            return c.Release(seen)
        case e.TaskCancelled():
            return c.Cancel(seen)
        case _:
            return c.Choose(seen)
