"""Runs one command in a process group of its own, with a deadline and bounds on what it may say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

__all__ = ["Ended", "run"]

STDOUT_BYTES_MAX = 32 * 2**20
STDERR_HEAD_BYTES_MAX = 2**16
STDERR_TAIL_BYTES_MAX = 2**20 - STDERR_HEAD_BYTES_MAX
CLEAN_UP_S = 5.0
STDOUT = 1


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said until then.

    Attributes:
        ending: ``exited`` by itself, or killed at the ``deadline`` or for ``too_much_output``.
        exit_code: negative when a signal ended it; None when it was killed by us.
        stderr: only its beginning and its end when there was too much.
        latency_ms: from just before its start to its end, on a monotonic clock.
    """

    ending: Literal["exited", "deadline", "too_much_output"]
    exit_code: int | None
    stdout: bytes
    stderr: bytes
    latency_ms: int


async def run(command: Sequence[str], *, env: Mapping[str, str], work: Path, stdin: Path, timeout_s: float) -> Ended:
    """Run a command to its end; nothing of its process group lives on when this returns or raises.

    Raises:
        OSError: the command could not be started.
    """
    started_at = time.monotonic()
    process = await _start(command, env, work, stdin)
    in_time = True
    try:
        async with asyncio.timeout(timeout_s):
            await process.over.wait()
    except TimeoutError:
        in_time = process.over.is_set()
    finally:
        latency_ms = int((time.monotonic() - started_at) * 1000)
        await process.clean_up()
    stdout, stderr = bytes(process.stdout), bytes(process.stderr_head + process.stderr_tail)
    if process.too_much:
        return Ended("too_much_output", None, stdout, stderr, latency_ms)
    if not in_time:
        return Ended("deadline", None, stdout, stderr, latency_ms)
    return Ended("exited", process.exit_code, stdout, stderr, latency_ms)


async def _start(command: Sequence[str], env: Mapping[str, str], work: Path, stdin: Path) -> _Process:
    with stdin.open("rb") as given:
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                _Process, *command, stdin=given, env=env, cwd=work, start_new_session=True
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
    """Collects what a process says. ``over`` is set at its exit, or as soon as it has said too much."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.too_much = False
        self.exit_code: int | None = None
        self.stdout = bytearray()
        self.stderr_head = bytearray()
        self.stderr_tail = bytearray()
        self._closed = asyncio.Event()
        self._transport: asyncio.SubprocessTransport | None = None
        self._group: int | None = None  # never 0: that would be our own

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._group = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != STDOUT:
            room = STDERR_HEAD_BYTES_MAX - len(self.stderr_head)
            self.stderr_head += data[:room]
            self.stderr_tail += data[room:]
            del self.stderr_tail[:-STDERR_TAIL_BYTES_MAX]
        elif len(self.stdout) + len(data) <= STDOUT_BYTES_MAX:
            self.stdout += data
        else:
            self.too_much = True
            self.over.set()

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
