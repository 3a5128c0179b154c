"""One call through a kept Gemini CLI: one session, one prompt, its text as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clients.base import OnText
from clients.gemini_acp import Agent, AgentGone, AgentRefused
from clients.gemini_witness import Heard, read_heard
from clients.pieces import Pieces

__all__ = ["Call", "Reply"]

CANCEL_S = 0.5
"""How long the CLI may take to end what was cancelled."""
TEXT_CHARS_MAX = 32 * 2**20

Ending = Literal["answered", "gone", "deadline", "too_much_text"]


@dataclass(frozen=True)
class Reply:
    """What the CLI told about one call, and what was heard beside it.

    Attributes:
        ending: ``answered`` (well or ill), ``gone`` with its process, or ended by us at the ``deadline`` or for
            ``too_much_text``.
        stopped: the protocol's stop reason; None when there is none.
        error: the protocol's error, likewise.
        latency_ms: from just before sending to the end, on a monotonic clock.
        settled: the CLI does nothing for this call any more.
    """

    ending: Ending
    text: str
    heard: Heard
    latency_ms: int
    ttft_ms: int | None = None
    stopped: str | None = None
    error: AgentRefused | None = None
    settled: bool = True


class Call:
    """One session, for one prompt; to be closed.

    Args:
        agent: the CLI.
        session: the session's id.
        folder: the call's own; the witness writes there.
        stuck: called when the CLI goes on with what was cancelled.
        closed: called by ``close``.
    """

    def __init__(
        self,
        agent: Agent,
        session: str,
        folder: Path,
        *,
        stuck: Callable[[], object],
        closed: Callable[[], object],
    ) -> None:
        self._agent = agent
        self._session = session
        self._folder = folder
        self._stuck = stuck
        self._closed = closed
        self._coming: asyncio.Queue[str | None] = asyncio.Queue()
        self._pieces = Pieces(None)
        self._timed = False
        self._began_at = 0.0

    async def send(self, timeout_s: float, on_text: OnText | None) -> Reply:
        """Send the prompt and wait for the end; whatever ``on_text`` raises is raised, and ends the call."""
        self._pieces, self._timed = Pieces(on_text), on_text is not None
        self._agent.hear(self._session, self._hear)
        self._began_at = time.monotonic()
        # The script in the CLI looks for the call's name in the request: there it would show that our texts, which
        # the settings put in the place of this one, are not in it.
        prompt = [{"type": "text", "text": f"The text of call {self._folder.name}"}]
        answer = self._agent.ask("session/prompt", {"sessionId": self._session, "prompt": prompt})
        answer.add_done_callback(lambda _answer: self._coming.put_nowait(None))
        ending: Ending = "answered"
        try:
            async with asyncio.timeout(timeout_s):
                if not await self._listen():
                    ending = "too_much_text"
        except TimeoutError:
            ending = "deadline"
        finally:
            passed_ms = self._passed_ms()
            await self._end(answer)
        if self._pieces.fault is not None:
            raise self._pieces.fault
        if ending == "answered":
            return self._answered(answer, passed_ms)
        return self._reply(ending, passed_ms, settled=answer.done())

    def close(self) -> None:
        """Be done with the session, and give up its folder."""
        self._agent.hear(self._session, None)
        self._closed()

    async def _listen(self) -> bool:
        """Take in the text until the answer ends; False when there is too much of it, or nobody wants it."""
        size = 0
        while (piece := await self._coming.get()) is not None:
            self._pieces.add(piece)
            size += len(piece)
            if size > TEXT_CHARS_MAX or self._pieces.fault is not None:
                return False
        return True

    def _hear(self, update: Mapping[str, Any]) -> None:
        match update:
            case {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": str(piece)}} if piece:
                self._coming.put_nowait(piece)

    def _answered(self, answer: asyncio.Future[Any], passed_ms: int) -> Reply:
        error = answer.exception()
        if isinstance(error, AgentGone):
            return self._reply("gone", passed_ms)
        if isinstance(error, AgentRefused):
            return self._reply("answered", passed_ms, error=error)
        match answer.result():
            case {"stopReason": str(stopped)}:
                return self._reply("answered", passed_ms, stopped=stopped)
            case _:
                return self._reply("answered", passed_ms)

    def _reply(
        self,
        ending: Ending,
        passed_ms: int,
        *,
        stopped: str | None = None,
        error: AgentRefused | None = None,
        settled: bool = True,
    ) -> Reply:
        heard = read_heard(self._folder)
        text = self._pieces.end()
        ttft_ms = self._pieces.ttft_ms(self._began_at) if self._timed else None
        return Reply(ending, text, heard, passed_ms, ttft_ms, stopped, error, settled)

    async def _end(self, answer: asyncio.Future[Any]) -> None:
        """See that the CLI works on this call no longer, by a new process if need be."""
        if answer.done():
            return
        self._agent.tell("session/cancel", {"sessionId": self._session})
        try:
            await asyncio.wait([answer], timeout=CANCEL_S)
        finally:
            if not answer.done():
                self._stuck()

    def _passed_ms(self) -> int:
        return int((time.monotonic() - self._began_at) * 1000)
