"""The rules a task is pinned to: route steps, retry policy, and which errors are worth what."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from ledger.canonical import INT64_MAX, digest_of

__all__ = [
    "ERROR_TYPES",
    "INT64_MAX",
    "PPM",
    "ErrorClass",
    "ErrorType",
    "Limits",
    "Natural",
    "Policy",
    "Positive",
    "Purpose",
    "Step",
    "Tier",
    "Value",
    "backoff_ms",
    "error_class",
    "policy_hash",
]

PPM: Final = 1_000_000

Tier = Literal["flash", "pro", "haiku", "sonnet", "opus"]
Purpose = Literal["generate", "validate"]
ErrorType = Literal[
    "rate_limited",
    "overloaded",
    "timeout",
    "connection",
    "api_error",
    "authentication",
    "permission",
    "billing",
    "not_found",
    "client_missing",
    "invalid_request",
    "too_large",
    "context_window_exceeded",
    "content_refused",
    "budget_refused",
    "cancelled",
    "output_invalid",
    "truncated",
    "worker_died",
    "interrupted",
    "other",
]
ERROR_TYPES: Final[tuple[str, ...]] = get_args(ErrorType)

Natural = Annotated[int, Field(ge=0, le=INT64_MAX)]
Positive = Annotated[int, Field(ge=1, le=INT64_MAX)]
Wait = Annotated[int, Field(ge=0, le=10**11)]
"""Milliseconds, at most three years: an instant with a jittered wait added stays far from the end of 64 bits."""


class Value(BaseModel):
    """A part of an event: frozen, closed, strict, so that its bytes are its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Step(Value):
    """One rung of a route, a judge's list or a ladder."""

    tier: Tier
    provider: str
    model: str
    tries: Annotated[int, Field(ge=1, le=1000)]
    """Attempts allowed here; orphaned and interrupted ones do not count."""
    timeout_ms: Annotated[Wait, Field(ge=1)]


class Policy(Value):
    """How failures are answered; pinned into the task when it is submitted. All integers: milliseconds and ppm."""

    backoff_initial_ms: Wait
    backoff_multiplier_ppm: Annotated[int, Field(ge=PPM, le=1000 * PPM)]
    backoff_max_ms: Wait
    jitter_ppm: Annotated[int, Field(ge=0, le=PPM)]
    retry_after_max_ms: Wait
    on_unknown: Literal["retry", "hold", "fail"]
    max_orphans: Natural
    on_truncated: Literal["accept", "retry", "fail"]


class Limits(Value):
    """What the whole task may use."""

    attempts: Annotated[int, Field(ge=1, le=100_000)]
    """Attempts of every purpose together, orphaned and interrupted ones included."""
    cost_nano_usd: Natural | None
    """The task's own cap; None where there is none."""


class ErrorClass(StrEnum):
    """What an error is worth."""

    RETRY = "worth_another_try"
    RETRY_ONCE = "worth_one_more_try"
    FALLBACK = "straight_to_the_fallback"
    END = "ends_the_task"


CLASSES: Final[dict[str, ErrorClass]] = {
    **dict.fromkeys(("rate_limited", "overloaded", "timeout", "connection", "api_error"), ErrorClass.RETRY),
    **dict.fromkeys(("output_invalid", "other"), ErrorClass.RETRY_ONCE),
    **dict.fromkeys(
        ("authentication", "permission", "billing", "not_found", "client_missing"),
        ErrorClass.FALLBACK,
    ),
}


def error_class(error_type: str, policy: Policy) -> ErrorClass:
    """Say what an error is worth under a policy; ``interrupted`` and orphans are decided apart from this."""
    if error_type == "truncated":
        return ErrorClass.RETRY if policy.on_truncated == "retry" else ErrorClass.END
    return CLASSES.get(error_type, ErrorClass.END)


def backoff_ms(policy: Policy, tries: int, jitter_ppm: int) -> int:
    """Return the wait after the ``tries``-th try on a step: doubled each time, capped, then jittered, rounded down."""
    exponent = tries - 1
    grown: int = policy.backoff_initial_ms * policy.backoff_multiplier_ppm**exponent // PPM**exponent
    return min(grown, policy.backoff_max_ms) * (PPM + jitter_ppm) // PPM


@lru_cache(64)
def policy_hash(policy: Policy) -> str:
    """Return the SHA-256 of the policy's canonical JSON, in hex."""
    return digest_of(policy.model_dump())
