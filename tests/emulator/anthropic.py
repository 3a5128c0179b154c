"""The emulated Messages API of Anthropic: scripted answers, errors and faults, and the requests it saw."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tests.emulator.server import Emulator, Reply, Request

__all__ = [
    "Anthropic",
    "Step",
    "answer",
    "cut",
    "dropped",
    "empty",
    "error",
    "event",
    "garbage",
    "hang",
    "max_tokens",
    "prompt_of",
    "raw",
    "refusal",
    "stream_error",
    "system_of",
    "trickle",
    "verdict",
    "wrong_json",
]

Step = Callable[[Request], Reply]
"""What is answered to one request."""


class Anthropic:
    """The routes of Anthropic on an emulator; steps are used one a request, then a plain answer for ever."""

    def __init__(self, emulator: Emulator) -> None:
        self.url = emulator.url
        self._emulator = emulator
        self._steps: deque[Step] = deque()
        self._choose: Callable[[dict[str, Any]], Step | None] | None = None
        self._lock = threading.Lock()
        emulator.route("POST", "/v1/messages", self._respond)

    @property
    def requests(self) -> list[Request]:
        """The calls received so far."""
        return [request for request in self._emulator.log if request.path.partition("?")[0] == "/v1/messages"]

    def script(self, *steps: Step) -> None:
        """Queue steps, one a request."""
        with self._lock:
            self._steps.extend(steps)

    def by_prompt(self, choose: Callable[[dict[str, Any]], Step | None]) -> None:
        """Ask ``choose`` first, with the request's JSON; None leaves the request to the script."""
        self._choose = choose

    def _respond(self, request: Request) -> Reply:
        step = self._choose(request.json()) if self._choose else None
        if step is None:
            with self._lock:
                step = self._steps.popleft() if self._steps else _default
        return step(request)


def prompt_of(body: Mapping[str, Any]) -> str:
    """Give the user's text of a request's JSON."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def system_of(body: Mapping[str, Any]) -> str | None:
    """Give the system text of a request's JSON."""
    system = body.get("system")
    return "".join(block["text"] for block in system) if isinstance(system, list) else system


def answer(
    text: str | None = None,
    *,
    usage: Mapping[str, Any] | None = None,
    model: str | None = None,
    stop_reason: str | None = "end_turn",
    blocks: Sequence[Mapping[str, Any]] | None = None,
    request_id: str | None = None,
    delay_s: float = 0.0,
    pieces: int = 3,
) -> Step:
    """Answer a message; ``usage`` is merged over plain counts, and its None values are sent as null.

    Asked for a stream, each text comes in so many ``pieces``.
    """

    def step(request: Request) -> Reply:
        body = request.json()
        said = f"Answer to: {prompt_of(body)[:100]}" if text is None else text
        content = [{"type": "text", "text": said}] if blocks is None else list(blocks)
        counts = {
            "input_tokens": 10 + len(prompt_of(body)) // 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1 + len(said) // 4,
            "service_tier": "standard",
            "inference_geo": "global",
        }
        message = {
            "id": f"msg_{request.index:08d}",
            "type": "message",
            "role": "assistant",
            "model": model or body["model"],
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {**counts, **(usage or {})},
        }
        headers = _headers(request, request_id)
        if body.get("stream"):
            chunks = tuple(event(told) for told in _events(message, pieces))
            return Reply(200, {**headers, "content-type": "text/event-stream"}, chunks=chunks, delay_s=delay_s)
        return _json(200, message, headers, delay_s)

    return step


def event(told: Mapping[str, Any]) -> bytes:
    """Write one event of a stream."""
    return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n".encode()


def stream_error(type: str = "overloaded_error", message: str = "emulated error") -> bytes:  # noqa: A002 - the wire's own word
    """Write the event that ends a stream with an error."""
    return event({"type": "error", "error": {"type": type, "message": message}})


def error(
    status: int,
    type: str = "api_error",  # noqa: A002 - the wire's own word
    message: str = "emulated error",
    *,
    headers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Step:
    """Answer an error status with Anthropic's error body."""

    def step(request: Request) -> Reply:
        described: dict[str, Any] = {"type": type, "message": message}
        if details is not None:
            described["details"] = details
        body = {"type": "error", "error": described, "request_id": _request_id(request)}
        return _json(status, body, {**_headers(request), **(headers or {})})

    return step


def refusal(text: str = "") -> Step:
    """End with ``refusal``: billed, and no answer to use."""
    return answer(text, stop_reason="refusal", blocks=None if text else ())


def max_tokens(text: str = "") -> Step:
    """Stop at the output limit, with the text so far."""
    return answer(text, stop_reason="max_tokens", blocks=None if text else ())


def empty() -> Step:
    """End the turn without a block of text."""
    return answer("", blocks=())


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


def raw(body: str | bytes, *, status: int = 200, content_type: str = "application/json") -> Step:
    """Answer these bytes, whatever they are."""
    content = body.encode() if isinstance(body, str) else body
    return lambda request: Reply(status, {**_headers(request), "content-type": content_type}, content)


def garbage() -> Step:
    """Answer 200 with a page that is no JSON."""
    return raw("<html>Bad gateway, but 200</html>", content_type="text/html")


def wrong_json() -> Step:
    """Answer 200 with JSON that is no message."""
    return raw('{"unexpected": ["json"]}')


def dropped() -> Step:
    """Close the connection after the request, before any answer."""
    return lambda _request: Reply(drop_after=0)


def cut(after: int = 20) -> Step:
    """Close the connection in the middle of the answer's body."""

    def step(request: Request) -> Reply:
        whole = answer()(request)
        return Reply(whole.status, whole.headers, whole.body, whole.chunks, drop_after=after)

    return step


def trickle(interval_s: float, pieces: int = 1000) -> Step:
    """Send an answer's body one byte each interval: alive for ever, never done in time."""
    return lambda request: Reply(
        headers=_headers(request), chunks=(b"{", *(b" " for _ in range(pieces))), chunk_delay_s=interval_s
    )


def hang() -> Step:
    """Never answer."""
    return lambda _request: Reply(hang=True)


def _events(message: Mapping[str, Any], pieces: int) -> Iterator[dict[str, Any]]:
    """Take a message apart as the API does: the input's tokens come first, the output's at the end."""
    usage = dict(message["usage"])
    last = {name: usage.pop(name) for name in ("output_tokens", "output_tokens_details") if name in usage}
    first = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": first}
    yield {"type": "ping"}
    for index, block in enumerate(message["content"]):
        kind = block["type"]
        yield {
            "type": "content_block_start",
            "index": index,
            "content_block": {**block, **({kind: ""} if kind in block else {})},
        }
        text = block.get(kind, "")
        size = max(1, -(-len(text) // pieces))
        for at in range(0, len(text), size):
            delta = {"type": f"{kind}_delta", kind: text[at : at + size]}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": last,
    }
    yield {"type": "message_stop"}


def _default(request: Request) -> Reply:
    wants_json = "format" in (request.json().get("output_config") or {})
    return (verdict() if wants_json else answer())(request)


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str], delay_s: float = 0.0) -> Reply:
    return Reply(status, headers, json.dumps(body).encode(), delay_s=delay_s)


def _request_id(request: Request) -> str:
    return f"req_{request.index:08d}"


def _headers(request: Request, request_id: str | None = None) -> dict[str, str]:
    return {"content-type": "application/json", "request-id": request_id or _request_id(request)}
