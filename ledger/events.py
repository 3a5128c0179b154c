"""The events of a task's stream: closed, frozen, versioned; their canonical JSON is what is hashed.

Names are for ever. A field is never renamed or given another meaning: a change is a new ``schema_version`` with an
upcaster (``ledger.upcasting``). Every field is always written, NULL where there is nothing to say. The streams that
are not tasks (breakers, price books, anchors) have theirs in ``ledger.system_events``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from ledger.canonical import written
from ledger.parts import (
    Answer,
    Decision,
    Digest,
    Judgement,
    Natural,
    Outcome,
    Positive,
    TaskRequest,
    Verdict,
)
from ledger.policy import ErrorType, Purpose, Tier, Value

__all__ = [
    "AttemptFailed",
    "AttemptOrphaned",
    "AttemptSettled",
    "AttemptStarted",
    "AttemptSucceeded",
    "BudgetRefused",
    "EscalationSelected",
    "Event",
    "FallbackSelected",
    "PayloadErased",
    "RetryScheduled",
    "TaskCancelled",
    "TaskFailed",
    "TaskHeld",
    "TaskReleased",
    "TaskRequest",
    "TaskSubmitted",
    "TaskSucceeded",
    "ValidationErrored",
    "ValidationFailed",
    "ValidationPassed",
]


class Event(Value):
    """One fact or decision; subclasses name their type and the version of their fields."""

    TYPE: ClassVar[str]
    SCHEMA_VERSION: ClassVar[int] = 1

    def data(self) -> bytes:
        """Return the canonical JSON that is stored and hashed."""
        return written(self.__pydantic_serializer__.to_python(self))  # ``model_dump`` without its twelve options


class TaskSubmitted(Event, TaskRequest, Decision):
    """A task with its route and policy, and why this tier was chosen."""

    TYPE = "task.submitted"
    decision: Literal["route"]


class AttemptStarted(Event):
    """A call is about to be made; durable before the first byte is sent."""

    TYPE = "attempt.started"
    attempt: Positive
    purpose: Purpose
    step: Positive
    """From 1: of the judge's list when validating, else of the route and, after it, the ladder."""
    tier: Tier
    provider: str
    request_model: str
    deadline_ms: Natural
    """The instant at which the call is ended, UTC milliseconds."""
    fence: Positive
    worker: str
    request_digest: Digest
    """SHA-256 of the canonical JSON of model, max_tokens, prompt prefix and the texts' digests."""
    prompt_prefix: Literal["newline", "header"] | None
    upper_bound_nano_usd: Natural | None
    """The most that this call can cost; NULL where no price is known."""
    price_book: Digest | None
    """The book that the upper bound was made with."""


class AttemptSucceeded(Event, Answer):
    """The provider answered."""

    TYPE = "attempt.succeeded"


class AttemptFailed(Event, Outcome):
    """The call ended without a usable answer."""

    TYPE = "attempt.failed"
    error_type: ErrorType
    retryable: bool
    """Worth another try: the error type's rule, unless the provider said no."""
    status_code: Natural | None
    retry_after_ms: Natural | None
    message_digest: Digest | None


class AttemptOrphaned(Event):
    """A start whose worker died; what it cost is unknown, up to ``exposure_nano_usd``."""

    TYPE = "attempt.orphaned"
    attempt: Positive
    cause: Literal["lease_expired", "worker_gone", "cancelled"]
    exposure_nano_usd: Natural | None


class AttemptSettled(Event, Outcome):
    """A late or reconciled outcome of an orphaned or unknown attempt: the money, and the answer if it came."""

    TYPE = "attempt.settled"
    via: Literal["late", "reconciled"]
    outcome: Literal["succeeded", "failed"]
    error_type: ErrorType | None
    status_code: Natural | None
    message_digest: Digest | None


class RetryScheduled(Event, Decision):
    """Another attempt on the same step, not before an instant that has the jitter in it."""

    TYPE = "retry.scheduled"
    decision: Literal["retry"]
    next_attempt: Positive
    purpose: Purpose
    step: Positive
    tier: Tier
    wait_ms: Natural
    not_before_ms: Natural


class FallbackSelected(Event, Decision):
    """The next step takes over."""

    TYPE = "fallback.selected"
    decision: Literal["fallback"]
    purpose: Purpose
    from_step: Positive
    to_step: Positive
    from_tier: Tier
    to_tier: Tier


class EscalationSelected(Event, Decision):
    """A verdict sent the task up the ladder."""

    TYPE = "escalation.selected"
    decision: Literal["escalate"]
    from_step: Positive
    to_step: Positive
    from_tier: Tier
    to_tier: Tier
    judged_attempt: Positive
    judge_attempt: Positive | None


class ValidationPassed(Event, Verdict):
    """The judge found the output good."""

    TYPE = "validation.passed"


class ValidationFailed(Event, Verdict):
    """The judge found the output wanting."""

    TYPE = "validation.failed"


class ValidationErrored(Event, Judgement):
    """No verdict could be had; never a pass."""

    TYPE = "validation.errored"
    error_type: ErrorType


class BudgetRefused(Event, Decision):
    """A cap stood in the way."""

    TYPE = "budget.refused"
    decision: Literal["refused"]
    cap: str
    step: Positive
    tier: Tier


class TaskHeld(Event, Decision):
    """The task waits for a person."""

    TYPE = "task.held"
    decision: Literal["hold"]
    tier: Tier


class TaskReleased(Event, Decision):
    """A person let it go on."""

    TYPE = "task.released"
    decision: Literal["release"]
    tier: Tier


class TaskSucceeded(Event, Decision):
    """The end: an answer."""

    TYPE = "task.succeeded"
    decision: Literal["succeed"]
    tier: Tier
    attempt: Positive | None
    """The attempt whose answer is the task's; NULL where a person judged."""
    accepted: bool | None
    """What the judge said in the end; NULL where nobody judged."""


class TaskFailed(Event, Decision):
    """The end: no answer."""

    TYPE = "task.failed"
    decision: Literal["fail_fast", "exhausted"]
    tier: Tier
    attempt: Positive | None
    error_type: ErrorType


class TaskCancelled(Event, Decision):
    """The end: a person or a program called it off."""

    TYPE = "task.cancelled"
    decision: Literal["cancel"]
    tier: Tier


class PayloadErased(Event):
    """A text was erased with its salt; its digest stays."""

    TYPE = "payload.erased"
    slot: str
    digest: Digest
    reason: str
