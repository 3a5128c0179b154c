"""Reads what the Gemini CLI says with ``-o stream-json``: an event a line, as the answer comes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clients.base import ExecutionResult
from clients.gemini_answers import Asked, read_ended
from clients.gemini_failures import STATUS_BY_EXIT_CODE
from clients.pieces import Pieces
from clients.processes import Ended

__all__ = ["STREAM_BYTES_MAX", "Telling"]

STREAM_BYTES_MAX = 96 * 2**20
"""An answer of 32 MiB, and the prompt, which the CLI repeats: 8 MiB, up to six times as long when written as JSON."""

FAULTS: Mapping[str, str] = {
    "Model stream ended without a finish reason.": "NO_FINISH_REASON",
    "Model response was truncated because it exceeded the token limit.": "MAX_TOKENS_EXCEEDED",
    "The model response was blocked due to safety settings.": "SAFETY_BLOCKED",
    "The model response was blocked due to recitation/copyright filters.": "RECITATION_BLOCKED",
    "The model response was blocked due to other policy settings.": "OTHER_BLOCKED",
}
"""How the CLI words, in a stream, the faults that it names in ``-o json``; each is the beginning of a message."""

WRAPPED = "[API Error: "
"""How the CLI begins a provider's message; a closing bracket and advice of its own follow."""


class Telling:
    """What one process tells, taken in as it comes; the answer's text goes on to ``pieces``."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self._open: list[bytes] = []
        self._error: str | None = None
        self._result: Mapping[str, Any] | None = None

    def hear(self, data: bytes) -> bool:
        """Take in some bytes, which may end anywhere; False when the caller's ``on_text`` raised."""
        first, *more = data.split(b"\n")
        self._open.append(first)
        for line in more:
            self._take(b"".join(self._open))
            self._open = [line]
        return self.pieces.fault is None

    def read(self, asked: Asked, ended: Ended) -> ExecutionResult:
        """Turn what was told into a result, as if it had been told in one piece.

        A stream leaves out the thinking tokens, which are what the total has more than input and output, and the
        count of requests, of which the lock-down lets a call make one.
        """
        text = self.pieces.end()
        result = read_ended(asked, self._as_one(ended, text))
        update: dict[str, Any] = {"ttft_ms": self.pieces.ttft_ms(ended.started_at)}
        if result.raw_usage is not None:
            update["raw_usage"] = json.dumps(self._models(), separators=(",", ":"))
        if text and result.usage_source == "not_billed":
            # An error status after text is no answer to the request: what came before it may be billed.
            update |= {"usage_source": "unknown", "provider_requests": 1}
        return result.model_copy(update=update)

    def _take(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return
        match told:
            case {"type": "message", "role": "assistant", "content": str(text)}:
                self.pieces.add(text)
            case {"type": "error", "severity": "error", "message": str(message)}:
                self._error = message
            case {"type": "result"}:
                self._result = told

    def _as_one(self, ended: Ended, text: str) -> Ended:
        """Write what the CLI would have said without a stream."""
        if self._result is None:
            return ended
        told = self._result.get("error")
        if isinstance(told, dict):
            code = STATUS_BY_EXIT_CODE.get(ended.exit_code or 0, ended.exit_code)
            error = {"error": {"message": _unwrapped(str(told.get("message", ""))), "code": code}}
            return replace(ended, stderr=ended.stderr + b"\n" + json.dumps(error, indent=2).encode())
        fault = next((name for words, name in FAULTS.items() if (self._error or "").startswith(words)), None)
        models = {name: _counts(stats, fault) for name, stats in self._models().items()}
        said: dict[str, Any] = {"response": text, "stats": {"models": models}}
        if self._error is not None or self._result.get("status") != "success":
            said["error"] = {"message": self._error or "it says that it failed, and not why"}
        return replace(ended, stdout=json.dumps(said).encode())

    def _models(self) -> Mapping[str, Any]:
        stats = self._result.get("stats") if self._result else None
        models = stats.get("models") if isinstance(stats, dict) else None
        return models if isinstance(models, dict) else {}


def _counts(stats: Any, fault: str | None) -> dict[str, Any]:
    """Write one model's counts as ``-o json`` does."""
    told = stats if isinstance(stats, dict) else {}
    prompt, candidates, total = (told.get(name) for name in ("input_tokens", "output_tokens", "total_tokens"))
    tokens = {"prompt": prompt, "candidates": candidates, "cached": told.get("cached")}
    if type(prompt) is type(candidates) is type(total) is int and total >= prompt + candidates:
        tokens["thoughts"] = total - prompt - candidates
    else:
        tokens["candidates"] = None
    return {"tokens": tokens, "api": {"totalRequests": 1, "errorsByType": {fault: 1} if fault else {}}}


def _unwrapped(message: str) -> str:
    if not message.startswith(WRAPPED):
        return message
    inner, closed, _advice = message.removeprefix(WRAPPED).rpartition("]")
    return inner if closed else message.removeprefix(WRAPPED)
