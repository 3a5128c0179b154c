"""Asking ``decide`` again: the events before a decision and its recorded inputs must give the recorded bytes."""

from __future__ import annotations

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.errors import CommandRefused
from ledger.parts import Decision, Judgement, Verdict
from ledger.questions import question
from ledger.state import Ready, State, Undecided

__all__ = ["asked_again", "may_not_start", "misplaced"]


def asked_again(state: State, event: e.Event) -> str | None:
    """Return what is wrong with a decision taken in ``state``; None when it would be taken again, byte for byte.

    An event that is no decision is never wrong here.
    """
    if not isinstance(event, Decision):
        return None
    try:
        answer = decide(state, question(event))
    except (CommandRefused, ValueError) as refused:  # ValueError: an instant so late that no wait can be added to it
        return f"decide refuses what {event.TYPE} says was decided: {refused}"
    if not answer:
        return f"decide sees nothing to decide where {event.TYPE} stands"
    if answer[0].TYPE != event.TYPE:
        return f"decide answers {answer[0].TYPE}, the ledger has {event.TYPE}"
    if answer[0] != event and answer[0].data() != event.data():  # equal events have equal bytes, and compare faster
        ours, theirs = answer[0].model_dump(), event.model_dump()
        fields = sorted(name for name in ours if ours[name] != theirs[name])
        return f"decide answers {event.TYPE} with another {', '.join(fields)}"
    return None


def misplaced(state: State, judgement: Judgement) -> str | None:
    """Return why such a judgement could not stand in ``state``; None when it could."""
    if isinstance(state, Undecided) and state.passed is None and state.task.purpose == "validate":
        expected = state.outcome.attempt, state.task.submitted.judged_task_id, state.task.judged_attempt
    elif isinstance(state, Ready) and not state.task.steps and isinstance(judgement, Verdict):  # a person's
        expected = None, state.task.submitted.judged_task_id, state.task.judged_attempt
    else:
        return "a judgement stands where nothing was to be judged"
    actual = judgement.judge_attempt, judgement.judged_task_id, judgement.judged_attempt
    if actual == expected:
        return None
    said = "judged by attempt {}, of task {}, attempt {}".format
    return f"it says {said(*actual)}; what was judged is {said(*expected)}"


def may_not_start(state: State, started: e.AttemptStarted, at_ms: int) -> str | None:
    """Return why this attempt could not start in ``state``; None when it could, or when only the clock says no."""
    try:
        decide(state, c.Start(started, at_ms))
    except CommandRefused as refused:
        # The instant of the start is not recorded, and clocks are set back: whether it was due cannot be told.
        return None if refused.why == "not_due" else f"attempt {started.attempt} started where none may: {refused}"
    return None
