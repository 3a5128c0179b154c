"""The rows of the projections, one function a kind: an event in, columns out. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from ledger import events as e
from ledger.canonical import INT64_MAX
from ledger.envelope import Recorded
from ledger.parts import Decision, Outcome, UsageRow

__all__ = [
    "OUTCOME",
    "SUBMITTED",
    "Row",
    "attempt",
    "decision",
    "final_attempt",
    "outcome",
    "task",
    "totals",
    "validation",
]

Row = dict[str, Any]

STRAIGHT: Final = (
    "latency_ms",
    "ttft_ms",
    "usage_source",
    "provider_requests",
    "cost_nano_usd",
    "exposure_nano_usd",
    "price_book",
    "finish_reason",
    "request_id",
)
"""Columns of ``attempts`` that bear the name of an outcome's field."""
COUNTED: Final = (
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
"""Columns of ``attempts`` that are sums over the usage's rows, under the same name."""
straight: Final = attrgetter(*STRAIGHT)
counted: Final = attrgetter(*COUNTED)
INPUTS: Final = ("input_uncached_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
ENDED: Final = ("response_model", "state", "error_type", "retryable", "status_code", "ended_at_ms")
OUTCOME: Final = (*ENDED, "tokens_input", "tokens_output", *COUNTED, *STRAIGHT)
"""The columns of ``attempts`` that an outcome sets; the others are set by the start, once."""

SUBMITTED: Final = (
    "task_id",
    "kind",
    "tier_requested",
    "created_at_ms",
    "idempotency_key",
    "replay_of",
    "judged_task_id",
)
"""The columns of ``tasks`` that are set by the submission, once."""
WAITS: Final = ("waiting_for", "not_before_ms", "waiting_since_ms")
FINAL: Final = ("tier_final", "model_final", "attempt_final", "accepted", "ended_at_ms", "error_type")
FIGURES: Final = ("attempts", "cost_nano_usd", "cost_known_nano_usd", "cost_unknown_attempts")
NOTHING_YET: Final[Row] = dict.fromkeys((*WAITS, *FINAL)) | dict.fromkeys(FIGURES, 0)
"""The columns of a task that was just submitted, as far as they are the same for all."""


def task(recorded: Recorded, event: e.TaskSubmitted) -> Row:
    """Return the row of a task that was just submitted."""
    return {
        **NOTHING_YET,
        "task_id": recorded.task_id,
        "kind": event.kind,
        "state": "pending",
        "worker": event.owner,
        "tier_requested": event.tier,
        "created_at_ms": recorded.recorded_at_ms,
        "idempotency_key": event.idempotency_key,
        "replay_of": event.replay_of,
        "judged_task_id": event.judged_task_id,
    }


def totals(attempts: Mapping[int, Mapping[str, Any]]) -> Row:
    """Return the figures of a task that are sums over its attempts; a running attempt's cost is unknown."""
    costs = [row["cost_nano_usd"] for row in attempts.values()]
    unknown = costs.count(None)
    known = _bounded(sum(cost for cost in costs if cost is not None))
    return {
        "attempts": len(attempts),
        "cost_nano_usd": None if unknown else known,
        "cost_known_nano_usd": known,
        "cost_unknown_attempts": unknown,
    }


def final_attempt(attempts: Mapping[int, Mapping[str, Any]], number: int) -> Row:
    """Return tier and model (served, else requested) of the attempt that stands for the whole task."""
    row = attempts[number]
    return {"tier_final": row["tier"], "model_final": row["response_model"] or row["request_model"]}


def attempt(recorded: Recorded, event: e.AttemptStarted) -> Row:
    """Return the row of an attempt that is about to call: unknown but for its bound."""
    return dict.fromkeys(OUTCOME) | {
        "task_id": recorded.task_id,
        "attempt": event.attempt,
        "purpose": event.purpose,
        "step": event.step,
        "tier": event.tier,
        "provider": event.provider,
        "request_model": event.request_model,
        "state": "running",
        "started_at_ms": recorded.recorded_at_ms,
        "usage_source": "unknown",
        "exposure_nano_usd": event.upper_bound_nano_usd,
        "worker": event.worker,
        "deadline_ms": event.deadline_ms,
    }


def outcome(
    before: Mapping[str, Any],
    recorded: Recorded,
    event: e.AttemptSucceeded | e.AttemptFailed | e.AttemptOrphaned | e.AttemptSettled,
) -> Row:
    """Return the ``OUTCOME`` columns after an attempt's end, or after its account was settled."""
    ended = dict.fromkeys(OUTCOME) | {"ended_at_ms": recorded.recorded_at_ms}
    match event:
        case e.AttemptSucceeded():
            return ended | _known(event) | {"state": "succeeded"}
        case e.AttemptFailed():
            failed = {name: getattr(event, name) for name in ("error_type", "status_code")}
            return ended | _known(event) | failed | {"state": "failed", "retryable": int(event.retryable)}
        case e.AttemptOrphaned():
            # Who calls a task off has not died: the cause is the better word there.
            error = "cancelled" if event.cause == "cancelled" else "worker_died"
            orphaned = {"state": "orphaned", "error_type": error, "usage_source": "unknown"}
            return ended | orphaned | {"exposure_nano_usd": event.exposure_nano_usd}
        case e.AttemptSettled():
            return _settled(before, event)


def _settled(before: Mapping[str, Any], event: e.AttemptSettled) -> Row:
    """Return what is known now: the account's figures, and where it is silent what was known before."""
    news = {name: value for name, value in _known(event).items() if value is not None}
    if event.usage_source == "unknown":
        del news["usage_source"]
    after = {name: before[name] for name in OUTCOME} | news | {"state": "settled"}
    if after["cost_nano_usd"] is not None:
        # A cost from a bill is of no book, and what the bound was made with says nothing any more.
        after |= {"exposure_nano_usd": event.exposure_nano_usd, "price_book": event.price_book}
    if event.outcome == "succeeded":
        return after | {"error_type": None, "retryable": None, "status_code": None}
    return after | {
        "error_type": event.error_type or before["error_type"],
        "status_code": before["status_code"] if event.status_code is None else event.status_code,
    }


def _known(event: Outcome) -> Row:
    usage = event.usage
    return {
        "response_model": event.served_model,
        "tokens_input": _tokens_input(usage),
        "tokens_output": _sum([row.output_tokens for row in usage]),
        **dict.fromkeys(COUNTED),
        **dict(zip(COUNTED, map(_sum, zip(*map(counted, usage), strict=True)), strict=bool(usage))),
        **dict(zip(STRAIGHT, straight(event), strict=True)),
    }


def _tokens_input(usage: tuple[UsageRow, ...]) -> int | None:
    """Add up all input; a count of the cache that is unknown adds nothing, an unknown rest makes all unknown."""
    if not usage or any(row.input_uncached_tokens is None for row in usage):
        return None
    return _bounded(sum(getattr(row, name) or 0 for row in usage for name in INPUTS))


def _sum(counts: Sequence[int | None]) -> int | None:
    """Add up; unknown when there is nothing to add or any part is unknown."""
    if not counts or None in counts:
        return None
    return counts[0] if len(counts) == 1 else _bounded(sum(filter(None, counts)))


def _bounded(total: int) -> int:
    """Keep a sum within the column: every part fits in 64 bits, their sum need not."""
    return min(total, INT64_MAX)


def decision(recorded: Recorded, event: Decision) -> Row:
    """Return the row of a decision."""
    tier_from, tier_to = _tiers(event)
    return {
        "task_id": recorded.task_id,
        "version": recorded.version,
        "decision": event.decision,
        "tier_from": tier_from,
        "tier_to": tier_to,
        "reason": event.reason,
        "not_before_ms": event.not_before_ms if isinstance(event, e.RetryScheduled) else None,
        "policy_hash": event.policy_hash,
        "recorded_at_ms": recorded.recorded_at_ms,
    }


def _tiers(event: Decision) -> tuple[str | None, str | None]:
    match event:
        case e.TaskSubmitted():
            return None, event.tier
        case e.RetryScheduled():
            return event.tier, event.tier
        case e.FallbackSelected() | e.EscalationSelected():
            return event.from_tier, event.to_tier
        case (
            e.BudgetRefused() | e.TaskHeld() | e.TaskReleased() | e.TaskSucceeded() | e.TaskFailed() | e.TaskCancelled()
        ):
            return event.tier, None
        case _:
            return None, None


def validation(
    recorded: Recorded,
    event: e.ValidationPassed | e.ValidationFailed | e.ValidationErrored,
    judge: Mapping[str, Any],
) -> Row:
    """Return the row of a judgement; ``judge`` is the row of the task whose stream holds it."""
    row = {
        "task_id": recorded.task_id if judge["kind"] == "generation" else judge["judged_task_id"],
        "judge_task_id": recorded.task_id,
        "version": recorded.version,
        "judged_attempt": event.judged_attempt,
        "judge_attempt": event.judge_attempt,
        "recorded_at_ms": recorded.recorded_at_ms,
    }
    if isinstance(event, e.ValidationErrored):
        return row | {"pass": 0, "confidence": None, "escalate": 1, "error_type": event.error_type}
    return row | {
        "pass": int(isinstance(event, e.ValidationPassed)),
        "confidence": event.confidence_thousandths / 1000,
        "escalate": int(event.escalate),
        "error_type": None,
    }
