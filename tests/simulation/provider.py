"""What a provider says to a request: an answer with figures of its own, or one of many troubles."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from clients.base import ErrorType, ExecutionResult, Usage
from tests.simulation.loop import Choices

__all__ = ["UPWARDS", "VERDICT", "answer"]

UPWARDS: Final = '{"pass": false, "issues": ["short"], "confidence": 0.9, "escalate": true}'
VERDICT: Final = '{"pass": true, "issues": [], "confidence": 0.9, "escalate": false}'
LATENCY_S: Final = (0.1, 0.0, 1.0, 4.9)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that is not answered."""

    error_type: ErrorType | None
    """None: the client's own code breaks."""
    billed: bool = False
    over_s: float | None = None
    """It ends so long after the deadline; None: at any time before it."""
    known: dict[str, Any] = field(default_factory=dict)


TROUBLES: Final = (
    Trouble("overloaded"),
    Trouble("rate_limited"),
    Trouble("rate_limited", known={"retry_after_ms": 4_000, "status_code": 429}),
    Trouble("rate_limited", known={"retry_after_ms": 400_000, "status_code": 429}),
    Trouble("api_error", known={"status_code": 500}),
    Trouble("connection", billed=True),
    Trouble("timeout", billed=True, over_s=0.0),
    Trouble("timeout", billed=True, over_s=1_000.0),
    Trouble("authentication", known={"status_code": 401}),
    Trouble("invalid_request", known={"status_code": 400}),
    Trouble("other", billed=True),
    Trouble(None, billed=True),
)


async def answer(
    choices: Choices, trouble_per_mille: int, timeout_s: float, model: str, tokens: tuple[int, int], text: str
) -> ExecutionResult:
    """Let time pass, then answer or not."""
    if not choices.chance(trouble_per_mille):
        await asyncio.sleep(choices.one_of(LATENCY_S))
        return _answered(model, tokens, text)
    trouble = choices.one_of(TROUBLES)
    await asyncio.sleep(choices.one_of(LATENCY_S) if trouble.over_s is None else timeout_s + trouble.over_s)
    if trouble.error_type is None:
        raise ValueError("the client's own fault")
    return ExecutionResult(
        model=model,
        success=False,
        error=f"the provider said {trouble.error_type}",
        error_type=trouble.error_type,
        usage_source="unknown" if trouble.billed else "not_billed",
        **trouble.known,
    )


def _answered(model: str, tokens: tuple[int, int], text: str) -> ExecutionResult:
    usage = Usage(
        model=model,
        input_uncached_tokens=tokens[0],
        cache_read_tokens=0,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=tokens[1],
    )
    return ExecutionResult(
        model=model,
        response=text,
        success=True,
        latency_ms=1,
        tokens_input=tokens[0],
        tokens_output=tokens[1],
        usage=(usage,),
        usage_source="provider",
        served_model=model,
        finish_reason="end_turn",
        provider_requests=1,
    )
