"""What a simulated model does: outcomes in a script, chances of failure, and the draws of a seed."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.base import ErrorType, UsageSource

__all__ = [
    "FAULTS",
    "Draw",
    "Fault",
    "Outcome",
    "cut_up",
    "read_failures",
    "read_latency_ms",
    "read_outcomes",
    "read_table",
    "refuse_unknown",
]

LATENCY_MS_MAX = 3_600_000
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
PASS_CHANCE = 0.9
PIECES_MAX = 5

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class Outcome(BaseModel):
    """How one scripted call ends; what is None is drawn from the seed."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    error_type: ErrorType | None = None
    retry_after_s: Annotated[float, Field(ge=0, le=LATENCY_MS_MAX / 1000)] | None = None
    tokens_input: Count | None = None
    tokens_output: Count | None = None
    latency_ms: Annotated[int, Field(ge=0, le=LATENCY_MS_MAX)] | None = None
    text: str | None = None
    partial: str | None = None
    """What is heard of the answer before ``error_type`` breaks it off; only a stream lets anyone hear it."""
    stop_reason: str | None = None
    verdict: dict[str, Any] | None = None


@dataclass(frozen=True)
class Fault:
    """How an error type shows: the status of a real provider, and whether the call was billed."""

    message: str
    status_code: int | None = None
    usage_source: UsageSource = "unknown"
    provider_requests: int = 1
    finish_reason: str | None = None


def _refused(status_code: int, message: str) -> Fault:
    return Fault(message, status_code, "not_billed")


FAULTS: Mapping[ErrorType, Fault] = {
    "rate_limited": _refused(429, "too many requests"),
    "overloaded": _refused(529, "overloaded"),
    "api_error": _refused(500, "internal error"),
    "authentication": _refused(401, "the key is not valid"),
    "permission": _refused(403, "this key may not use this model"),
    "billing": _refused(402, "no credit is left"),
    "not_found": _refused(404, "no such model"),
    "invalid_request": _refused(400, "the request is not valid"),
    "too_large": _refused(413, "the request is too large"),
    "context_window_exceeded": _refused(400, "the prompt is too long"),
    "client_missing": Fault("the client is not installed", None, "not_billed", provider_requests=0),
    "budget_refused": Fault("a cap refused the call", None, "not_billed", provider_requests=0),
    "cancelled": Fault("cancelled", None, "not_billed", provider_requests=0),
    "timeout": Fault("no answer in time; the call may have been billed"),
    "connection": Fault("the connection was lost after sending; the call may have been billed"),
    "worker_died": Fault("the worker died"),
    "interrupted": Fault("interrupted"),
    "other": Fault("something that nobody foresaw"),
    "content_refused": Fault("the model refused this prompt", 200, "provider", finish_reason="refusal"),
    "truncated": Fault("the output limit was reached before any text", 200, "provider", finish_reason="max_tokens"),
    "output_invalid": Fault("the answer is no verdict", 200, "provider", finish_reason="end_turn"),
}


class Draw:
    """The chances of one call: they depend on the seed, the model, the prompt and which call with it this is."""

    def __init__(self, seed: int, model: str, prompt: str, number: int) -> None:
        named = json.dumps([seed, model, number, prompt]).encode()
        self.digest = hashlib.sha256(named).hexdigest()
        # Only ``random()`` is used: it is the same in every version of Python.
        self._chance = random.Random(int(self.digest[:16], 16)).random  # noqa: S311 - a play, no secret
        self.latency = self._chance()
        self.failure = self._chance()
        self.tokens_input = self._chance()
        self.tokens_output = self._chance()

    def error_type(self, failures: Mapping[ErrorType, float]) -> ErrorType | None:
        """Choose a failure by its chance, or none."""
        reached = 0.0
        for error_type in sorted(failures):
            reached += failures[error_type]
            if self.failure < reached:
                return error_type
        return None

    def latency_ms(self, latency_ms: tuple[int, int]) -> int:
        """Choose a latency in a range, both ends included."""
        least, most = latency_ms
        return least + int(self.latency * (most - least + 1))

    def verdict(self) -> dict[str, Any]:
        """Choose a verdict: it mostly passes, and one that does not mostly asks for escalation."""
        passed = self._chance() < PASS_CHANCE
        confidence = round(0.6 + 0.4 * self._chance(), 3)
        escalate = not passed and self._chance() < PASS_CHANCE
        issues = [] if passed else ["The simulated judge missed a detail."]
        return {"pass": passed, "issues": issues, "confidence": confidence, "escalate": escalate}


