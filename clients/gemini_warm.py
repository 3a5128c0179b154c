"""Gemini through its command-line client, kept warm: one process for many calls, a fresh session for each."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from clients.base import ExecutionResult, OnText, PromptPrefix
from clients.errors import ClientUnready
from clients.gemini import GeminiClient
from clients.gemini_answers import Asked, failed
from clients.gemini_call import Call
from clients.gemini_failures import Failure
from clients.gemini_keeper import Keeper
from clients.gemini_kept import Limits, NotStarted, Texts
from clients.gemini_replies import lost_hold, read_reply
from clients.prompts import check_texts

__all__ = ["WarmGeminiClient"]

PROMPT_BYTES_MAX: Final = 8 * 2**20
TIMEOUT_S_DEFAULT: Final = 600.0
TRIES: Final = 3
"""How many processes may fail to open a session before a call goes the other way."""

log = logging.getLogger(__name__)


class WarmGeminiClient(GeminiClient):
    """One Gemini model, called through one Gemini CLI that is kept; what can go wrong with that costs no call.

    Nothing is put before a prompt: the CLI is given a text of ours, and sends the prompt in its place. Where it
    cannot be kept, calls go to a process of their own, as ``GeminiClient`` makes them; never once a prompt was sent.
    It must be closed. Every event loop in which it is used has a process of its own.

    Args:
        model: as ``GeminiClient`` has it, like ``command`` and ``env``.
        command: the CLI.
        env: the environment; with another key or address another process follows.
        limits: when a process is replaced.

    Attributes:
        why_not_kept: why the last call had a process of its own; None when it had not.
    """

    def __init__(
        self,
        model: str = "gemini-flash",
        *,
        command: str = "gemini",
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(model, command=command, env=env)
        self.why_not_kept: str | None = None
        self._limits = limits or Limits()
        self._keepers: dict[asyncio.AbstractEventLoop, Keeper] = {}
        self._threads = threading.Lock()

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        """Check the texts, find the CLI and the key, and start the CLI unless it runs.

        Returns what the other way puts before the prompt, while that is in use.
        """
        prefix = await super().prepare(prompt, max_tokens, system=system)
        try:
            await self._keeper().cli(self._ready(self._env()), self._env())
        except NotStarted:
            return prefix
        return None

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        """Call in a session of its own; ``on_text`` is called in the event loop, and its errors are the caller's."""
        check_texts(prompt, system, bytes_max=PROMPT_BYTES_MAX)
        seconds = timeout_s or TIMEOUT_S_DEFAULT
        env = self._env()
        asked = Asked(self.model, max_tokens, len(prompt.encode()), seconds, env.get("GEMINI_API_KEY", ""))
        ends_at = time.monotonic() + seconds
        keeper = self._keeper()
        try:
            async with asyncio.timeout(seconds):
                call = await self._open(keeper, Texts(prompt, system, max_tokens, schema), env)
        except ClientUnready as error:
            return failed(self.model, Failure(error.error_type, str(error), "not_billed", provider_requests=0))
        except TimeoutError:
            why = f"the Gemini CLI was not ready for the call within {seconds:g} s; nothing was sent"
            return failed(self.model, Failure("timeout", why, "not_billed", provider_requests=0))
        left_s = max(0.001, ends_at - time.monotonic())
        if call is None:
            self.why_not_kept = keeper.why_not
            return await self._by_itself(prompt, max_tokens, system, left_s, on_text, schema)
        self.why_not_kept = None
        try:
            reply = await call.send(left_s, on_text)
        finally:
            call.close()
            keeper.tidy()
        if lost_hold(reply):
            keeper.give_up("this version of it does not keep to what it is told")
        return read_reply(asked, reply)

    async def aclose(self) -> None:
        """End the process of this event loop, and of those that run no more; a later call starts another."""
        await self._keeper().aclose()

    def _keeper(self) -> Keeper:
        """Give the running event loop's, and leave behind what belongs to one that is closed."""
        with self._threads:
            for loop in [loop for loop in self._keepers if loop.is_closed()]:
                self._keepers.pop(loop).abandon()
            return self._keepers.setdefault(asyncio.get_running_loop(), Keeper(self.model, self._limits))

    async def _open(self, keeper: Keeper, texts: Texts, env: Mapping[str, str]) -> Call | None:
        """Open a session, in a fresh process if need be; None when no process can."""
        program = self._ready(env)
        for _ in range(TRIES):
            try:
                cli = await keeper.cli(program, env)
            except NotStarted:
                return None
            try:
                return await cli.open(texts)
            except NotStarted as error:
                log.info("a kept Gemini CLI opened no session and is replaced: %s", error)
        keeper.pause(f"{TRIES} processes in a row opened no session")
        return None

    async def _by_itself(
        self,
        prompt: str,
        max_tokens: int,
        system: str | None,
        timeout_s: float,
        on_text: OnText | None,
        schema: Mapping[str, Any] | None,
    ) -> ExecutionResult:
        """Call as ``GeminiClient`` does, unless that puts something before the prompt which was not announced."""
        if prompt.startswith("/"):
            why = "the Gemini CLI could not be kept any longer; nothing was sent, and the next try can go without"
            return failed(self.model, Failure("connection", why, "not_billed", provider_requests=0))
        return await super().execute(
            prompt, max_tokens, system=system, timeout_s=timeout_s, on_text=on_text, schema=schema
        )
