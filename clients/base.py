"""What every client of a model takes and gives: ``ModelClient``, ``ExecutionResult``, ``Usage``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ErrorType",
    "ExecutionResult",
    "ModelClient",
    "OnText",
    "PromptPrefix",
    "Usage",
    "UsageSource",
]

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

UsageSource = Literal["provider", "stream_partial", "estimated", "not_billed", "unknown"]

PromptPrefix = Literal["newline", "header"]
"""What was put before the prompt so that it arrives as plain text: nothing (None), one newline, or a fixed line."""

OnText = Callable[[str], object]

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Usage(BaseModel):
    """Token counts that one call billed on one served model.

    The four input counts are disjoint; ``reasoning_tokens`` is a part of ``output_tokens``. None is unknown,
    never zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    input_uncached_tokens: Count | None = None
    cache_read_tokens: Count | None = None
    cache_write_5m_tokens: Count | None = None
    cache_write_1h_tokens: Count | None = None
    output_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    service_tier: str | None = None
    inference_geo: str | None = None

    @property
    def tokens_input(self) -> int | None:
        """All input tokens, cached ones included (OpenTelemetry's meaning); None when the uncached count is unknown."""
        if self.input_uncached_tokens is None:
            return None
        cached = (self.cache_read_tokens, self.cache_write_5m_tokens, self.cache_write_1h_tokens)
        return self.input_uncached_tokens + sum(count or 0 for count in cached)


class ExecutionResult(BaseModel):
    """How one call, or one whole task, ended.

    ``tokens_*`` are None when unknown; ``response`` is "" on failure. ``task_id``, ``tier``, ``attempts`` and
    ``cost_nano_usd`` are None in a bare client's result: only the executor knows them.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    """The model asked for, as sent to the provider."""
    response: str = ""
    tokens_input: int | None = None
    tokens_output: int | None = None
    latency_ms: int = 0
    """From send to the last byte, on a monotonic clock."""
    success: bool
    error: str | None = None
    """What happened, for a person; None on success."""

    task_id: str | None = None
    tier: str | None = None
    attempts: int | None = None
    usage: tuple[Usage, ...] = ()
    """One row for each model that the call billed; () when unknown."""
    cost_nano_usd: int | None = None
    finish_reason: str | None = None
    """``end_turn``, ``max_tokens``, ``refusal`` … in Anthropic's words; None where the provider does not say."""
    request_id: str | None = None
    served_model: str | None = None
    error_type: ErrorType | None = None
    accepted: bool | None = None
    """What the judge said in the end; None where nobody judged."""
    verdict: dict[str, Any] | None = None
    """The verdict on this answer: ``pass``, ``issues``, ``confidence``, ``escalate``; None where there is none."""

    usage_source: UsageSource = "unknown"
    status_code: int | None = None
    retryable: bool | None = None
    """The provider's own word on another try; None leaves it to the error type."""
    retry_after_ms: Count | None = None
    ttft_ms: int | None = None
    """Time to the first text, streamed calls only."""
    raw_usage: str | None = None
    """The provider's usage object, as JSON text, untouched."""
    provider_requests: int | None = None
    """Requests the provider received for this one call, as far as the client can tell."""


class ModelClient(Protocol):
    """One model of one provider.

    A new provider subclasses this, or simply has the same ``execute``; ``prepare`` and ``aclose`` may be left out.
    """

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        """Get ready to send: import, connect, check the texts. Sends nothing.

        Returns what will be put before the prompt, or None.

        Raises:
            PromptRefused: this text can never be sent by this client.
            ClientUnready: the client cannot work here now.
        """
        return None

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Make one request and say how it ended; never raise for a provider's failure.

        Args:
            prompt: the user's text, sent byte for byte.
            max_tokens: the output limit.
            system: the system text, if any.
            timeout_s: seconds until the call is ended as ``timeout``.
            on_text: called with each piece of text as it comes; a client that cannot stream ignores it.
            schema: a JSON schema that the answer must follow; a client that cannot enforce one may ignore it,
                since the caller checks the answer itself.
        """
        ...

    async def aclose(self) -> None:
        """Release connections and processes."""
        return None  # noqa: RET501 - a body, so that a client with nothing to close may leave it out
