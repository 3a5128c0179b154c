"""Reads how a call through a kept Gemini CLI ended: from its protocol, and from what was heard on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from clients.base import ExecutionResult, Usage, UsageSource
from clients.gemini_answers import Asked, shown
from clients.gemini_call import Reply
from clients.gemini_failures import Failure, read_error
from clients.gemini_witness import NOT_ASKED_FOR, NOT_SENT, Heard

__all__ = ["lost_hold", "read_reply"]

COUNT_MAX: Final = 2**63 - 1
STATUS_MIN: Final = 300
"""From here on a status is no answer; the CLI follows no redirection."""

FINISHED: Final[Mapping[str, str]] = {"STOP": "end_turn", "MAX_TOKENS": "max_tokens"}
REFUSED: Final = frozenset({"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"})
TOOL_WANTED: Final = frozenset({"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"})
TURNS: Final = "max_turn_requests"
MID_STREAM: Final = "got status: "


def lost_hold(reply: Reply) -> bool:
    """Tell whether the CLI sends what we did not ask for, or where we do not hear it; another version may."""
    refused = reply.error is not None and NOT_ASKED_FOR in reply.error.message
    return refused or (bool(reply.text) and not reply.heard.requests)


def read_reply(asked: Asked, reply: Reply) -> ExecutionResult:
    """Turn a reply into a result: success only with text, an end that Gemini gave, and a request that was heard."""
    heard = reply.heard
    failure = _failure(asked, reply)
    if failure is not None and reply.settled and heard.requests == 0 and not reply.text:
        failure = replace(failure, usage_source="not_billed")
    usage = _usage(asked, heard)
    source = _usage_source(failure, heard, usage)
    return ExecutionResult(
        model=asked.model,
        response="" if failure else reply.text,
        tokens_input=usage.tokens_input if usage else None,
        tokens_output=usage.output_tokens if usage else None,
        latency_ms=reply.latency_ms,
        success=failure is None,
        error=shown(failure.message, asked.secret) if failure else None,
        usage=(usage,) if usage else (),
        finish_reason=failure.finish_reason if failure else FINISHED.get(heard.finished or ""),
        request_id=heard.response_id,
        served_model=heard.served_model,
        error_type=failure.error_type if failure else None,
        usage_source=source,
        status_code=failure.status_code if failure else None,
        retry_after_ms=failure.retry_after_ms if failure else None,
        ttft_ms=reply.ttft_ms,
        raw_usage=json.dumps(heard.usage, separators=(",", ":")) if heard.usage else None,
        provider_requests=heard.requests or (0 if source == "not_billed" else None),
    )


def _failure(asked: Asked, reply: Reply) -> Failure | None:
    heard = reply.heard
    match reply.ending:
        case "deadline":
            return Failure("timeout", f"Gemini gave no answer within {asked.timeout_s:g} s; it may bill the call")
        case "too_much_text":
            return Failure("api_error", "Gemini answered more than 32 MiB and was stopped")
        case "gone":
            return Failure("connection", "the Gemini CLI that was kept for many calls ended in the middle of this one")
    if lost_hold(reply):
        why = "the Gemini CLI does not send what it is asked to, or not where it can be checked"
        return Failure("other", f"{why}; another version of it is needed")
    if reply.error is not None and NOT_SENT in reply.error.message:
        return Failure("other", f"the request could not be noted, so it was not sent: {reply.error.message}")
    if reply.error is not None:
        return _told(reply.error.code, reply.error.message, heard)
    if not heard.requests:
        return Failure("other", "the Gemini CLI sent nothing")
    return _judge(reply)


def _told(code: int, message: str, heard: Heard) -> Failure:
    """Read the protocol's error: its code is 500 where the status is unknown, or where there was none."""
    if message.startswith(MID_STREAM):
        return read_error(code, message)
    failed = heard.status is not None and heard.status >= STATUS_MIN
    return read_error(heard.status if failed else None, message)


def _judge(reply: Reply) -> Failure | None:
    """Say why an end without an error is no success, or give None."""
    finished, blocked = reply.heard.finished, reply.heard.blocked
    if blocked is not None:
        return Failure("content_refused", f"Gemini blocked the prompt ({blocked})", finish_reason="refusal")
    if reply.stopped == TURNS or finished in TOOL_WANTED:
        return Failure("api_error", "Gemini asked for a tool, although it was offered none, instead of answering")
    if finished is None:
        return Failure("api_error", "Gemini's answer broke off before its end")
    if finished in REFUSED or (finished == "OTHER" and not reply.text):
        return Failure("content_refused", f"Gemini blocked the answer ({finished})", finish_reason="refusal")
    if reply.text:
        return None
    if finished == "MAX_TOKENS":
        why = "Gemini reached the output limit before any text; thinking counts too, so raise max_tokens"
        return Failure("truncated", why, finish_reason="max_tokens")
    return Failure("api_error", "Gemini answered without text")


def _usage_source(failure: Failure | None, heard: Heard, usage: Usage | None) -> UsageSource:
    """Say where the counts are from; those of an answer that broke off may still have grown."""
    if usage is not None:
        return "provider" if heard.finished or heard.blocked else "stream_partial"
    return failure.usage_source if failure else "unknown"


def _usage(asked: Asked, heard: Heard) -> Usage | None:
    """Read Google's counts: the prompt's include the cached ones, and no cache write is billed by the request."""
    counts = {name: count for name, count in heard.usage.items() if _is_count(count)}
    prompt, cached = counts.get("promptTokenCount"), counts.get("cachedContentTokenCount", 0)
    if prompt is None or cached > prompt:
        return None
    thoughts = counts.get("thoughtsTokenCount", 0)
    return Usage(
        model=heard.served_model or asked.model,
        input_uncached_tokens=prompt - cached,
        cache_read_tokens=cached,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=counts.get("candidatesTokenCount", 0) + thoughts,
        reasoning_tokens=thoughts,
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= COUNT_MAX
