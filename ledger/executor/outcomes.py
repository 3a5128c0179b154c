"""From a client's result to the event that records it; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from clients.base import ErrorType, ExecutionResult, Usage
from clients.judging import Verdict, VerdictInvalid, read_verdict
from ledger import events as e
from ledger.canonical import salted_digest
from ledger.envelope import Payload
from ledger.executor.ports import Ports
from ledger.parts import UsageRow
from ledger.policy import ErrorClass, Policy, error_class

__all__ = ["Ended", "ended", "failure"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended: its event, the verdict if it was a judge's, and the texts behind their digests."""

    outcome: e.AttemptSucceeded | e.AttemptFailed
    verdict: e.ValidationPassed | e.ValidationFailed | None
    payloads: tuple[Payload, ...]


def failure(model: str, error_type: ErrorType, error: str, *, billed: bool) -> ExecutionResult:
    """Say that a call failed in our own hands; ``billed`` where the provider may have seen it."""
    return ExecutionResult(
        model=model,
        success=False,
        error=error,
        error_type=error_type,
        usage_source="unknown" if billed else "not_billed",
        provider_requests=None if billed else 0,
    )


def ended(
    started: e.AttemptStarted,
    result: ExecutionResult,
    submitted: e.TaskSubmitted,
    judged_attempt: int | None,
    ports: Ports,
) -> Ended:
    """Make the attempt's event; a judge's text becomes a verdict, or ``output_invalid``."""
    error_type = result.error_type or ("other" if not result.success else None)
    error, verdict = result.error, None
    if error_type is None and started.purpose == "validate":
        try:
            verdict = read_verdict(result.response)
        except VerdictInvalid as invalid:
            error_type, error = "output_invalid", str(invalid)
    if error_type is None and result.finish_reason == "max_tokens" and submitted.policy.on_truncated != "accept":
        error_type = "truncated"
        error = "the answer was cut off at max_tokens; raise max_tokens, or accept cut answers with on_truncated"
    texts = _Texts(ports)
    fields = _known(started, result, texts)
    if error_type is None:
        judgement = None if verdict is None else _judgement(verdict, started, submitted, judged_attempt, texts)
        succeeded = e.AttemptSucceeded.model_validate(fields)
        succeeded.data()  # raises while the failure can still be recorded
        return Ended(succeeded, judgement, texts.payloads)
    failed = e.AttemptFailed.model_validate(
        {
            **fields,
            "error_type": error_type,
            "retryable": _retryable(error_type, result, submitted.policy),
            "status_code": result.status_code,
            "retry_after_ms": result.retry_after_ms,
            "message_digest": texts.keep(f"message/{started.attempt}", error),
        }
    )
    failed.data()
    return Ended(failed, None, texts.payloads)


class _Texts:
    """Sets texts apart under fresh salts."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.payloads: tuple[Payload, ...] = ()

    def keep(self, slot: str, text: str | None) -> str | None:
        """Return the digest that stands for a text; lone surrogates are replaced, since no store can hold them."""
        if not text:
            return None
        payload = Payload(slot, self._ports.new_salt(), text.encode("utf-8", "replace"))
        self.payloads = (*self.payloads, payload)
        return salted_digest(payload.salt, payload.content)


def _known(started: e.AttemptStarted, result: ExecutionResult, texts: _Texts) -> dict[str, Any]:
    """Return what is known of a call whatever its end; money is unknown but for what was not billed."""
    not_billed = result.usage_source == "not_billed"
    usage = _usage(result)
    return {
        "attempt": started.attempt,
        "response_digest": texts.keep(f"response/{started.attempt}", result.response),
        "served_model": _clean(result.served_model),
        "usage": usage,
        "usage_source": "provider" if usage and result.usage_source == "unknown" else result.usage_source,
        "raw_usage": _clean(result.raw_usage),
        "provider_requests": result.provider_requests,
        "latency_ms": result.latency_ms,
        "ttft_ms": result.ttft_ms,
        "finish_reason": _clean(result.finish_reason),
        "request_id": _clean(result.request_id),
        "cost_nano_usd": 0 if not_billed else None,
        "exposure_nano_usd": None if not_billed else started.upper_bound_nano_usd,
        "price_book": None,
    }


def _usage(result: ExecutionResult) -> tuple[UsageRow, ...]:
    """Return the usage rows; a client that only knows totals gives one row, its cache counts unknown."""
    rows = result.usage
    if not rows and (result.tokens_input is not None or result.tokens_output is not None):
        rows = (
            Usage(
                model=result.served_model,
                input_uncached_tokens=result.tokens_input,
                output_tokens=result.tokens_output,
            ),
        )
    return tuple(UsageRow.model_validate(row.model_dump()) for row in rows)


def _clean(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode()


def _retryable(error_type: ErrorType, result: ExecutionResult, policy: Policy) -> bool:
    worth = error_class(error_type, policy) in (ErrorClass.RETRY, ErrorClass.RETRY_ONCE)
    return worth and result.retryable is not False


def _judgement(
    verdict: Verdict, started: e.AttemptStarted, submitted: e.TaskSubmitted, judged_attempt: int | None, texts: _Texts
) -> e.ValidationPassed | e.ValidationFailed:
    issues = orjson.dumps(verdict.issues).decode() if verdict.issues else None
    kind = e.ValidationPassed if verdict.passed else e.ValidationFailed
    return kind(
        judged_task_id=submitted.judged_task_id,
        judged_attempt=submitted.judged_attempt if submitted.kind == "validation" else judged_attempt,
        judge_attempt=started.attempt,
        issues=len(verdict.issues),
        issues_digest=texts.keep(f"issues/{started.attempt}", issues),
        confidence_thousandths=verdict.confidence_thousandths,
        escalate=verdict.escalate,
    )
