"""Reads what the Gemini CLI said: an answer on stdout, with usage by model, or why there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clients.base import ExecutionResult, Usage, UsageSource
from clients.gemini_failures import Failure, read_failure
from clients.processes import Ended

__all__ = ["Asked", "failed", "read_ended", "shown"]

COUNT_MAX = 2**63 - 1
ERROR_CHARS_MAX = 600
OVERFLOW_BYTES_MIN = 2**18
"""Below this no estimate of a prompt's tokens comes near a context window."""

LOCKDOWN_REFUSED = re.compile(rb"^(\[\w+\] )?Invalid configuration in ", re.MULTILINE)

ENDS: Mapping[str, Failure] = {
    "MAX_TOKENS_EXCEEDED": Failure(
        "truncated",
        "Gemini reached the output limit before any text; thinking counts too, so raise max_tokens",
        finish_reason="max_tokens",
    ),
    "SAFETY_BLOCKED": Failure("content_refused", "Gemini blocked the answer for safety", finish_reason="refusal"),
    "RECITATION_BLOCKED": Failure(
        "content_refused", "Gemini blocked the answer as recitation", finish_reason="refusal"
    ),
    "OTHER_BLOCKED": Failure("content_refused", "Gemini blocked the answer by a policy", finish_reason="refusal"),
}
UNFINISHED = "NO_FINISH_REASON"


@dataclass(frozen=True)
class Asked:
    """What was asked, as far as the reading of the answer needs it; the secret is taken out of every message."""

    model: str
    max_tokens: int
    prompt_bytes: int
    timeout_s: float
    secret: str = ""


