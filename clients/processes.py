"""Runs one command in a process group of its own, with a deadline and bounds on what it may say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

__all__ = ["STDOUT_BYTES_MAX", "Ended", "run"]

STDOUT_BYTES_MAX = 32 * 2**20
STDERR_HEAD_BYTES_MAX = 2**16
STDERR_TAIL_BYTES_MAX = 2**20 - STDERR_HEAD_BYTES_MAX
READ_BYTES = 2**18
LOOK_S = 0.02
"""How often we look what more a process has said."""
CLEAN_UP_S = 5.0

Hear = Callable[[bytes], bool]
"""Takes in some bytes of stdout; False when no more are wanted."""


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said until then.

    Attributes:
        ending: ``exited`` by itself, or killed at the ``deadline``, for ``too_much_output`` or since its hearer asked.
        exit_code: negative when a signal ended it; None when it was killed by us.
        stderr: only its beginning and its end when there was too much.
        latency_ms: from just before its start to its end, on a monotonic clock.
        started_at: that instant before its start.
    """

    ending: Literal["exited", "deadline", "too_much_output", "unheard"]
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    latency_ms: int
    started_at: float = 0.0


async def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    work: Path,
    stdin: Path,
    stdout: Path,
    timeout_s: float,
    hear: Hear | None = None,
    stdout_bytes_max: int = STDOUT_BYTES_MAX,
) -> Ended:
    """Run a command to its end; nothing of its process group lives on when this returns or raises.

    Args:
        command: the program and its arguments.
        env: all of its environment.
        work: its working folder.
        stdin: the file that it reads.
        stdout: the file that it writes, made anew. Into a pipe, Node.js loses at its exit what was not read yet.
        timeout_s: seconds until it is killed.
        hear: gets its stdout as it comes, in the event loop, instead of ``Ended``; False ends the process.
        stdout_bytes_max: how much it may say.

    Raises:
        OSError: the command could not be started.
    """
    with stdout.open("wb+") as said:
        output = _Output(said, hear, stdout_bytes_max)
        started_at = time.monotonic()
        process = await _start(command, env, work, stdin, said)
        in_time = True
        try:
            async with asyncio.timeout(timeout_s):
                await _follow(process, output)
        except TimeoutError:
            in_time = process.over.is_set()
        finally:
            latency_ms = int((time.monotonic() - started_at) * 1000)
            await process.clean_up()
        if in_time:
            output.take_in()
        stderr = bytes(process.stderr_head + process.stderr_tail)
        ending = output.stopped or ("exited" if in_time else "deadline")
        exit_code = process.exit_code if ending == "exited" else None
        return Ended(ending, exit_code, output.whole(), stderr, latency_ms, started_at)


async def _follow(process: _Process, output: _Output) -> None:
    """Take in what a process says until it is over, or has to be."""
    while not process.over.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await process.over.wait()
        output.take_in()
        if output.stopped is not None:
            return


class _Output:
    """What a process has said so far, in a file that it goes on writing."""

    def __init__(self, file: BinaryIO, hear: Hear | None, bytes_max: int) -> None:
        self.stopped: Literal["too_much_output", "unheard"] | None = None
        self._file = file.fileno()
        self._hear = hear
        self._bytes_max = bytes_max
        self._heard = 0

    def take_in(self) -> None:
        """Pass on what is new; notice when it is too much, or not wanted."""
        if self.stopped is not None:
            return
        size = os.fstat(self._file).st_size
        if size > self._bytes_max:
            self.stopped = "too_much_output"
            return
        # Only up to this size: a process that writes faster than we read must come back to the question above. By
        # position: the process writes through the same open file, and has its place there.
        while self._hear is not None and self._heard < size:
            data = os.pread(self._file, min(READ_BYTES, size - self._heard), self._heard)
            self._heard += len(data)
            if not data or not self._hear(data):  # no data: it cut its own file short
                self.stopped = "unheard"
                return

    def whole(self) -> bytes:
        """Give all that was said, unless it was passed on or is too much."""
        if self._hear is not None or self.stopped is not None:
            return b""
        return os.pread(self._file, self._bytes_max, 0)


async def _start(command: Sequence[str], env: Mapping[str, str], work: Path, stdin: Path, stdout: BinaryIO) -> _Process:
    with stdin.open("rb") as given:
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                _Process, *command, stdin=given, stdout=stdout, env=env, cwd=work, start_new_session=True
            )
        )
        try:
            return (await asyncio.shield(starting))[1]
        except asyncio.CancelledError:
            # The process may exist already, and has to be known before it can be killed.
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLEAN_UP_S):
                    await (await starting)[1].clean_up()
            raise


class _Process(asyncio.SubprocessProtocol):
    """Collects what a process complains of; ``over`` is set at its exit."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.exit_code: int | None = None
        self.stderr_head = bytearray()
        self.stderr_tail = bytearray()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._group: int | None = None  # never 0: that would be our own

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._group = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        room = STDERR_HEAD_BYTES_MAX - len(self.stderr_head)
        self.stderr_head += data[:room]
        self.stderr_tail += data[room:]
        del self.stderr_tail[:-STDERR_TAIL_BYTES_MAX]

    def process_exited(self) -> None:
        if self._transport is not None:
            self.exit_code = self._transport.get_returncode()
        # Children that it left behind would keep the pipes open and go on calling. Now, and not later: the number of
        # a group without members may be given to another one.
        self._kill_group()
        self.over.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()

    async def clean_up(self) -> None:
        """Kill the group unless that is done, and take in what is left in the pipes."""
        if self.exit_code is None:
            self._kill_group()
        try:
            # A child that left the group may hold a pipe for ever.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLEAN_UP_S):
                    await self._closed.wait()
        finally:
            if self._transport is not None:
                self._transport.close()

    def _kill_group(self) -> None:
        if self._group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
