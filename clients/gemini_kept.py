"""One Gemini CLI that is kept, and the calls made through it: a fresh session and a folder of its own for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.errors import ClientUnready
from clients.gemini_acp import Agent, AgentGone, AgentRefused
from clients.gemini_answers import shown
from clients.gemini_call import Call
from clients.gemini_folder import Folder, private_folder
from clients.gemini_settings import call_settings_text, lockdown_text
from clients.gemini_witness import HEADER, is_watching, write_script

__all__ = ["KeptCli", "Limits", "NotKeepable", "NotStarted", "Texts"]

START_S = 30.0
SESSION_S = 15.0
CANCEL_S = 0.5
PROTOCOL = 1


class NotStarted(Exception):
    """The CLI could not be made ready for a call; nothing was sent."""


class NotKeepable(NotStarted):
    """This CLI never can be kept."""


@dataclass(frozen=True)
class Limits:
    """When a process is replaced: a session's memory is never given back.

    Attributes:
        calls: after so many.
        memory_bytes: when it holds more; it begins with 250 MB, and 300 small calls add 100.
    """

    calls: int = 300
    memory_bytes: int = 800 * 2**20


@dataclass(frozen=True)
class Texts:
    """What one call is to send."""

    prompt: str
    system: str | None
    max_tokens: int
    schema: Mapping[str, Any] | None


class KeptCli:
    """A locked-down CLI that takes calls until it is retired; made by ``start``."""

    def __init__(self, agent: Agent, folder: Folder, leaving: contextlib.ExitStack, limits: Limits) -> None:
        self._limits = limits
        self._agent = agent
        self._folder = folder
        self._leaving = leaving
        self._settings = Path(folder.env["HOME"]) / ".gemini" / "settings.json"
        self._opening = asyncio.Lock()
        self._begun = 0
        self._open = 0
        self._retired = False
        self._stuck = False

    @classmethod
    async def start(cls, program: str, model: str, given: Mapping[str, str], limits: Limits) -> KeptCli:
        """Start the CLI in a private folder and greet it.

        Raises:
            NotStarted: it cannot be started, or does not speak the protocol.
        """
        with contextlib.ExitStack() as leaving:
            try:
                folder = leaving.enter_context(private_folder("", None, lockdown_text(), given))
                witness = folder.stdin.with_name("witness.cjs")
                command = (program, "--acp", "-m", model, "-e", "none")
                env = {**folder.env, "NODE_OPTIONS": write_script(witness)}
                agent = await Agent.start(command, env=env, work=folder.work)
            except (OSError, ClientUnready) as error:
                raise NotStarted(str(error)) from error
            try:
                greeting = {"protocolVersion": PROTOCOL, "clientCapabilities": {}}
                _check_greeting(await _within(START_S, agent.ask("initialize", greeting)), witness)
            except NotStarted as error:
                await agent.stop()
                raise type(error)(shown(str(error), given.get("GEMINI_API_KEY", ""))) from error
            except BaseException:
                await agent.stop()
                raise
            return cls(agent, folder, leaving.pop_all(), limits)

    @property
    def fit(self) -> bool:
        """It takes another call."""
        return not (self._retired or self._agent.over)

    @property
    def idle(self) -> bool:
        """No call is open."""
        return self._open == 0

    def retire(self) -> None:
        """Take no further call."""
        self._retired = True

    async def open(self, texts: Texts) -> Call:
        """Make a session for one call; nothing is sent yet.

        Raises:
            NotStarted: the process cannot; it is not fit any more.
        """
        self._begun += 1
        if self._begun >= self._limits.calls:
            self.retire()
        name = uuid.uuid4().hex
        self._open += 1
        try:
            session = await self._open_session(name, texts)
        except BaseException:
            self._forget(name)
            raise
        folder = self._folder.work / name
        return Call(self._agent, session, folder, stuck=self._become_stuck, closed=lambda: self._close(name))

    async def stop(self) -> None:
        """End the process, and with it every open call, and remove its folder."""
        self.retire()
        try:
            await self._agent.stop()
        finally:
            self._leaving.close()

    def abandon(self) -> None:
        """Do what ``stop`` does, without waiting, from another event loop."""
        self.retire()
        self._agent.kill()
        self._leaving.close()

    def _close(self, name: str) -> None:
        """Remove all that a call left on disk, and see whether the process has grown too large."""
        self._forget(name)
        memory = _memory_bytes(self._agent.pid)
        if memory is not None and memory > self._limits.memory_bytes:
            self.retire()

    async def _open_session(self, name: str, texts: Texts) -> str:
        # The CLI reads the settings of a session's folder while it makes the session, and never again. Of sessions
        # made at the same time it leaves some unanswered.
        async with self._opening:
            if self._stuck or self._agent.over:
                raise NotStarted("the Gemini CLI takes no more calls")
            settings = self._furnish(name, texts)
            asked = self._agent.ask("session/new", {"cwd": str(settings.parent.parent), "mcpServers": []})
            try:
                return _session_id(await _within(SESSION_S, asked))
            except NotStarted:
                self._become_stuck()
                raise
            except asyncio.CancelledError:
                # Whoever comes next must not meet an unfinished session.
                try:
                    await asyncio.wait([asked], timeout=CANCEL_S)
                finally:
                    if not asked.done():
                        self._become_stuck()
                raise
            finally:
                settings.unlink(missing_ok=True)

    def _furnish(self, name: str, texts: Texts) -> Path:
        """Make a call's folder, and give its settings."""
        settings = self._folder.work / name / ".gemini" / "settings.json"
        try:
            self._check_lockdown()
            settings.parent.mkdir(parents=True, mode=0o700)
            settings.write_text(
                call_settings_text(texts.prompt, texts.system, texts.max_tokens, texts.schema, {HEADER: name})
            )
        except (OSError, NotStarted) as error:
            self._become_stuck()
            raise NotStarted(str(error)) from error
        return settings

    def _check_lockdown(self) -> None:
        # Folders for temporary files are tidied by others, and the CLI reads its settings anew for each session.
        if self._settings.read_text() != lockdown_text() or not self._settings.with_name(".env").exists():
            raise NotStarted("its lock-down is not as it was written")

    def _become_stuck(self) -> None:
        self._stuck = True
        self.retire()

    def _forget(self, name: str) -> None:
        self._open -= 1
        kept = self._folder.work.parent / ".gemini"
        for folder in (self._folder.work, kept / "tmp", kept / "history"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for report in Path(self._folder.env["TMPDIR"]).glob("gemini-client-error-*"):
            report.unlink(missing_ok=True)


async def _within(seconds: float, answer: asyncio.Future[Any]) -> Any:
    await asyncio.wait([answer], timeout=seconds)
    if not answer.done():
        raise NotStarted(f"the Gemini CLI said nothing for {seconds:g} s")
    try:
        return answer.result()
    except (AgentGone, AgentRefused) as error:
        raise NotStarted(str(error)) from error


def _check_greeting(told: Any, witness: Path) -> None:
    version = told.get("protocolVersion") if isinstance(told, dict) else None
    if version != PROTOCOL:
        raise NotKeepable(f"it speaks another version of the Agent Client Protocol than {PROTOCOL} ({version!r:.20})")
    if not is_watching(witness):
        raise NotKeepable("what it sends cannot be watched, for its Node.js loads no script of ours")


def _session_id(told: Any) -> str:
    match told:
        case {"sessionId": str(session)}:
            return session
        case _:
            raise NotStarted("the Gemini CLI opened no session")


def _memory_bytes(pid: int | None) -> int | None:
    """Give the memory that a process holds; None where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, LookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