@dataclass(frozen=True)
class _Report:
    """The CLI's JSON: an answer and statistics by model, in the order the CLI gives them."""

    response: str = ""
    error: str | None = None
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    complete: bool = False
    counted: bool = False

    @property
    def served_model(self) -> str | None:
        """The model that answered: the one in the main role, where several are listed."""
        main = [name for name, stats in self.models.items() if "main" in _mapping(stats.get("roles"))]
        return next(iter(main or self.models), None)

    @property
    def faults(self) -> frozenset[str]:
        """The CLI's names for what was wrong with the answer."""
        return frozenset(name for stats in self.models.values() for name in _mapping(_api(stats).get("errorsByType")))

    @property
    def requests(self) -> int | None:
        """The requests that were made; 0 when the CLI gives statistics and no model in them."""
        if not self.models:
            return 0 if self.counted else None
        counts = [_count(_api(stats).get("totalRequests")) for stats in self.models.values()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def read_ended(asked: Asked, ended: Ended) -> ExecutionResult:
    """Turn an ended process into a result: success only with exit code 0, a whole answer and accepted settings."""
    report = _read_report(ended.stdout)
    usage = tuple(_usage(name, stats) for name, stats in report.models.items())
    failure = _failure(asked, ended, report)
    source = _usage_source(failure, report, usage)
    counted = source in {"provider", "stream_partial"}
    tokens_output = sum(row.output_tokens or 0 for row in usage)
    return ExecutionResult(
        model=asked.model,
        response="" if failure else report.response,
        tokens_input=sum(row.tokens_input or 0 for row in usage) if counted else None,
        tokens_output=tokens_output if counted else None,
        latency_ms=ended.latency_ms,
        success=failure is None,
        error=shown(failure.message, asked.secret) if failure else None,
        usage=usage if any(map(_is_known, usage)) else (),
        finish_reason=_finish_reason(failure, tokens_output, asked.max_tokens),
        served_model=report.served_model,
        error_type=failure.error_type if failure else None,
        usage_source=source,
        status_code=failure.status_code if failure else None,
        retry_after_ms=failure.retry_after_ms if failure else None,
        raw_usage=json.dumps(report.models, separators=(",", ":")) if report.models else None,
        provider_requests=_requests(failure, report),
    )


def failed(model: str, failure: Failure) -> ExecutionResult:
    """Make the result of a call for which no process ran."""
    return ExecutionResult(
        model=model,
        success=False,
        error=failure.message,
        error_type=failure.error_type,
        usage_source=failure.usage_source,
        provider_requests=failure.provider_requests,
    )


def _failure(asked: Asked, ended: Ended, report: _Report) -> Failure | None:
    match ended.ending:
        case "deadline":
            return Failure("timeout", f"Gemini gave no answer within {asked.timeout_s:g} s; it may bill the call")
        case "too_much_output":
            return Failure("api_error", "the Gemini CLI said more than 32 MiB and was stopped")
    if LOCKDOWN_REFUSED.search(ended.stderr):
        return Failure(
            "other",
            "the Gemini CLI did not accept the settings that lock it down and went on without them, "
            "so its answer was discarded; another version of it is needed",
        )
    if ended.exit_code:
        return read_failure(ended.exit_code, ended.stderr.decode(errors="replace"))
    return _judge(asked, report)


def _judge(asked: Asked, report: _Report) -> Failure | None:
    """Say why an exit code of 0 is no success, or give None."""
    if not report.complete:
        return Failure("api_error", "the Gemini CLI ended without an answer, as it does when something else stops it")
    for fault in sorted(report.faults & ENDS.keys()):
        return ENDS[fault]
    if report.error is not None:
        return Failure("api_error", f"Gemini's answer cannot be used: {report.error}")
    if report.response:
        return None
    if report.requests == 0:
        why = f"the Gemini CLI sent nothing of the {asked.prompt_bytes:,} bytes"
        if asked.prompt_bytes < OVERFLOW_BYTES_MIN:
            return Failure("api_error", why, "not_billed")
        return Failure("context_window_exceeded", f"{why}: it holds them too many for the model", "not_billed")
    return Failure("api_error", "Gemini answered without text")


def _usage_source(failure: Failure | None, report: _Report, usage: tuple[Usage, ...]) -> UsageSource:
    """Say where the counts are from; those of an answer that broke off may still have grown."""
    if not usage or not all(map(_is_known, usage)):
        return failure.usage_source if failure else "unknown"
    return "stream_partial" if UNFINISHED in report.faults else "provider"


def _is_known(row: Usage) -> bool:
    return row.input_uncached_tokens is not None


def _requests(failure: Failure | None, report: _Report) -> int | None:
    counted = report.requests
    return failure.provider_requests if counted is None and failure else counted


def _finish_reason(failure: Failure | None, tokens_output: int, max_tokens: int) -> str | None:
    """Tell what can be told: the CLI hides the reason, but an answer as long as the limit was cut by the limit."""
    if failure is not None:
        return failure.finish_reason
    return "max_tokens" if tokens_output >= max_tokens else None


def _read_report(stdout: bytes) -> _Report:
    try:
        said = json.loads(stdout)
    except (ValueError, RecursionError):
        return _Report()
    if not isinstance(said, dict) or not isinstance(said.get("response", ""), str):
        return _Report()
    stats = _mapping(said.get("stats"))
    told = said.get("error")
    message = _mapping(told).get("message", told)
    return _Report(
        response=_whole(said.get("response", "")),
        error=None if told is None else str(message),
        models={_whole(name): _mapping(counts) for name, counts in _mapping(stats.get("models")).items()},
        complete="response" in said,
        counted="models" in stats,
    )


def _usage(name: str, stats: Mapping[str, Any]) -> Usage:
    """Read one model's counts; nothing but zeros means that Gemini sent no usage, so all is unknown.

    ``prompt`` includes the cached tokens. Gemini bills no cache writes by the request: they are known to be zero.
    """
    tokens = {kind: _count(count) for kind, count in _mapping(stats.get("tokens")).items()}
    prompt, cached = tokens.get("prompt"), tokens.get("cached") or 0
    candidates, thoughts = tokens.get("candidates"), tokens.get("thoughts") or 0
    if prompt is None or candidates is None or cached > prompt or not any(tokens.values()):
        return Usage(model=name)
    return Usage(
        model=name,
        input_uncached_tokens=prompt - cached,
        cache_read_tokens=cached,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=candidates + thoughts,
        reasoning_tokens=thoughts,
    )


def _api(stats: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(stats.get("api"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def _whole(text: str) -> str:
    """Replace half pairs, which JSON can say and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(message: str, secret: str) -> str:
    """Take the key out, which Google repeats in some messages, before the message is cut."""
    hidden = _whole(message.replace(secret, "[key]") if secret else message)
    return hidden if len(hidden) <= ERROR_CHARS_MAX else f"{hidden[:ERROR_CHARS_MAX]}…"
