"""The rules about a person's verdict: recorded whole or not at all, and asked again with the same answer."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import commands as c
from ledger import events as e
from ledger.dispatch import decide
from ledger.errors import CommandRefused
from ledger.evolve import fold
from ledger.questions import question
from ledger.state import INITIAL, Ended
from tests.histories import seen, validation

ASKED = validation(judge=(), tier="haiku", judged_task_id="t", judged_attempt=3)


def verdict(**changes: Any) -> e.ValidationFailed:
    """Find the third attempt of task t wanting."""
    fields = {"judged_task_id": "t", "judged_attempt": 3, "judge_attempt": None, "issues": 0, "issues_digest": None}
    return e.ValidationFailed.model_validate({**fields, "confidence_thousandths": 1000, "escalate": False, **changes})


def test_a_verdict_is_a_whole_task() -> None:
    """Submitted, judged and ended at once, without an attempt; every decision is derived again."""
    submitted, said, end = events = decide(INITIAL, c.Submit(ASKED, seen(), verdict()))
    assert isinstance(end, e.TaskSucceeded)
    assert ("haiku", None, False, "person", "judged") == (end.tier, end.attempt, end.accepted, end.reason, end.rule)
    assert isinstance(submitted, e.TaskSubmitted)
    assert submitted == decide(INITIAL, question(submitted))[0]
    assert (end,) == decide(fold((submitted, said)), question(end))
    state = fold(events)
    assert isinstance(state, Ended)
    assert () == decide(state, c.Cancel(seen())) == decide(state, c.Submit(ASKED, seen(), verdict()))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        pytest.param(ASKED, verdict(judged_attempt=2), id="about another attempt"),
        pytest.param(ASKED, verdict(judged_task_id="u"), id="about another task"),
        pytest.param(ASKED, verdict(judge_attempt=1), id="a judge's call"),
        pytest.param(validation(judged_task_id="t", judged_attempt=3), verdict(), id="where a judge is asked"),
        pytest.param(validation(judge=(), tier="haiku"), verdict(), id="about nothing"),
    ],
)
def test_a_verdict_that_does_not_fit_is_refused(asked: e.TaskRequest, said: e.ValidationFailed) -> None:
    """Nothing follows from it."""
    with pytest.raises(CommandRefused):
        decide(INITIAL, c.Submit(asked, seen(), said))


def test_nothing_is_decided_before_the_verdict() -> None:
    """A task without steps that is not ended cannot be called for, cancelled or let go: it never stands so."""
    state = fold(decide(INITIAL, c.Submit(ASKED, seen())))
    with pytest.raises(CommandRefused):
        decide(state, c.Cancel(seen()))
