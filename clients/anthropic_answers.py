"""Reads the body of a 200 of the Messages API: text, usage and how the answer ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clients.base import ErrorType, ExecutionResult, Usage

__all__ = ["Received", "read_answer"]

COUNT_MAX = 2**63 - 1
RAW_USAGE_CHARS_MAX = 16_384
NAME_CHARS_MAX = 256

DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\n\r]*")

STOPPED: Mapping[str, tuple[ErrorType, str]] = {
    "refusal": ("content_refused", "the model refused this prompt; it is billed"),
    "model_context_window_exceeded": ("context_window_exceeded", "the model's context window is full"),
}
"""Endings whose text, if any, is no answer."""


@dataclass(frozen=True)
class Received:
    """A whole response to one request."""

    model: str
    status_code: int
    request_id: str | None
    content_type: str
    body: bytes
    latency_ms: int


def read_answer(received: Received) -> ExecutionResult:
    """Turn a 200 into a result: success only with text and a known end, usage kept whenever there is any."""
    members = _members(received.body)
    if members is None:
        size = f"{len(received.body):,} bytes"
        why = f"Anthropic answered {received.status_code} with no JSON object ({received.content_type}, {size})"
        return _result(received, {}, error_type="api_error", error=why)
    content = members.get("content", (None, ""))[0]
    stop_reason = _name(members, "stop_reason")
    if not isinstance(content, list):
        why = "Anthropic answered with JSON that is no message"
        return _result(received, members, error_type="api_error", error=why)
    text = "".join(_texts(content))
    failed = _judge_end(text, stop_reason)
    if failed is None:
        return _result(received, members, response=text)
    return _result(received, members, error_type=failed[0], error=failed[1])


def _judge_end(text: str, stop_reason: str | None) -> tuple[ErrorType, str] | None:
    """Say why an answer is none, or give None."""
    if stop_reason is None:
        # The API never leaves it out of a whole answer, so this one is not whole.
        return "api_error", "Anthropic's answer has no stop reason: it is incomplete"
    if stop_reason in STOPPED:
        return STOPPED[stop_reason]
    if text:
        return None
    if stop_reason == "max_tokens":
        return "truncated", "the output limit was reached before any text; raise max_tokens"
    return "api_error", f"Anthropic answered without text (stop reason {stop_reason})"


def _result(
    received: Received,
    members: Mapping[str, tuple[Any, str]],
    *,
    response: str = "",
    error_type: ErrorType | None = None,
    error: str | None = None,
) -> ExecutionResult:
    counts, raw_usage = members.get("usage", (None, ""))
    usage = _read_usage(counts, _name(members, "model")) if isinstance(counts, dict) else None
    known = usage is not None and usage.input_uncached_tokens is not None and usage.output_tokens is not None
    return ExecutionResult(
        model=received.model,
        response=response,
        tokens_input=_tokens_input(usage),
        tokens_output=usage.output_tokens if usage else None,
        latency_ms=received.latency_ms,
        success=error_type is None,
        error=error,
        usage=(usage,) if usage else (),
        finish_reason=_name(members, "stop_reason"),
        request_id=received.request_id,
        served_model=_name(members, "model"),
        error_type=error_type,
        usage_source="provider" if known else "unknown",
        status_code=received.status_code,
        raw_usage=raw_usage if usage and len(raw_usage) <= RAW_USAGE_CHARS_MAX else None,
        provider_requests=1,
    )


def _read_usage(counts: Mapping[str, Any], model: str | None) -> Usage:
    """Read disjoint counts; ``input_tokens`` already leaves the cached ones out, ``output_tokens`` holds thinking.

    A cache count that is absent or null is a known zero, not an unknown: we never ask for caching
    (``cache_control``), and the API documents the input total as the sum of the three counts it gives.
    """
    written = counts.get("cache_creation")
    details = counts.get("output_tokens_details")
    if isinstance(written, dict):
        write_5m, write_1h = written.get("ephemeral_5m_input_tokens"), written.get("ephemeral_1h_input_tokens")
    else:
        # Without the breakdown all of it counts as 5-minute writes, which is what the API does by default.
        write_5m, write_1h = counts.get("cache_creation_input_tokens"), None
    return Usage(
        model=model,
        input_uncached_tokens=_count(counts.get("input_tokens")),
        cache_read_tokens=_cached(counts.get("cache_read_input_tokens")),
        cache_write_5m_tokens=_cached(write_5m),
        cache_write_1h_tokens=_cached(write_1h),
        output_tokens=_count(counts.get("output_tokens")),
        reasoning_tokens=_count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
        service_tier=_short(counts.get("service_tier")),
        inference_geo=_short(counts.get("inference_geo")),
    )


def _tokens_input(usage: Usage | None) -> int | None:
    """Give the total, or None as soon as one part of it could not be read."""
    if usage is None or None in (usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens):
        return None
    return usage.tokens_input


def _members(body: bytes) -> dict[str, tuple[Any, str]] | None:
    """Parse a JSON object into its members, each with its exact text; None when it is no JSON object."""
    try:
        text = body.decode()
        return _scan(text)
    except (ValueError, TypeError, IndexError, RecursionError):
        return None


def _scan(text: str) -> dict[str, tuple[Any, str]]:
    decode = DECODER.raw_decode
    members: dict[str, tuple[Any, str]] = {}
    at = _expect(text, 0, "{")
    while text[at] != "}":
        if members:
            at = _expect(text, at, ",")
        name, at = decode(text, at)
        start = _expect(text, at, ":")
        value, end = decode(text, start)
        if not isinstance(name, str):
            raise TypeError("a member's name is no string")
        members[name] = (value, text[start:end])
        at = _skip(text, end)
    if text[at + 1 :].strip():
        raise ValueError("more after the object")
    return members


def _expect(text: str, at: int, mark: str) -> int:
    """Step over blanks, one mark and blanks again."""
    at = _skip(text, at)
    if text[at] != mark:
        raise ValueError(f"no {mark} at {at}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    if text[at] > " ":
        return at
    match = BLANK.match(text, at)
    return match.end() if match else at


def _texts(content: list[Any]) -> list[str]:
    blocks = (block for block in content if isinstance(block, dict) and block.get("type") == "text")
    return [_whole(block["text"]) for block in blocks if isinstance(block.get("text"), str)]


def _whole(text: str) -> str:
    """Replace half pairs, which JSON can say and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def _cached(value: Any) -> int | None:
    return 0 if value is None else _count(value)


def _name(members: Mapping[str, tuple[Any, str]], member: str) -> str | None:
    return _short(members.get(member, (None, ""))[0])


def _short(value: Any) -> str | None:
    return _whole(value)[:NAME_CHARS_MAX] if isinstance(value, str) and value else None
