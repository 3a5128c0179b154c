"""The parts that several events share: why, decision inputs, usage, outcomes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ledger.policy import INT64_MAX, ErrorType, Limits, Natural, Policy, Positive, Step, Tier, Value

__all__ = [
    "Answer",
    "Answered",
    "BrakeSeen",
    "BudgetSeen",
    "ByCaller",
    "ByRule",
    "ByScore",
    "Decision",
    "DecisionKind",
    "Digest",
    "Fact",
    "Inputs",
    "Judgement",
    "Natural",
    "Outcome",
    "Positive",
    "TaskRequest",
    "UsageRow",
    "UsageSource",
    "Verdict",
    "Why",
]

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
UsageSource = Literal["provider", "stream_partial", "estimated", "not_billed", "unknown"]
Fact = Literal[
    "attempt.succeeded",
    "attempt.failed",
    "attempt.orphaned",
    "attempt.settled",
    "validation.passed",
    "validation.failed",
    "validation.errored",
    "budget.refused",
]
"""Types of the events that a decision answers."""
DecisionKind = Literal[
    "route",
    "retry",
    "fallback",
    "escalate",
    "fail_fast",
    "exhausted",
    "refused",
    "hold",
    "release",
    "cancel",
    "succeed",
]


class ByCaller(Value):
    """The caller named the tier."""

    kind: Literal["caller"]


class ByRule(Value):
    """A rule named the tier."""

    kind: Literal["rule"]
    rule: str


class ByScore(Value):
    """A score named the tier, in millionths."""

    kind: Literal["score"]
    scorer: str
    score_ppm: Annotated[int, Field(ge=-INT64_MAX, le=INT64_MAX)]


Why = Annotated[ByCaller | ByRule | ByScore, Field(discriminator="kind")]


class Answered(Value):
    """The fact that a decision answers; the task's own story up to the decision."""

    event: Fact
    attempt: Positive | None
    error_type: ErrorType | None


class BrakeSeen(Value):
    """An open breaker as it was seen at a position of the ledger."""

    provider: str
    model: str
    until_ms: Natural
    position: Natural


class BudgetSeen(Value):
    """A cap and what stood against it at a position of the ledger, in nano-USD; NULL where unknown."""

    cap: str
    limit: Natural
    settled: Natural
    unknown: Natural | None
    reserved: Natural
    asked: Natural | None
    position: Natural

    @property
    def refuses(self) -> bool:
        """Say that what was asked does not fit beside settled and unknown spend, whatever comes of the running."""
        if self.unknown is None or self.asked is None:
            return True
        return self.settled + self.unknown + self.asked > self.limit

    @property
    def fits(self) -> bool:
        """Say that what was asked fits beside all spend and all reservations."""
        return not self.refuses and self.settled + (self.unknown or 0) + self.reserved + (self.asked or 0) <= self.limit


class Inputs(Value):
    """All that ``decide`` read besides the folded state, so that it can be asked again."""

    decided_at_ms: Natural
    jitter_ppm: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
    """The draw itself, within plus or minus the policy's ``jitter_ppm``."""
    outcome: Answered | None
    policy_hash: Digest
    decider: Positive
    """The version of the rules that decided."""
    brakes: tuple[BrakeSeen, ...]
    budgets: tuple[BudgetSeen, ...]


class Decision(Value):
    """What every decision event holds."""

    decision: DecisionKind
    reason: str
    """An error type, ``caller``, ``rule``, ``score``, ``orphaned``, ``answered`` …: what to group by."""
    rule: str
    """The rule that fired, as ``ledger.dispatch`` names it."""
    policy_hash: Digest
    inputs: Inputs


class UsageRow(Value):
    """Tokens that one call billed on one served model; the input counts are disjoint, NULL is unknown."""

    model: str | None
    input_uncached_tokens: Natural | None
    cache_read_tokens: Natural | None
    cache_write_5m_tokens: Natural | None
    cache_write_1h_tokens: Natural | None
    output_tokens: Natural | None
    reasoning_tokens: Natural | None
    """Of the output tokens, those spent on thinking."""
    service_tier: str | None
    inference_geo: str | None


class Outcome(Value):
    """What is known of a call that ended, whatever its end."""

    attempt: Positive
    response_digest: Digest | None
    served_model: str | None
    usage: tuple[UsageRow, ...]
    usage_source: UsageSource
    raw_usage: str | None
    """The provider's own usage object, as JSON text."""
    provider_requests: Natural | None
    latency_ms: Natural | None
    ttft_ms: Natural | None
    finish_reason: str | None
    request_id: str | None
    cost_nano_usd: Natural | None
    """NULL is unknown; 0 is known to be nothing."""
    exposure_nano_usd: Natural | None
    """The upper bound of a cost that is unknown; NULL where no bound is known or none is needed."""
    price_book: Digest | None


class Answer(Outcome):
    """An outcome with a text."""

    response_digest: Digest


class TaskRequest(Value):
    """What a caller asked for and what it is pinned to; ``task.submitted`` is this with its decision."""

    kind: Literal["generation", "validation"]
    tier: Tier
    """The tier asked for; a validation's is its judge's."""
    why: Why
    """Why this tier: the caller said so, a rule, or a score."""
    route: tuple[Step, ...]
    """The steps of a generation, in order; empty for a validation."""
    judge: tuple[Step, ...]
    """Who judges; empty where nobody does."""
    ladder: tuple[Step, ...]
    """Where a verdict may escalate to, upwards; their step numbers follow the route's."""
    policy: Policy
    limits: Limits
    max_tokens: Positive
    labels: dict[str, str]
    idempotency_key: str | None
    """The caller's own key; a batch's default key is a payload (``key_digest``)."""
    key_digest: Digest | None
    fingerprint: Digest | None
    prompt_digest: Digest
    """Of payload ``prompt``: the prompt, or the task that a judged output was made for."""
    system_digest: Digest | None
    output_digest: Digest | None
    """Of payload ``output``: the judged text of a validation of free text."""
    subject_digest: Digest | None
    """Of payload ``subject``: the label ``subject``, which can be erased."""
    owner: str | None
    """The worker that submitted it and works on it; NULL where anybody may."""
    replay_of: str | None
    judged_task_id: str | None
    judged_attempt: Positive | None


class Judgement(Value):
    """A judge's answer about one attempt, or about a text."""

    judged_task_id: str | None
    """The task judged when it is another one; NULL inside a judged task and for a free text."""
    judged_attempt: Positive | None
    judge_attempt: Positive | None
    """The attempt that was the judge's call; NULL when a person judged."""


class Verdict(Judgement):
    """A verdict that was given."""

    issues: Annotated[int, Field(ge=0, le=3)]
    issues_digest: Digest | None
    """Of the payload with the issues, a JSON list of texts."""
    confidence_thousandths: Annotated[int, Field(ge=0, le=1000)]
    escalate: bool