def cut_up(text: str, latency_ms: int) -> list[tuple[int, str]]:
    """Cut an answer into a stream: each piece with the milliseconds that pass before it, the whole latency in all."""
    size = max(1, -(-len(text) // PIECES_MAX))
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    ends = [latency_ms * number // len(pieces) for number in range(len(pieces) + 1)]
    return [(ends[number + 1] - ends[number], piece) for number, piece in enumerate(pieces)]


def read_outcomes(script: Iterable[str | Mapping[str, Any]]) -> tuple[Outcome, ...]:
    """Read a script's items: "ok", an error type, or a table of ``Outcome``.

    Raises:
        ValueError: an item that is none of these, or a key nobody knows.
    """
    return tuple(_read_outcome(item) for item in script)


def _read_outcome(item: str | Mapping[str, Any]) -> Outcome:
    if isinstance(item, str):
        refuse_unknown([item], ["ok", *ERROR_TYPES], "outcome")
        return Outcome.model_validate({} if item == "ok" else {"error_type": item})
    if not isinstance(item, Mapping):
        raise ValueError(f"an outcome is a name or a table, not {item!r}")  # noqa: TRY004 - settings raise one kind
    refuse_unknown(item, Outcome.model_fields, "key of an outcome")
    if item.get("error_type") is not None:
        refuse_unknown([str(item["error_type"])], ERROR_TYPES, "error type")
    try:
        return Outcome.model_validate(dict(item))
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise ValueError(f"outcome {found['loc'][0]}: {found['msg']}, not {found['input']!r}") from None


def read_failures(failures: Mapping[str, float]) -> dict[ErrorType, float]:
    """Check the chances of failure.

    Raises:
        ValueError: no error type, no chance, or more than one in all.
    """
    refuse_unknown(failures, ERROR_TYPES, "error type")
    chances = {error_type: failures[error_type] for error_type in ERROR_TYPES if error_type in failures}
    for error_type, chance in chances.items():
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise ValueError(f"the chance of {error_type} must be from 0 to 1, not {chance!r}")
    if math.fsum(chances.values()) > 1 + 1e-9:
        raise ValueError(f"the chances of failure add up to {math.fsum(chances.values()):.3f}; at most 1 is possible")
    return chances


def read_latency_ms(latency_ms: int | Sequence[int]) -> tuple[int, int]:
    """Read a latency or a range of it.

    Raises:
        ValueError: neither a number of milliseconds nor two in order.
    """
    ends = (latency_ms, latency_ms) if isinstance(latency_ms, int) else tuple(latency_ms)
    match ends:
        case (int(least), int(most)) if 0 <= least <= most <= LATENCY_MS_MAX and not isinstance(latency_ms, bool):
            return least, most
    raise ValueError(f"latency_ms must be a number of ms or [least, most], at most {LATENCY_MS_MAX}: {latency_ms!r}")


def read_table(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Read a table among settings; one that is absent is empty.

    Raises:
        ValueError: something else stands there.
    """
    table = settings.get(key, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{key} must be a table, not {table!r}")  # noqa: TRY004 - settings raise one kind
    return table


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse a name that nobody knows, and say which known one is nearest.

    Raises:
        ValueError: for the first such name.
    """
    allowed = list(known)
    for name in names:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0)
            raise ValueError(
                f"unknown {what} {name!r}; did you mean {near[0]!r}?" if near else f"unknown {what} {name!r}"
            )
