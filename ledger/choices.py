"""What follows an outcome: retry, fallback, escalation, hold or the end. Version 1 of the rules."""

from __future__ import annotations

from typing import Literal

from ledger import events as e
from ledger.commands import Seen
from ledger.decisions import handed_over, made, scheduled
from ledger.evolve import evolve
from ledger.policy import ErrorClass, ErrorType, backoff_ms, error_class
from ledger.state import Given, Task, Undecided

__all__ = ["choose"]

EndKind = Literal["fail_fast", "exhausted"]


def choose(state: Undecided, seen: Seen) -> tuple[e.Event, ...]:
    """Return the decision that the newest outcome leads to, with the facts it implies."""
    outcome = state.outcome
    match outcome.event:
        case "attempt.succeeded" | "attempt.settled":
            return _answered(state, seen)
        case "attempt.orphaned":
            return _orphaned(state, seen)
        case "attempt.failed" if outcome.error_type == "interrupted":
            return _unless_spent(state, seen, "interrupted", 0, "interrupted")
        case "attempt.failed":
            return _failed(state, seen)
        case "validation.passed" | "validation.failed" | "validation.errored":
            return _judged(state, seen)
        case "budget.refused":
            return _end(state, seen, "fail_fast", "budget_refused", ErrorClass.END)


def _answered(state: Undecided, seen: Seen) -> tuple[e.Event, ...]:
    """End with the answer; a judge's is none until its verdict is read, and what could not be judged is no pass."""
    if state.task.purpose == "validate":
        return ()
    if state.task.submitted.judge:
        return (_succeeded(state, seen, "answered", "attempts_spent", accepted=False),)
    return (_succeeded(state, seen, "answered", "answered", accepted=None),)


def _orphaned(state: Undecided, seen: Seen) -> tuple[e.Event, ...]:
    task, policy = state.task, state.task.submitted.policy
    if task.orphans > policy.max_orphans:
        return _end(state, seen, "fail_fast", "worker_died", "orphans_in_a_row")
    match policy.on_unknown:
        case "retry":
            return _unless_spent(state, seen, "orphaned", 0, "on_unknown_retry")
        case "hold" if task.spent:
            return _end(state, seen, "exhausted", "worker_died", "attempts_spent")
        case "hold":
            decision = made("hold", "orphaned", "on_unknown_hold", policy, state.outcome, seen)
            return (e.TaskHeld(tier=task.at.tier, **decision),)
        case "fail":
            return _end(state, seen, "fail_fast", "worker_died", "on_unknown_fail")


def _failed(state: Undecided, seen: Seen) -> tuple[e.Event, ...]:
    task, policy = state.task, state.task.submitted.policy
    error = state.outcome.error_type or "other"
    worth = error_class(error, policy)
    if worth is ErrorClass.END:
        return _end(state, seen, "fail_fast", error, worth)
    if worth is ErrorClass.FALLBACK:
        return _onwards(state, seen, "fail_fast", worth)
    if worth is ErrorClass.RETRY_ONCE and _second_chance_spent(task):
        return _onwards(state, seen, "exhausted", "second_chance_spent")
    if not state.retryable:
        return _onwards(state, seen, "fail_fast", "provider_said_no")
    if (state.retry_after_ms or 0) > policy.retry_after_max_ms:
        return _onwards(state, seen, "exhausted", "retry_after_too_long")
    if task.tries >= task.at.tries:
        return _onwards(state, seen, "exhausted", "tries_spent")
    wait = max(backoff_ms(policy, task.tries, seen.jitter_ppm), state.retry_after_ms or 0)
    return _unless_spent(state, seen, error, wait, worth)


def _second_chance_spent(task: Task) -> bool:
    """Say whether an error worth one more try, this one apart, has had it on this step."""
    policy = task.submitted.policy
    return sum(error_class(error, policy) is ErrorClass.RETRY_ONCE for error in task.errors) > 1


def _unless_spent(state: Undecided, seen: Seen, reason: str, wait_ms: int, rule: str) -> tuple[e.Event, ...]:
    """Schedule the next attempt on this step, unless the task's attempts are spent."""
    task = state.task
    if task.spent:
        return _end(state, seen, "exhausted", state.outcome.error_type or "worker_died", "attempts_spent")
    return (scheduled(task, wait_ms, seen, made("retry", reason, rule, task.submitted.policy, state.outcome, seen)),)


def _onwards(state: Undecided, seen: Seen, otherwise: EndKind, rule: str) -> tuple[e.Event, ...]:
    """Go to the next step; where there is none, end."""
    task = state.task
    error = state.outcome.error_type or "other"
    to_step = task.next_step
    if to_step is None:
        return _end(state, seen, otherwise, error, rule)
    if task.spent:
        return _end(state, seen, "exhausted", error, "attempts_spent")
    return (handed_over(task, to_step, made("fallback", error, rule, task.submitted.policy, state.outcome, seen)),)


