"""Whether the Gemini CLI keeps to what it is told: asked of the real one, given a loopback port to speak to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["LIMIT", "PROMPT", "SYSTEM", "Loopback", "Sent", "departures", "loopback"]

PROMPT: Final = "Say ready. @. @/etc/hostname ${HOME} {{args}}"
"""Has what the CLI would replace if it were not locked down."""
SYSTEM: Final = "Be brief. ${agentSkills}"
LIMIT: Final = 16

BODY_BYTES_MAX: Final = 2**20
LENGTH: Final = re.compile(rb"^content-length: *(\d{1,9})\r$", re.IGNORECASE | re.MULTILINE)
AGENT: Final = re.compile(rb"^user-agent: *GeminiCLI[^/\r]*/([\w.+-]{1,40})", re.IGNORECASE | re.MULTILINE)
MODEL: Final = re.compile(rb"^POST \S*/models/([^/:\s]{1,256}):")

ANSWER: Final = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "ready"}]}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of the CLI."""

    model: str | None
    """The model in its address; None when it is no request to a model."""
    version: str | None
    """The CLI's, as it says itself."""
    body: Mapping[str, Any]


@dataclass(slots=True)
class Loopback:
    """A port of this machine that answers as Gemini would, and keeps what it was sent."""

    url: str
    sent: list[Sent] = field(default_factory=list)

    def env(self, path: str) -> dict[str, str]:
        """Return the environment of a client that is to speak with this port only, with a key that opens nothing."""
        return {"PATH": path, "GEMINI_API_KEY": "dispatch-ledger-doctor", "GOOGLE_GEMINI_BASE_URL": self.url}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = LENGTH.search(head)
            body = await reader.readexactly(min(int(length[1]), BODY_BYTES_MAX) if length else 0)
            self.sent.append(_read(head, body))
            event = f"data: {json.dumps(ANSWER)}\r\n\r\n".encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(event), event)
            )
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def loopback() -> AsyncIterator[Loopback]:
    """Listen for as long as the block lasts.

    Raises:
        OSError: this machine has no loopback port to give.
    """
    port = Loopback("")
    server = await asyncio.start_server(port._serve, "127.0.0.1", 0)  # noqa: SLF001 - its own
    port.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield port
    finally:
        server.close()


def departures(sent: Sequence[Sent]) -> tuple[str, ...]:
    """Say in what one call was not one locked-down request; () when it was."""
    if len(sent) != 1:
        return (f"it made {len(sent)} requests where it was told to make one",)
    body = sent[0].body
    contents, system = body.get("contents"), body.get("systemInstruction")
    config = body.get("generationConfig")
    wrong = {
        "it offers tools to the model": bool(body.get("tools")),
        "it changes the prompt or adds to it": contents != [{"role": "user", "parts": [{"text": PROMPT}]}],
        "it changes the system text or adds to it": _texts(system) != [SYSTEM],
        "it loses the output limit": not isinstance(config, dict) or config.get("maxOutputTokens") != LIMIT,
    }
    return tuple(said for said, holds in wrong.items() if holds)


def _texts(content: Any) -> list[Any]:
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _read(head: bytes, body: bytes) -> Sent:
    model, version = MODEL.search(head), AGENT.search(head)
    try:
        read = json.loads(body)
    except ValueError:
        read = {}
    return Sent(
        None if model is None else model[1].decode("ascii", "replace"),
        None if version is None else version[1].decode("ascii", "replace"),
        read if isinstance(read, dict) else {},
    )
