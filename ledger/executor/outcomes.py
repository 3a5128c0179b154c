"""From a client's result to the event that records it; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from clients.base import ErrorType, ExecutionResult, Usage
from clients.judging import Verdict, VerdictInvalid, read_verdict
from ledger import events as e
from ledger.canonical import INT64_MAX, salted_digest
from ledger.envelope import Payload, issues_slot
from ledger.parts import UsageRow, UsageSource
from ledger.policy import ErrorClass, Policy, error_class
from ledger.ports import Ports
from ledger.prices.book import PriceBook
from ledger.prices.costing import Charge, charge

__all__ = ["MESSAGE_CHARACTERS_MAX", "UNPRICED", "Ended", "Terms", "ended", "failure"]

MESSAGE_CHARACTERS_MAX: Final = 65_536
"""Of a provider's message what is kept."""
RESPONSE_MIB_MAX: Final = 64
CUT_OFF: Final = "the answer was cut off at max_tokens; raise max_tokens, or accept cut answers with on_truncated"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an attempt is charged by: a book, and the instant at which the attempt started; no book is no price."""

    book: PriceBook | None
    at_ms: int = 0


UNPRICED: Final = Terms(None)


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
    terms: Terms,
) -> Ended:
    """Make the attempt's event; a judge's text becomes a verdict, or ``output_invalid``.

    What its model lets through has canonical bytes, so a result that cannot be recorded is told of here.
    """
    error_type, error = _fault(started, result)
    verdict = None
    if error_type is None and started.purpose == "validate":
        try:
            verdict = read_verdict(result.response, result.finish_reason)
        except VerdictInvalid as invalid:
            error_type, error = "output_invalid", str(invalid)
    if error_type is None and result.finish_reason == "max_tokens" and submitted.policy.on_truncated != "accept":
        error_type, error = "truncated", CUT_OFF
    texts = _Texts(ports)
    fields = _known(started, result, texts, terms)
    if error_type is None:
        judgement = None if verdict is None else _judgement(verdict, started, submitted, judged_attempt, texts)
        succeeded = e.AttemptSucceeded.model_validate(fields)
        return Ended(succeeded, judgement, texts.payloads)
    failed = e.AttemptFailed.model_validate(
        {
            **fields,
            "error_type": error_type,
            "retryable": _retryable(error_type, result, submitted.policy),
            "status_code": _natural(result.status_code),
            "retry_after_ms": _natural(result.retry_after_ms),
            "message_digest": texts.keep(f"message/{started.attempt}", error and error[:MESSAGE_CHARACTERS_MAX]),
        }
    )
    return Ended(failed, None, texts.payloads)


def _fault(started: e.AttemptStarted, result: ExecutionResult) -> tuple[ErrorType | None, str | None]:
    """Say what is wrong with a result as it came; a success without a text is none, but for a judge's."""
    if result.error_type is not None or not result.success:
        return result.error_type or "other", result.error
    if len(result.response) > RESPONSE_MIB_MAX * 2**20:
        return "api_error", f"the answer was dropped: more than {RESPONSE_MIB_MAX} Mi characters"
    if result.response or started.purpose == "validate":
        return None, None
    return ("truncated", CUT_OFF) if result.finish_reason == "max_tokens" else ("api_error", "an answer without text")


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


def _known(started: e.AttemptStarted, result: ExecutionResult, texts: _Texts, terms: Terms) -> dict[str, Any]:
    """Return what is known of a call whatever its end."""
    usage, served = _usage(result), _clean(result.served_model)
    source = "provider" if usage and result.usage_source == "unknown" else result.usage_source
    charged = _charged(started, served, usage, source, terms)
    return {
        "attempt": started.attempt,
        "response_digest": texts.keep(f"response/{started.attempt}", _bounded(result.response)),
        "served_model": served,
        "usage": usage,
        "usage_source": source,
        "raw_usage": _clean(result.raw_usage),
        "provider_requests": _natural(result.provider_requests),
        "latency_ms": _natural(result.latency_ms),
        "ttft_ms": _natural(result.ttft_ms),
        "finish_reason": _clean(result.finish_reason),
        "request_id": _clean(result.request_id),
        "cost_nano_usd": charged.cost_nano_usd,
        "exposure_nano_usd": charged.exposure_nano_usd,
        "price_book": charged.price_book,
    }


def _charged(
    started: e.AttemptStarted, served: str | None, usage: tuple[UsageRow, ...], source: UsageSource, terms: Terms
) -> Charge:
    """Return the money; without a book only a call that was not billed has a cost."""
    bound, model = started.upper_bound_nano_usd, served or started.request_model
    if terms.book is None:
        return Charge(0, None, None) if source == "not_billed" else Charge(None, bound, None)
    return charge(terms.book, started.provider, model, usage, source, terms.at_ms, bound)


def _usage(result: ExecutionResult) -> tuple[UsageRow, ...]:
    """Return the usage rows; a client that only knows totals gives one row, its cache counts unknown."""
    rows = result.usage
    if not rows and (result.tokens_input is not None or result.tokens_output is not None):
        rows = (
            Usage(
                model=result.served_model,
                input_uncached_tokens=_natural(result.tokens_input),
                output_tokens=_natural(result.tokens_output),
            ),
        )
    return tuple(
        UsageRow.model_validate(
            {name: _clean(value) if isinstance(value, str) else value for name, value in vars(row).items()}
        )
        for row in rows
    )


def _natural(value: int | None) -> int | None:
    """Return a figure that can be one; any other is as good as unknown."""
    return value if value is not None and 0 <= value <= INT64_MAX else None


def _bounded(text: str) -> str | None:
    return text if len(text) <= RESPONSE_MIB_MAX * 2**20 else None


def _clean(text: str | None) -> str | None:
    """Return a text that every store's columns can hold: no lone surrogate, no NUL."""
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


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
        issues_digest=texts.keep(issues_slot(started.attempt), issues),
        confidence_thousandths=verdict.confidence_thousandths,
        escalate=verdict.escalate,
    )
