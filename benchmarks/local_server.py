"""A fast provider on loopback, in a process of its own: ``python -m benchmarks.local_server`` prints its address.

It answers every POST at once with the same bytes: Anthropic's message, or for Google's path a stream of one event.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["ANSWER", "running"]

ANSWER: Final = "The quick brown fox jumps over the lazy dog. " * 8
MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-5-5",
    "content": [{"type": "text", "text": ANSWER}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 120,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 90,
        "service_tier": "standard",
    },
}
CHUNK: Final = json.dumps(
    {
        "candidates": [{"content": {"role": "model", "parts": [{"text": ANSWER}]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 120, "candidatesTokenCount": 90, "totalTokenCount": 210},
        "modelVersion": "gemini-flash",
    }
).encode()


def _events() -> bytes:
    """Return the message as the API streams it."""
    told: tuple[dict[str, Any], ...] = (
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 90}},
        {"type": "message_stop"},
    )
    return b"".join(b"event: %s\ndata: %s\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in told)


def _reply(kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\nrequest-id: req_01\r\ncontent-length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


ANTHROPIC: Final = _reply(b"application/json", json.dumps(MESSAGE).encode())
ANTHROPIC_STREAM: Final = _reply(b"text/event-stream", _events())
GOOGLE: Final = _reply(b"text/event-stream", b"data: " + CHUNK + b"\r\n\r\n")


def _answer(head: bytes, body: bytes) -> bytes:
    if b":streamgeneratecontent" in head:
        return GOOGLE
    return ANTHROPIC_STREAM if b'"stream":true' in body.replace(b" ", b"") else ANTHROPIC


class Connection(asyncio.Protocol):
    """Reads just enough of HTTP to know where a request ends."""

    def __init__(self) -> None:
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            _, _, rest = head.partition(b"content-length:")
            size = int(rest.partition(b"\r\n")[0] or 0)
            if len(self._read) < end + 4 + size:
                return
            body, self._read = self._read[end + 4 : end + 4 + size], self._read[end + 4 + size :]
            if self._transport is not None:
                self._transport.write(_answer(head, body))


async def serve() -> None:
    """Serve until stdin ends, which it does when whoever started this is gone."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    host, port = server.sockets[0].getsockname()
    sys.stdout.write(f"http://{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    server.close()


@contextmanager
def running() -> Iterator[str]:
    """Start the server in a process of its own and return its address."""
    command = [sys.executable, "-m", "benchmarks.local_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603 - ours
        try:
            yield (server.stdout.readline() if server.stdout else "").strip()
        finally:
            if server.stdin:
                server.stdin.close()
            server.wait(timeout=10)


if __name__ == "__main__":
    asyncio.run(serve())
