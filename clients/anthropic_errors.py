"""What an error of the Anthropic API or its SDK means, in the contract's error types."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from clients.base import ErrorType, UsageSource

__all__ = ["Failure", "ResponseTooLong", "read_exception", "read_retry_after_ms", "read_status"]

RETRY_AFTER_MS_MAX = 31 * 24 * 3600 * 1000
"""Spend limits end with the month; a longer wait is a malformed header."""

TYPE_BY_STATUS: Mapping[int, ErrorType] = {
    400: "invalid_request",
    401: "authentication",
    402: "billing",
    403: "permission",
    404: "not_found",
    408: "timeout",
    409: "api_error",
    413: "too_large",
    422: "invalid_request",
    429: "rate_limited",
    431: "too_large",
    529: "overloaded",
}

TYPE_BY_NAME: Mapping[str, ErrorType] = {
    "api_error": "api_error",
    "authentication_error": "authentication",
    "billing_error": "billing",
    "conflict_error": "api_error",
    "invalid_request_error": "invalid_request",
    "not_found_error": "not_found",
    "overloaded_error": "overloaded",
    "permission_error": "permission",
    "rate_limit_error": "rate_limited",
    "request_too_large": "too_large",
    "timeout_error": "timeout",
}

TYPE_BY_CODE: Mapping[str, ErrorType] = {
    "contract_spend_limit_reached": "billing",
    "enforced_spend_limit_reached": "billing",
    "organization_on_hold": "permission",
}
"""The codes of ``error.details`` that say more than the status: a spend limit is a 429 that no wait of ours cures."""

ADVICE: Mapping[ErrorType, str] = {
    "authentication": "check ANTHROPIC_API_KEY",
    "billing": "check the organisation's credit and spend limits",
    "context_window_exceeded": "shorten the prompt or choose a model with a larger window",
    "not_found": "check the model's name and ANTHROPIC_BASE_URL",
    "permission": "this key may not do that; ask the organisation's admin",
    "too_large": "shorten the prompt",
}


class ResponseTooLong(Exception):
    """The provider sent more bytes than any answer has."""


@dataclass(frozen=True)
class Failure:
    """Why a call failed; ``message`` is for people, not yet bounded, and may hold what the provider echoed."""

    error_type: ErrorType
    message: str
    usage_source: UsageSource = "unknown"
    provider_requests: int = 1
    retryable: bool | None = None
    retry_after_ms: int | None = None
    status_code: int | None = None
    request_id: str | None = None


def read_status(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Tell what an error status means; nothing is billed for one, which is Anthropic's published rule."""
    name, message, code = _read_error_body(body)
    error_type = _type_of(status, name, message, code)
    return Failure(
        error_type,
        _say(f"Anthropic answered {status}{f' ({name})' if name else ''}: {message or 'no message'}", error_type),
        usage_source="not_billed",
        retryable=_retryable(headers, code),
        retry_after_ms=read_retry_after_ms(headers),
        status_code=status,
        request_id=headers.get("request-id"),
    )


def _type_of(status: int, name: str | None, message: str, code: str | None) -> ErrorType:
    if code is not None and code in TYPE_BY_CODE:
        return TYPE_BY_CODE[code]
    named = TYPE_BY_NAME.get(name or "")
    if named in {"overloaded", "billing"}:
        return named
    if status == 400:  # noqa: PLR2004 - one status holds several cases, told apart by their wording only
        said = message.lower()
        if "credit balance is too low" in said:
            return "billing"
        if "prompt is too long" in said or "context window" in said or "context limit" in said:
            return "context_window_exceeded"
    if status in TYPE_BY_STATUS:
        return TYPE_BY_STATUS[status]
    if status >= 500:  # noqa: PLR2004 - the class of server errors
        return "api_error"
    return named or "other"


def _read_error_body(body: bytes) -> tuple[str | None, str, str | None]:
    """Give the error's type, message and code, as far as the body is Anthropic's."""
    try:
        error = json.loads(body).get("error")
    except (ValueError, AttributeError, RecursionError):
        return None, "", None
    if not isinstance(error, dict):
        return None, "", None
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return _text(error.get("type")), _text(error.get("message")) or "", _text(code)


def _retryable(headers: Mapping[str, str], code: str | None) -> bool | None:
    if code is not None and code in TYPE_BY_CODE:
        return False
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def read_retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Read ``retry-after-ms``, else ``retry-after`` in seconds or as an HTTP date; None for what makes no sense."""
    wait_ms = _number(headers.get("retry-after-ms"))
    if wait_ms is None:
        after = headers.get("retry-after", "")
        seconds = _number(after)
        wait_ms = _until_date_ms(after, headers.get("date", "")) if seconds is None else seconds * 1000
    return math.ceil(wait_ms) if wait_ms is not None and 0 <= wait_ms <= RETRY_AFTER_MS_MAX else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until_date_ms(date: str, now: str) -> float | None:
    """Count from the server's own Date, so that a wrong clock here does not stretch the wait."""
    try:
        until = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        since = parsedate_to_datetime(now).timestamp()
    except (ValueError, OverflowError):
        since = time.time()
    return max(0.0, (until - since) * 1000)


def read_exception(error: Exception) -> Failure:
    """Tell what an exception of the SDK, of its HTTP client or of the deadline means."""
    import anthropic  # noqa: PLC0415 - 2 s; loaded already when there is an exception of its making
    import httpx2  # noqa: PLC0415 - likewise

    if isinstance(error, anthropic.APIStatusError):
        return read_status(error.response.status_code, error.response.headers, error.response.content)
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    match cause:
        case ResponseTooLong():
            return Failure("api_error", f"Anthropic's answer was dropped: {cause}")
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout() | httpx2.ProxyError():
            return _unsent("connection", f"could not connect to Anthropic ({_name(cause)}); check ANTHROPIC_BASE_URL")
        case httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError() | httpx2.InvalidURL():
            return _unsent("other", f"the request could not be made ({_name(cause)}); check ANTHROPIC_BASE_URL")
        case TimeoutError() | httpx2.TimeoutException():
            return Failure("timeout", "Anthropic did not answer in time; the call may have been billed")
        case httpx2.TransportError():
            lost = f"the connection to Anthropic was lost ({_name(cause)}); the call may have been billed"
            return Failure("connection", lost)
        case httpx2.DecodingError() | anthropic.APIResponseValidationError():
            return Failure("api_error", f"Anthropic's answer could not be read ({_name(cause)})")
        case anthropic.APIConnectionError() | None:
            return Failure("connection", "the connection to Anthropic failed; the call may have been billed")
        case _:
            return Failure("other", f"the Anthropic SDK failed in a way nobody foresaw: {_name(cause)}: {cause}")


def _unsent(error_type: ErrorType, message: str) -> Failure:
    return Failure(error_type, message, usage_source="not_billed", provider_requests=0)


def _name(error: BaseException) -> str:
    return type(error).__name__


def _say(what: str, error_type: ErrorType) -> str:
    advice = ADVICE.get(error_type)
    return f"{what.removesuffix('.')}; {advice}" if advice else what


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
