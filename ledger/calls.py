"""How calls to a provider's model ended, as far as its breaker counts them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ledger import events as e
from ledger.envelope import Stream
from ledger.policy import ErrorType

__all__ = ["ANSWERS", "FAILURES", "Call", "calls", "resets"]

FAILURES: Final[frozenset[str | None]] = frozenset({"rate_limited", "overloaded", "timeout", "connection", "api_error"})
"""Errors that a broken or busy provider gives: those worth another try."""
ANSWERS: Final[frozenset[str | None]] = frozenset({None, "output_invalid", "truncated", "content_refused"})
"""Ends that only a working provider gives: a success, and an answer that was not wanted so. All others say nothing."""


class Call(NamedTuple):
    """How an attempt ended, as its task's stream tells it."""

    event_id: str
    task_id: str
    attempt: int
    started: int
    """The position of its start."""
    ended: int
    """The position of its end."""
    error_type: ErrorType | None
    asked_ms: int | None
    """How long a 429 asked to be left alone, at most what the task's policy waits."""


def calls(stream: Stream, provider: str, model: str) -> tuple[Call, ...]:
    """Return the calls of a task's stream to a provider's model that succeeded or failed, in their order."""
    starts: dict[int, int] = {}
    found: list[Call] = []
    most_ms = 0
    for recorded in stream:
        match recorded.event():
            case e.TaskSubmitted() as submitted:
                most_ms = submitted.policy.retry_after_max_ms
            case e.AttemptStarted() as started if (started.provider, started.request_model) == (provider, model):
                starts[started.attempt] = recorded.position
            case e.AttemptSucceeded() as ended if ended.attempt in starts:
                place = (ended.attempt, starts.pop(ended.attempt), recorded.position)
                found.append(Call(recorded.event_id, recorded.task_id, *place, None, None))
            case e.AttemptFailed() as ended if ended.attempt in starts:
                place = (ended.attempt, starts.pop(ended.attempt), recorded.position)
                asked_ms = min(ended.retry_after_ms or 0, most_ms) if ended.error_type == "rate_limited" else 0
                found.append(Call(recorded.event_id, recorded.task_id, *place, ended.error_type, asked_ms or None))
            case _:
                pass
    return tuple(found)


def resets(row: Mapping[str, Any]) -> bool:
    """Say whether an ended attempt, a row of ``attempts``, ends a run of failures; orphans and interrupts do not."""
    return row["state"] in ("succeeded", "failed") and row["error_type"] in ANSWERS