def _end(state: Undecided, seen: Seen, kind: EndKind, error: ErrorType, rule: str) -> tuple[e.Event, ...]:
    """End what failed: a judge's failure is an errored validation, an escalation's leaves the earlier answer."""
    task, submitted = state.task, state.task.submitted
    if task.purpose == "validate":
        errored = e.ValidationErrored(
            judged_task_id=submitted.judged_task_id,
            judged_attempt=task.judged_attempt,
            judge_attempt=state.outcome.attempt,
            error_type=error,
        )
        after = evolve(state, errored)
        return (errored, *choose(after, seen)) if isinstance(after, Undecided) else (errored,)
    if task.answer is not None:
        return (_succeeded(state, seen, error, rule, accepted=False),)
    return (_task_failed(state, seen, kind, error, rule),)


def _judged(state: Undecided, seen: Seen) -> tuple[e.Event, ...]:
    """Accept, escalate or end; an errored validation is never a pass, and no verdict to climb by."""
    task, outcome = state.task, state.outcome
    if task.submitted.kind == "validation":
        if outcome.event != "validation.errored":
            reason = "judged" if outcome.attempt is not None else "person"
            return (_succeeded(state, seen, reason, "judged", accepted=state.passed),)
        error = outcome.error_type or "other"
        ends = error_class(error, task.submitted.policy) in (ErrorClass.END, ErrorClass.FALLBACK)
        return (_task_failed(state, seen, "fail_fast" if ends else "exhausted", error, "no_verdict"),)
    if outcome.event == "validation.errored":
        return (_succeeded(state, seen, outcome.error_type or "other", "no_verdict", accepted=False),)
    if state.passed:
        return (_succeeded(state, seen, "judged", "passed", accepted=True),)
    rung = None if task.answer is None else _next_rung(task, task.answer)
    if task.answer is None or rung is None or not state.escalate or task.spent:
        rule = "not_escalated" if not state.escalate else "ladder_ended" if rung is None else "attempts_spent"
        return (_succeeded(state, seen, "judged", rule, accepted=False),)
    return (_escalated(state, seen, task.answer, rung),)


def _escalated(state: Undecided, seen: Seen, answer: Given, rung: int) -> e.EscalationSelected:
    submitted = state.task.submitted
    steps = submitted.route + submitted.ladder
    decision = made("escalate", state.outcome.event, "next_rung", submitted.policy, state.outcome, seen)
    return e.EscalationSelected(
        from_step=answer.step,
        to_step=rung,
        from_tier=steps[answer.step - 1].tier,
        to_tier=steps[rung - 1].tier,
        judged_attempt=answer.attempt,
        judge_attempt=state.outcome.attempt,
        **decision,
    )


def _next_rung(task: Task, answer: Given) -> int | None:
    """Return the step above the one that answered: the next rung, that after its own tier's, or the lowest."""
    submitted = task.submitted
    if answer.step > len(submitted.route):
        return answer.step + 1 if answer.step < len(submitted.route + submitted.ladder) else None
    here = submitted.route[answer.step - 1].tier
    tiers = [step.tier for step in submitted.ladder]
    # A fallback may lead to pro, which stands beside haiku where it is no rung itself.
    here = "haiku" if here == "pro" and "pro" not in tiers else here
    above = tiers.index(here) + 1 if here in tiers else 0
    return len(submitted.route) + above + 1 if above < len(tiers) else None


def _succeeded(state: Undecided, seen: Seen, reason: str, rule: str, *, accepted: bool | None) -> e.TaskSucceeded:
    """End with the newest answer; a validation's is its judge's, or none where a person judged."""
    task, submitted = state.task, state.task.submitted
    decision = made("succeed", reason, rule, submitted.policy, state.outcome, seen)
    if task.answer is None:
        tier = task.at.tier if task.steps else submitted.tier
        return e.TaskSucceeded(tier=tier, attempt=state.outcome.attempt, accepted=accepted, **decision)
    tier = (submitted.route + submitted.ladder)[task.answer.step - 1].tier
    return e.TaskSucceeded(tier=tier, attempt=task.answer.attempt, accepted=accepted, **decision)


def _task_failed(state: Undecided, seen: Seen, kind: EndKind, error: ErrorType, rule: str) -> e.TaskFailed:
    decision = made(kind, error, rule, state.task.submitted.policy, state.outcome, seen)
    return e.TaskFailed(tier=state.task.at.tier, attempt=state.outcome.attempt, error_type=error, **decision)
