"""Reads why a call of the Gemini CLI failed: from the error that it tells, else from its exit code."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clients.base import ErrorType, UsageSource

__all__ = ["STATUS_BY_EXIT_CODE", "Failure", "read_error", "read_failure"]


@dataclass(frozen=True)
class Failure:
    """Why there is no answer; what is not known stays None or ``unknown``."""

    error_type: ErrorType
    message: str
    usage_source: UsageSource = "unknown"
    status_code: int | None = None
    retry_after_ms: int | None = None
    provider_requests: int | None = None
    finish_reason: str | None = None


BY_STATUS: Mapping[int, ErrorType] = {
    400: "invalid_request",
    401: "authentication",
    402: "billing",
    403: "permission",
    404: "not_found",
    408: "timeout",
    413: "too_large",
    429: "rate_limited",
    500: "api_error",
    502: "api_error",
    503: "overloaded",
    504: "api_error",
    529: "overloaded",
}
STATUS_BY_EXIT_CODE = {status % 256: status for status in BY_STATUS}
"""The CLI exits with the HTTP status, of which the system keeps eight bits."""

ADVICE: Mapping[ErrorType, str] = {
    "authentication": "check GEMINI_API_KEY",
    "billing": "check the project's billing and spend limits",
    "context_window_exceeded": "shorten the prompt or choose a model with a larger window",
    "not_found": "check the model's name and GOOGLE_GEMINI_BASE_URL",
    "permission": "this key may not do that; ask the project's owner",
    "too_large": "shorten the prompt",
}

NOT_SENT: Mapping[int, tuple[ErrorType, str]] = {
    41: ("authentication", "the Gemini CLI refused to authenticate; check GEMINI_API_KEY"),
    42: ("other", "the Gemini CLI did not take the prompt in; on a busy machine its half second may have passed"),
    52: ("other", "the Gemini CLI refused its settings; another version of it is needed"),
    55: ("other", "the Gemini CLI does not trust its working folder; another version of it is needed"),
    126: ("client_missing", "the Gemini CLI cannot be executed; install it anew"),
    127: ("client_missing", "the Gemini CLI needs Node.js 20 or later on PATH"),
}
"""Exit codes that come before any request."""
TURNS_EXIT_CODE = 53

NETWORK_WORDS = ("fetch failed", "terminated", "socket", "ECONN", "ETIMEDOUT", "EPIPE", "ENOTFOUND", "EAI_AGAIN")
GARBAGE_WORDS = ("is not valid JSON", "Incomplete JSON", "JSON input", "in JSON at position")
MID_STREAM = "got status: "
"""How the message of an error begins that came inside a stream, after tokens may have been made."""

SPECIFIC: tuple[tuple[frozenset[int], re.Pattern[str], ErrorType], ...] = (
    (frozenset({400}), re.compile(r"API key|API_KEY_INVALID", re.IGNORECASE), "authentication"),
    (
        frozenset({400}),
        re.compile(r"token count.*exceeds|maximum number of tokens", re.IGNORECASE),
        "context_window_exceeded",
    ),
    (frozenset({400}), re.compile(r"location is not supported", re.IGNORECASE), "permission"),
    (frozenset({400, 403}), re.compile(r"billing", re.IGNORECASE), "billing"),
    # "check your plan and billing details" is in every 429 and says nothing.
    (
        frozenset({429}),
        re.compile(r"spend(ing)? (limit|cap)|credits? (are|is|were) (deplet|exhaust)", re.IGNORECASE),
        "billing",
    ),
)
"""What a status means when its message says more than the number does."""

ERROR_START = re.compile(r"^(?:\[ERROR\] )?(\{)$", re.MULTILINE)
RETRY_AFTER = re.compile(r"(?:Suggested retry after|retry in) (\d+(?:\.\d+)?)s")
RETRY_AFTER_S_MAX = 10**9


def read_failure(exit_code: int, stderr: str) -> Failure:
    """Say why the CLI ended with this exit code, which is not 0."""
    told = _told(stderr)
    code, message = told.get("code"), str(told.get("message", ""))
    if exit_code in NOT_SENT:
        error_type, why = NOT_SENT[exit_code]
        return Failure(error_type, why, "not_billed", provider_requests=0)
    if exit_code == TURNS_EXIT_CODE:
        why = "Gemini asked for a tool, although it was offered none, instead of answering"
        return Failure("api_error", why, provider_requests=1)
    if exit_code < 0:
        return Failure("other", f"the Gemini CLI was ended by signal {-exit_code}; is there enough memory?")
    status = code if isinstance(code, int) and code in range(400, 600) else None
    if status is None and "ModelNotFoundError" in stderr:
        status = 404
    if status is None and not told:
        status = STATUS_BY_EXIT_CODE.get(exit_code)
    if status is not None:
        return _by_status(status, message or f"HTTP status {status}")
    return _by_words(message or _last_line(stderr), told=bool(told), how=f" with exit code {exit_code}")


def read_error(status: int | None, message: str) -> Failure:
    """Say why a call failed, from the status that Gemini answered with, if it is known, and the CLI's words."""
    return _by_words(message, told=True) if status is None else _by_status(status, message)


def _by_status(status: int, message: str) -> Failure:
    said = _unwrapped(message)
    error_type = BY_STATUS.get(status, "api_error" if status >= 500 else "invalid_request")  # noqa: PLR2004 - HTTP's own border
    for statuses, words, specific in SPECIFIC:
        if status in statuses and words.search(message):
            error_type = specific
            break
    mid_stream = message.startswith(MID_STREAM)
    where = " in the middle of its answer" if mid_stream else ""
    advice = f"; {ADVICE[error_type]}" if error_type in ADVICE else ""
    return Failure(
        error_type,
        f"Gemini answered {status}{where}: {said.removesuffix('.') if advice else said}{advice}",
        usage_source="unknown" if mid_stream else "not_billed",
        status_code=status,
        retry_after_ms=_retry_after_ms(message),
        provider_requests=1,
    )


def _by_words(message: str, *, told: bool, how: str = "") -> Failure:
    if told and any(word in message for word in GARBAGE_WORDS):
        return Failure("api_error", f"Gemini's answer could not be read: {message}", provider_requests=1)
    if told and any(word in message for word in NETWORK_WORDS):
        # A refused connection and one that broke after sending look the same from outside the CLI.
        return Failure("connection", f"the connection to Gemini failed or broke: {message}")
    return Failure("other", f"the Gemini CLI failed{how}: {message or 'it said nothing'}")


def _told(stderr: str) -> Mapping[str, Any]:
    """Give the error of the last JSON object in stderr, or nothing."""
    for match in reversed(list(ERROR_START.finditer(stderr))):
        try:
            told, _end = json.JSONDecoder().raw_decode(stderr, match.start(1))
        except (ValueError, RecursionError):
            continue
        if isinstance(told.get("error"), dict):
            return dict(told["error"])
    return {}


def _unwrapped(message: str) -> str:
    """Take the words out of a provider's error object, where the CLI gives that as its message."""
    try:
        inner, _end = json.JSONDecoder().raw_decode(message, message.index("{"))
        words = inner["error"]["message"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return message
    return words if isinstance(words, str) and words else message


def _retry_after_ms(message: str) -> int | None:
    match = RETRY_AFTER.search(message)
    return math.ceil(min(float(match[1]), RETRY_AFTER_S_MAX) * 1000) if match else None


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines()]
    said = [line for line in lines if line and not line.startswith(("at ", "Warning: 256-color", "[STARTUP]"))]
    return said[-1] if said else ""
