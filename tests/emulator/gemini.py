"""The emulated Gemini API of Google: scripted answers, errors and faults, and the requests it saw."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.emulator.server import Emulator, Reply, Request

__all__ = [
    "Google",
    "Step",
    "answer",
    "blocked",
    "cut",
    "dropped",
    "early_end",
    "empty",
    "error",
    "garbage",
    "hang",
    "max_tokens",
    "model_of",
    "prompt_of",
    "raw",
    "refusal",
    "stream_error",
    "system_of",
    "tool_call",
    "verdict",
]

Step = Callable[[Request], Reply]
"""What is answered to one request."""

ROUTE = r"/v1beta/models/[^/:]+:(streamGenerateContent|generateContent|countTokens)"
PRELUDE = "<session_context>"
"""How the page about itself begins that the CLI may put before a prompt."""


class Google:
    """The routes of Gemini on an emulator; steps are used one a request, then a plain answer for ever."""

    def __init__(self, emulator: Emulator) -> None:
        self.url = emulator.url
        self._emulator = emulator
        self._steps: deque[Step] = deque()
        self._choose: Callable[[str], Step | None] | None = None
        self._lock = threading.Lock()
        emulator.route("POST", ROUTE, self._respond)

    @property
    def requests(self) -> list[Request]:
        """The calls received so far, of any model."""
        return [request for request in self._emulator.log if request.path.startswith("/v1beta/")]

    def script(self, *steps: Step) -> None:
        """Queue steps, one a request."""
        with self._lock:
            self._steps.extend(steps)

    def by_prompt(self, choose: Callable[[str], Step | None]) -> None:
        """Ask ``choose`` first, with the prompt's text; None leaves the request to the script."""
        self._choose = choose

    def _respond(self, request: Request) -> Reply:
        step = self._choose(prompt_of(request.json())) if self._choose else None
        if step is None:
            with self._lock:
                step = self._steps.popleft() if self._steps else _default
        return step(request)


def prompt_of(body: Mapping[str, Any]) -> str:
    """Give the user's text of a request's JSON, without the CLI's page about itself."""
    parts = [str(part.get("text", "")) for part in body["contents"][-1]["parts"]]
    return "".join(text for text in parts if not text.startswith(PRELUDE))


def system_of(body: Mapping[str, Any]) -> str | None:
    """Give the system text of a request's JSON."""
    system = body.get("systemInstruction")
    return "".join(part["text"] for part in system["parts"]) if system else None


def model_of(request: Request) -> str:
    """Give the model that a request names, which stands in its path."""
    named = re.search(r"/models/([^/:]+):", request.path)
    return named[1] if named else ""


