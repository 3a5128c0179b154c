"""Keeps one Gemini CLI running: starts it when it is first needed, replaces it, and ends what is replaced."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from clients.gemini_kept import KeptCli, Limits, NotKeepable, NotStarted

__all__ = ["Keeper"]

PAUSE_S: Final = 60.0
"""How long no process is kept after one failed to start."""
CLEAN_UP_S: Final = 10.0
GIVEN: Final = ("PATH", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL")

log = logging.getLogger(__name__)


class Keeper:
    """The kept CLI of one model, in one event loop.

    A process that takes no more calls is ended once its last call is closed; with another key or address there is
    another one.

    Attributes:
        why_not: what kept the last process from being kept; None before.
    """

    def __init__(self, model: str, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self.why_not: str | None = None
        self._starting: asyncio.Task[KeptCli] | None = None
        self._cli: KeptCli | None = None
        self._made_for: tuple[str | None, ...] = ()
        self._leaving: list[KeptCli] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._paused_until = -math.inf

    async def cli(self, program: str, env: Mapping[str, str]) -> KeptCli:
        """Give a CLI that takes a call.

        Raises:
            NotStarted: it could not be started, now or a short while ago.
        """
        made_for = (program, *(env.get(name) for name in GIVEN))
        while self._starting is not None and made_for != self._made_for:
            await asyncio.wait([self._starting])
            self._adopt()
        if made_for != self._made_for:
            self._part()
        self.tidy()
        if self._cli is not None:
            return self._cli
        if self._starting is None:
            if time.monotonic() < self._paused_until:
                raise NotStarted(self.why_not or "it failed to start a short while ago")
            self._made_for = made_for
            self._starting = asyncio.create_task(KeptCli.start(program, self._model, dict(env), self._limits))
        return await self._started(self._starting)

    def pause(self, why: str) -> None:
        """Start no process for a while."""
        if time.monotonic() < self._paused_until:
            return
        log.warning("no Gemini CLI is kept for %g s, so calls start one each: %s", PAUSE_S, why)
        self.why_not = why
        self._paused_until = time.monotonic() + PAUSE_S

    def give_up(self, why: str) -> None:
        """Keep no process any more: this CLI is not one that was tried."""
        log.warning("no Gemini CLI is kept, so calls start one each: %s", why)
        self.why_not = why
        self._paused_until = math.inf
        self._part()
        self._end_idle()

    def tidy(self) -> None:
        """End what takes no more calls and has none open."""
        if self._cli is not None and not self._cli.fit:
            self._part()
        self._end_idle()

    async def aclose(self) -> None:
        """End every process, and the calls that are open."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting], timeout=CLEAN_UP_S)
            self._adopt()
            self._starting = None
        self._part()
        for cli in self._leaving:
            self._end(cli.stop())
        self._leaving.clear()
        if self._ending:
            await asyncio.wait(set(self._ending), timeout=CLEAN_UP_S)

    async def _started(self, starting: asyncio.Task[KeptCli]) -> KeptCli:
        """Wait for a process that several calls may wait for; none of them can cancel it."""
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if starting.cancelled() and not (current and current.cancelling()):
                raise NotStarted("it was closed while it started") from None
            raise
        finally:
            self._adopt()

    def _adopt(self) -> None:
        """Take over a process that has started, if there is one, or note that it failed to."""
        starting = self._starting
        if starting is None or not starting.done():
            return
        self._starting = None
        if starting.cancelled():
            return
        error = starting.exception()
        if error is None:
            self._cli = starting.result()
        elif isinstance(error, NotKeepable):
            self.give_up(str(error))
        elif isinstance(error, NotStarted):
            self.pause(str(error))

    def _part(self) -> None:
        """Let the present process finish what it has begun."""
        if self._cli is not None:
            self._cli.retire()
            self._leaving.append(self._cli)
            self._cli = None

    def _end_idle(self) -> None:
        idle = [cli for cli in self._leaving if cli.idle]
        self._leaving = [cli for cli in self._leaving if not cli.idle]
        for cli in idle:
            self._end(cli.stop())

    def _end(self, stopping: Coroutine[Any, Any, None]) -> None:
        ending = asyncio.ensure_future(stopping)
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def abandon(self) -> None:
        """Do what ``aclose`` does, when the event loop runs no more."""
        for cli in (*self._leaving, *([self._cli] if self._cli is not None else [])):
            cli.abandon()
        self._leaving, self._cli, self._starting, self._ending = [], None, None, set()
