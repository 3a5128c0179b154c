"""The Agent Client Protocol with a process that lives on: JSON-RPC 2.0, one JSON a line, on its stdin and stdout."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

__all__ = ["Agent", "AgentGone", "AgentRefused"]

LINE_BYTES_MAX = 32 * 2**20
STDERR_TAIL_BYTES_MAX = 2**14
CLEAN_UP_S = 5.0
LAST_WORDS_S = 0.2
STDIN, STDOUT = 0, 1
METHOD_NOT_FOUND = -32601
INVALID = -32600


class AgentGone(Exception):
    """The process ended, or was stopped, before it answered."""


class AgentRefused(Exception):
    """The process answered with an error.

    Attributes:
        code: JSON-RPC's, or an HTTP status that the agent passes on.
        message: the agent's words.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Agent(asyncio.SubprocessProtocol):
    """One process and the requests that it has not answered yet; made by ``start``.

    Whatever it asks of us is refused: it gets no file, no terminal and no permission.
    """

    def __init__(self) -> None:
        self.over = False
        """No request will be answered any more."""
        self.stderr_tail = bytearray()
        self._line = bytearray()  # what has come of a line that has no end yet
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._hearers: dict[str, Callable[[Mapping[str, Any]], object]] = {}
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._group: int | None = None  # never 0: that would be our own
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()

    @classmethod
    async def start(cls, command: Sequence[str], *, env: Mapping[str, str], work: Path) -> Agent:
        """Start a process in a group and a session of its own; say nothing to it yet.

        Raises:
            OSError: the command could not be started.
        """
        loop = asyncio.get_running_loop()
        _transport, agent = await loop.subprocess_exec(cls, *command, env=env, cwd=work, start_new_session=True)
        return agent

    @property
    def pid(self) -> int | None:
        """The process's number while it lives."""
        return None if self.over else self._group

    def ask(self, method: str, params: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Send a request at once; the future holds its result, ``AgentRefused`` or ``AgentGone``."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Whoever asked may have been cancelled, and asyncio complains of errors that nobody looks at.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.over:
            answer.set_exception(AgentGone(self._last_words()))
            return answer
        self._number += 1
        self._waiting[self._number] = answer
        self._send({"id": self._number, "method": method, "params": params})
        return answer

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Send a notification, which nothing answers."""
        if not self.over:
            self._send({"method": method, "params": params})

    def hear(self, session: str, hearer: Callable[[Mapping[str, Any]], object] | None) -> None:
        """Give a session's updates to ``hearer`` as they come; None gives them to nobody."""
        if hearer is None:
            self._hearers.pop(session, None)
        else:
            self._hearers[session] = hearer

    def kill(self) -> None:
        """End the whole group now, unless it is another process's, off which we were forked."""
        self.over = True
        if self._group is not None and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
        if not self._loop.is_closed():
            self._give_up()

    async def stop(self) -> None:
        """End the process and wait, a few seconds at most, until it is gone."""
        self.kill()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLEAN_UP_S):
                    await self._closed.wait()
        finally:
            if self._transport is not None:
                self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn the process's number, as asyncio tells it."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._group = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take in what the process says."""
        if fd != STDOUT:
            self.stderr_tail += data
            del self.stderr_tail[:-STDERR_TAIL_BYTES_MAX]
            return
        first, *more = data.split(b"\n")
        self._line += first
        for begun in more:
            self._read(bytes(self._line))
            self._line = bytearray(begun)
        if len(self._line) > LINE_BYTES_MAX:
            self._line.clear()
            self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """End a process that cannot be spoken with any more, or is ending: it has a moment for its last words."""
        if fd in (STDIN, STDOUT):
            self._loop.call_later(LAST_WORDS_S, self.kill)

    def process_exited(self) -> None:
        """End what the process left behind, and every wait for it."""
        # Now, and not later: the number of a group without members may be given to another one.
        self.kill()
        self._group = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that all its pipes are closed."""
        self._closed.set()

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = self._transport.get_pipe_transport(0) if self._transport is not None else None
        if pipe is not None:
            line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
            cast("asyncio.WriteTransport", pipe).write(line.encode() + b"\n")

    def _read(self, line: bytes) -> None:
        """Take in one line; what is no message of the protocol is passed over, as are answers nobody waits for."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return
        match message:
            case {"method": str(), "id": asked}:
                refusal = {"code": METHOD_NOT_FOUND, "message": "this client offers nothing"}
                self._send({"id": asked, "error": refusal})
            case {"method": "session/update", "params": {"sessionId": str(session), "update": {} as update}}:
                if (hearer := self._hearers.get(session)) is not None:
                    hearer(update)
            case {"id": int(number), "error": {"code": int(code), "message": str(words)}}:
                self._answer(number, AgentRefused(code, words))
            case {"id": int(number), "result": result}:
                self._answer(number, result)
            case {"id": int(number)}:
                self._answer(number, AgentRefused(INVALID, "its answer is not the protocol's"))

    def _answer(self, number: int, answer: object) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _give_up(self) -> None:
        for number in list(self._waiting):
            self._answer(number, AgentGone(self._last_words()))

    def _last_words(self) -> str:
        lines = self.stderr_tail.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
