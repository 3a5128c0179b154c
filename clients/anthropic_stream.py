"""One streamed request to the Messages API: its text as it comes, and what is known of it when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clients.anthropic_errors import Failure, read_exception, read_status
from clients.pieces import Pieces

if TYPE_CHECKING:
    import httpx2
    from anthropic import AsyncAnthropic

__all__ = ["UNSTREAMED_TOKENS_MAX", "Came", "stream"]

UNSTREAMED_TOKENS_MAX = 21_333
"""From the next token on the SDK calls for a stream: a connection that is silent for ten minutes may be cut."""
EVENT_STREAM = "text/event-stream"
CLOSE_TIMEOUT_S = 5.0
LEFTOVER_S = 1.0
"""How long the end of a body may come after the last event; read to its end, a connection can be used again."""


@dataclass(frozen=True)
class Came:
    """What came of a streamed request.

    Attributes:
        body: the message as far as it came, written as the API writes a whole one; or a body that was no stream.
        failure: why it is not whole; None for a whole message and for a body that was no stream.
        streamed: the body was made of a stream.
    """

    status_code: int | None
    request_id: str | None
    content_type: str
    body: bytes
    failure: Failure | None
    streamed: bool
    latency_ms: int
    ttft_ms: int | None


class _Broken(Exception):
    """The stream itself says, or shows, that no more of it can be used."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Message:
    """A message as far as it has come.

    ``usage`` is what the API said last of each count; those of a stream are running totals.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.whole_at: float | None = None
        self._begun: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._stop_reason: Any = None

    def take(self, data: str, headers: Mapping[str, str]) -> None:
        """Take in one event; those that nobody knows yet are let pass.

        Raises:
            _Broken: an error, or no event of this API.
        """
        told = _object(data)
        match told.get("type"):
            case "message_start":
                self._begun = _members(told, "message")
                self._count(self._begun.get("usage"))
            case "content_block_start":
                self._say(_members(told, "content_block"), "text")
            case "content_block_delta":
                self._say(_members(told, "delta"), "text_delta")
            case "message_delta":
                self._stop_reason = _members(told, "delta").get("stop_reason")
                self._count(told.get("usage"))
            case "message_stop":
                self.whole_at = time.monotonic()
            case "error":
                raise _Broken(_read_error(data, headers))

    def written(self) -> bytes:
        """Write it as the API writes a whole message; empty when it has not begun."""
        text = self.pieces.end()
        if not self._begun:
            return b""
        message: dict[str, Any] = {
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": self._stop_reason,
        }
        message |= {"model": self._begun["model"]} if "model" in self._begun else {}
        message |= {"usage": self._usage} if self._usage else {}
        return json.dumps(message).encode()

    def _say(self, block: Mapping[str, Any], kind: str) -> None:
        text = block.get("text")
        if block.get("type") == kind and isinstance(text, str):
            self.pieces.add(text)

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage |= {name: count for name, count in usage.items() if count is not None}


async def stream(sdk: AsyncAnthropic, request: Mapping[str, Any], limit_s: float, pieces: Pieces) -> Came:
    """Make one request and pass its text on as it comes; the deadline holds for the whole of it.

    Raises:
        Exception: what the caller's ``on_text`` raised, once the connection is closed.
    """
    message = _Message(pieces)
    response: httpx2.Response | None = None
    failure: Failure | None = None
    body = b""
    sent_at = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            response = (await sdk.messages.create(**request, stream=True)).response
            try:
                if _is_stream(response):
                    await _read(response, message)
                else:
                    body = await response.aread()
            finally:
                await _close(response)
    except Exception as error:  # noqa: BLE001 - all of them become results; CancelledError is none of these
        failure = None if message.whole_at is not None else _failure(error, begun=response is not None)
    if pieces.fault is not None:
        raise pieces.fault
    streamed = response is not None and _is_stream(response)
    if streamed and failure is None and message.whole_at is None:
        failure = Failure("api_error", "Anthropic's stream ended early: the answer is incomplete; it may be billed")
    return Came(
        status_code=None if response is None else response.status_code,
        request_id=None if response is None else response.headers.get("request-id"),
        content_type="" if response is None else response.headers.get("content-type", "no content type"),
        body=message.written() if streamed else body,
        failure=failure,
        streamed=streamed,
        latency_ms=int(((message.whole_at or time.monotonic()) - sent_at) * 1000),
        ttft_ms=pieces.ttft_ms(sent_at),
    )


async def _read(response: httpx2.Response, message: _Message) -> None:
    """Read events until the message is whole, or its hearer cannot go on."""
    import anthropic  # noqa: PLC0415 - loaded by now

    # The SDK's own reading would build a model of each event, and lose the usage when a later one is broken.
    events: AsyncIterator[Any] = anthropic.AsyncStream.raw_events(response)
    async for event in events:
        if event.data:
            message.take(event.data, response.headers)
        if message.pieces.fault is not None:
            return
        if message.whole_at is not None:
            break
    async with asyncio.timeout(LEFTOVER_S):
        async for _ in events:
            continue


async def _close(response: httpx2.Response) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await response.aclose()


def _is_stream(response: httpx2.Response) -> bool:
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower() == EVENT_STREAM


def _failure(error: Exception, *, begun: bool) -> Failure:
    """Tell what broke a call; once an answer has begun, nothing says any more that it is not billed."""
    if isinstance(error, _Broken):
        return error.failure
    if begun and isinstance(error, UnicodeDecodeError):
        return _garbage("it is no UTF-8")
    failure = read_exception(error)
    if begun and failure.usage_source == "not_billed":
        return replace(failure, usage_source="unknown", provider_requests=1)
    return failure


def _read_error(data: str, headers: Mapping[str, str]) -> Failure:
    """Read an error that came inside the stream: its status is still the 200 of the beginning."""
    failure = read_status(200, headers, data.encode("utf-8", "replace"))
    message = failure.message.replace("answered 200", "broke its answer off", 1)
    return replace(failure, message=f"{message}; the call may have been billed", usage_source="unknown")


def _object(data: str) -> Mapping[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise _Broken(_garbage("an event is no JSON")) from None
    if not isinstance(told, dict):
        raise _Broken(_garbage("an event is no JSON object"))
    return told


def _members(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    if not isinstance(value, dict):
        raise _Broken(_garbage(f"an event has no {name}"))
    return value


def _garbage(why: str) -> Failure:
    return Failure("api_error", f"Anthropic's stream cannot be read: {why}; the call may have been billed")
