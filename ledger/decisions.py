"""Making decision events: what each of them holds, and the two that move a task to its next attempt."""

from __future__ import annotations

from typing import Any

from ledger import events as e
from ledger.commands import Seen
from ledger.errors import CommandRefused
from ledger.parts import Answered, DecisionKind, Inputs
from ledger.policy import Policy, policy_hash
from ledger.state import Task

__all__ = ["handed_over", "made", "scheduled"]


def made(
    decision: DecisionKind, reason: str, rule: str, policy: Policy, outcome: Answered | None, seen: Seen
) -> dict[str, Any]:
    """Return what every decision event holds.

    Raises:
        CommandRefused: the draw is wider than the policy's jitter.
    """
    if abs(seen.jitter_ppm) > policy.jitter_ppm:
        raise CommandRefused(
            "bad_inputs", f"a draw of {seen.jitter_ppm} ppm is beyond the policy's {policy.jitter_ppm}"
        )
    pinned = policy_hash(policy)
    inputs = Inputs(
        decided_at_ms=seen.at_ms,
        jitter_ppm=seen.jitter_ppm,
        outcome=outcome,
        policy_hash=pinned,
        decider=seen.decider,
        brakes=seen.brakes,
        budgets=seen.budgets,
    )
    return {"decision": decision, "reason": reason, "rule": rule, "policy_hash": pinned, "inputs": inputs}


def scheduled(task: Task, wait_ms: int, seen: Seen, decision: dict[str, Any]) -> e.RetryScheduled:
    """Have the next attempt made on the task's step, after a wait."""
    return e.RetryScheduled(
        next_attempt=task.attempts + 1,
        purpose=task.purpose,
        step=task.step,
        tier=task.at.tier,
        wait_ms=wait_ms,
        not_before_ms=seen.at_ms + wait_ms,
        **decision,
    )


def handed_over(task: Task, to_step: int, decision: dict[str, Any]) -> e.FallbackSelected:
    """Have a later step take over."""
    return e.FallbackSelected(
        purpose=task.purpose,
        from_step=task.step,
        to_step=to_step,
        from_tier=task.at.tier,
        to_tier=task.steps[to_step - 1].tier,
        **decision,
    )
