"""What may keep a task off its next attempt: an open breaker, a cap on spending. Neither spends an attempt or a try."""

from __future__ import annotations

from typing import Final

from ledger import events as e
from ledger.choices import choose
from ledger.commands import Seen
from ledger.decisions import handed_over, made, scheduled
from ledger.evolve import evolve
from ledger.policy import Step
from ledger.state import Ready, Task, Undecided, Waiting

__all__ = ["BRAKED", "BUDGET", "answer_brake", "answer_budget"]

BRAKED: Final = "breaker_open"
"""The reason and the rule of a decision that answers no outcome but a breaker that was seen."""
BUDGET: Final = "budget"
"""The reason and the rule of a wait for what running attempts have reserved."""
BUDGET_WAIT_MS: Final = 1_000
"""How long that wait is recorded for; who waits looks again after it without recording anything."""

Obstructed = Ready | Waiting | None
"""The state of a task that is about to make an attempt; None where it is not."""


def answer_brake(state: Obstructed, seen: Seen) -> tuple[e.Event, ...]:
    """Keep the task off its step, if it was about to make its first attempt there."""
    return () if state is None or state.task.made else _kept_off(state.task, seen)


def _kept_off(task: Task, seen: Seen) -> tuple[e.Event, ...]:
    """Return what an open breaker of the task's step leads to: the next step that none was seen of, else a wait."""
    until_ms = _braked(task.at, seen)
    if until_ms is None:
        return ()
    steps = range(task.step + 1, task.last_step + 1)
    to_step = next((step for step in steps if _braked(task.steps[step - 1], seen) is None), None)
    decision = made("retry" if to_step is None else "fallback", BRAKED, BRAKED, task.submitted.policy, None, seen)
    if to_step is None:
        return (scheduled(task, until_ms - seen.at_ms, seen, decision),)
    return (handed_over(task, to_step, decision),)


def _braked(step: Step, seen: Seen) -> int | None:
    """Return until when a step's provider and model are left alone; None where nothing that was seen says so."""
    mine = (brake for brake in seen.brakes if (brake.provider, brake.model) == (step.provider, step.model))
    return max((brake.until_ms for brake in mine if brake.until_ms > seen.at_ms), default=None)


def answer_budget(state: Obstructed, seen: Seen) -> tuple[e.Event, ...]:
    """Answer the caps that the next attempt does not fit under: it is refused, or waits for what is reserved."""
    if state is None:
        return ()
    task, policy = state.task, state.task.submitted.policy
    refusing = next((budget for budget in seen.budgets if budget.refuses), None)
    if refusing is not None:
        rule = "unpriced" if refusing.asked is None else "unknown_spend" if refusing.unknown is None else "cap"
        decision = made("refused", "budget_refused", rule, policy, None, seen)
        refused = e.BudgetRefused(cap=refusing.cap, step=task.step, tier=task.at.tier, **decision)
        after = evolve(state, refused)
        return (refused, *choose(after, seen)) if isinstance(after, Undecided) else (refused,)
    if all(budget.fits for budget in seen.budgets):
        return ()
    return (scheduled(task, BUDGET_WAIT_MS, seen, made("retry", BUDGET, BUDGET, policy, None, seen)),)
