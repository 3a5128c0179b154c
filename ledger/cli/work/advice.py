"""What became of a task in a line, and what to do next about one that has no answer."""

from __future__ import annotations

from typing import Final

from clients.base import ExecutionResult

__all__ = ["next_step", "outcome", "stopped_short"]

LACKING: Final = frozenset({"client_missing"})
"""What a look at this machine explains."""


def outcome(state: str, result: ExecutionResult) -> str:
    """Say how a task stands, and why where it has no answer."""
    if result.success:
        return state
    if result.error_type == "cancelled":
        return "was cancelled"
    return ": ".join(part for part in (state, result.error_type, result.error) if part)


def next_step(task_id: str, state: str, error_type: str | None) -> str:
    """Say which command goes on from here; "" where none does."""
    if state == "waiting":
        return f"`dispatch-ledger resume {task_id}` lets it go on, `dispatch-ledger cancel {task_id}` ends it"
    if state != "failed":
        return ""
    told = f"`dispatch-ledger show {task_id}` tells each try"
    if error_type in LACKING:
        return f"{told}; `dispatch-ledger doctor` says what this machine lacks"
    return told


def stopped_short(result: ExecutionResult) -> str:
    """Say that an answer is not whole; "" where it is."""
    if not result.success or result.finish_reason != "max_tokens":
        return ""
    return "the answer stops at its output limit, so it may not be whole: --max-tokens or retry.max_tokens allows more"