def answer(
    text: str | None = None,
    *,
    usage: Mapping[str, int] | None = None,
    served: str | None = None,
    finish_reason: str | None = "STOP",
    pieces: int = 1,
    delay_s: float = 0.0,
    usage_throughout: bool = False,
) -> Step:
    """Answer in one event or more; ``usage`` goes over plain counts, without thinking or cached tokens.

    Args:
        text: None repeats the prompt's beginning.
        usage: Google's names (promptTokenCount …); {} sends no usage at all.
        served: the modelVersion, else the requested model.
        finish_reason: None ends the stream without one.
        pieces: over how many events the text is spread.
        delay_s: before the answer begins.
        usage_throughout: give the usage in every event, as Google does, and not only in the last.
    """

    def step(request: Request) -> Reply:
        prompt = prompt_of(request.json())
        said = f"Answer to: {prompt[:100]}" if text is None else text
        size = max(1, -(-len(said) // pieces))
        cuts = [said[at : at + size] for at in range(0, len(said), size)] or [""]
        counts = {"promptTokenCount": 10 + len(prompt) // 4, "candidatesTokenCount": 1 + len(said) // 4}
        counts |= usage or {}
        counts["totalTokenCount"] = sum(counts.values()) - counts.get("cachedContentTokenCount", 0)
        events = [_event(request, [{"text": piece}], served=served) for piece in cuts]
        events[-1]["candidates"][0] |= {} if finish_reason is None else {"finishReason": finish_reason}
        for each in events if usage_throughout else events[-1:]:
            each.update({} if usage == {} else {"usageMetadata": counts})
        return _stream(events, delay_s)

    return step


def error(
    status: int,
    message: str = "emulated error",
    *,
    retry_delay_s: float | None = None,
    quota: str | None = None,
    reason: str = "EMULATED",
) -> Step:
    """Answer an error status with Google's error body.

    Args:
        status: the HTTP status.
        message: Google's words.
        retry_delay_s: a RetryInfo.
        quota: the id of a broken quota, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier.
        reason: Google's name of the status.
    """
    details: list[dict[str, Any]] = []
    if retry_delay_s is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_delay_s}s"})
    if quota is not None:
        violations = [{"quotaMetric": "generativelanguage.googleapis.com/requests", "quotaId": quota}]
        details.append({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations})
    told = {"code": status, "message": message, "status": reason, "details": details}
    return raw(json.dumps({"error": told}), status=status, content_type="application/json")


def stream_error(code: int = 503, message: str = "emulated error", reason: str = "UNAVAILABLE") -> bytes:
    """Write the error that Google puts into a stream that it gives up."""
    return json.dumps({"error": {"code": code, "message": message, "status": reason}}).encode()


def raw(body: str, *, status: int = 200, content_type: str = "text/event-stream") -> Step:
    """Answer these bytes, whatever they are."""
    return lambda _request: Reply(status, {"content-type": content_type}, body.encode())


def max_tokens(text: str = "") -> Step:
    """Stop at the output limit, with the text so far."""
    return answer(text, finish_reason="MAX_TOKENS")


def refusal(text: str = "", reason: str = "SAFETY") -> Step:
    """Stop because of what the answer says: SAFETY, RECITATION, OTHER …; billed."""
    return answer(text, finish_reason=reason)


def blocked(reason: str = "SAFETY") -> Step:
    """Refuse the prompt itself: no candidate, and the prompt's tokens."""

    def step(request: Request) -> Reply:
        counts = {"promptTokenCount": 10, "totalTokenCount": 10}
        event = {"promptFeedback": {"blockReason": reason}, "usageMetadata": counts, "modelVersion": model_of(request)}
        return _stream([event])

    return step


def empty() -> Step:
    """Stop as if all were well, without text."""
    return answer("")


def early_end(text: str = "Half an") -> Step:
    """End the stream cleanly in the middle, without a finish reason."""
    return answer(text, finish_reason=None)


def tool_call(name: str = "run_shell_command", **args: Any) -> Step:
    """Ask for a tool instead of answering."""

    def step(request: Request) -> Reply:
        event = _event(request, [{"functionCall": {"name": name, "args": args}}])
        event["candidates"][0]["finishReason"] = "STOP"
        return _stream([event])

    return step


def verdict(
    pass_: bool = True,  # noqa: FBT001, FBT002 - a verdict's first word
    issues: Sequence[str] = (),
    confidence: float = 0.9,
    *,
    escalate: bool = False,
) -> Step:
    """Answer as a judge."""
    said = {"pass": pass_, "issues": list(issues), "confidence": confidence, "escalate": escalate}
    return answer(json.dumps(said))


def garbage() -> Step:
    """Answer 200 with a page that is no event."""
    return raw("<html>Bad gateway, but 200</html>", content_type="text/html")


def dropped() -> Step:
    """Close the connection after the request, before any answer."""
    return lambda _request: Reply(drop_after=0)


def cut(after: int = 20) -> Step:
    """Close the connection in the middle of the answer's body."""

    def step(request: Request) -> Reply:
        whole = answer()(request)
        return Reply(whole.status, whole.headers, chunks=whole.chunks, drop_after=after)

    return step


def hang() -> Step:
    """Never answer."""
    return lambda _request: Reply(hang=True)


def _default(request: Request) -> Reply:
    wants_json = "responseJsonSchema" in request.json().get("generationConfig", {})
    return (verdict() if wants_json else answer())(request)


def _event(request: Request, parts: list[dict[str, Any]], *, served: str | None = None) -> dict[str, Any]:
    return {
        "candidates": [{"index": 0, "content": {"role": "model", "parts": parts}}],
        "modelVersion": served or model_of(request),
        "responseId": f"resp-{request.index:08d}",
    }


def _stream(events: Sequence[Mapping[str, Any]], delay_s: float = 0.0) -> Reply:
    chunks = tuple(f"data: {json.dumps(event)}\r\n\r\n".encode() for event in events)
    return Reply(headers={"content-type": "text/event-stream"}, chunks=chunks, delay_s=delay_s)
