"""Gemini through its command-line client: one process and one request a call, every failure a result."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clients.base import ExecutionResult, ModelClient, OnText, PromptPrefix
from clients.errors import ClientUnready
from clients.gemini_answers import Asked, failed, read_ended
from clients.gemini_failures import Failure
from clients.gemini_folder import private_folder
from clients.gemini_settings import settings_text, stdin_text
from clients.gemini_stream import STREAM_BYTES_MAX, Telling
from clients.pieces import Pieces
from clients.processes import STDOUT_BYTES_MAX, Ended, run
from clients.prompts import check_texts

__all__ = ["GeminiClient"]

MODELS: Mapping[str, str] = {
    "flash": "gemini-2.5-flash",
    "gemini-flash": "gemini-2.5-flash",
    "gemini-pro": "gemini-2.5-pro",
    "pro": "gemini-2.5-pro",
}
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")

STDIN_BYTES_MAX = 8 * 2**20
"""What the CLI reads of a prompt; it would cut the rest off."""
TIMEOUT_S_DEFAULT = 600.0

INSTALL = "npm install -g @google/gemini-cli"


class GeminiClient(ModelClient):
    """One Gemini model, called through the Gemini CLI; nothing is kept between calls.

    Key and address are read from GEMINI_API_KEY and GOOGLE_GEMINI_BASE_URL at each call; of the rest of the
    environment only PATH reaches the CLI. A process costs about two seconds, which ``latency_ms`` includes.

    Args:
        model: ``gemini-flash``, ``gemini-pro`` or the id of a model.
        command: the CLI, a path or a name that is looked for on PATH.
        env: the environment to read instead of ``os.environ``.

    Raises:
        ValueError: no name of one model.
    """

    def __init__(
        self, model: str = "gemini-flash", *, command: str = "gemini", env: Mapping[str, str] | None = None
    ) -> None:
        if model == "auto" or model.startswith("auto-"):
            raise ValueError(f"{model!r} lets the Gemini CLI choose by extra, billed calls; name one model")
        if not MODEL_NAME.fullmatch(model):
            raise ValueError(f"{model!r} is no name of a model")
        self.model = MODELS.get(model, model)
        self._command = command
        self._given = env

    async def prepare(self, prompt: str, max_tokens: int = 4096, *, system: str | None = None) -> PromptPrefix | None:
        """Check the texts, find the CLI and the key; a prompt that begins with a slash gets a newline before it.

        Raises:
            PromptRefused: empty, not Unicode, or more than the CLI takes.
            ClientUnready: no CLI, no key or no usable address.
        """
        prefix = _check(prompt, system)
        self._ready(self._env())
        return prefix

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
        """Run the CLI once; ``on_text`` is called in the event loop, its time counts, its errors are the caller's."""
        sent = f"\n{prompt}" if _check(prompt, system) else prompt
        env = self._env()
        seconds = timeout_s or TIMEOUT_S_DEFAULT
        telling = None if on_text is None else Telling(Pieces(on_text))
        try:
            settings = settings_text(sent, system, max_tokens, schema)
            ended = await self._run(sent, settings, system, seconds, env, telling)
        except ClientUnready as error:
            return failed(self.model, Failure(error.error_type, str(error), "not_billed", provider_requests=0))
        size = len(sent.encode()) + len((system or "").encode())
        asked = Asked(self.model, max_tokens, size, seconds, env.get("GEMINI_API_KEY", ""))
        if telling is None:
            return read_ended(asked, ended)
        result = telling.read(asked, ended)
        if telling.pieces.fault is not None:
            raise telling.pieces.fault
        return result

    async def aclose(self) -> None:
        """Do nothing: every call cleans up after itself."""

    async def _run(
        self,
        prompt: str,
        settings: str,
        system: str | None,
        timeout_s: float,
        env: Mapping[str, str],
        telling: Telling | None,
    ) -> Ended:
        """Run the CLI in a private folder that is gone when this returns or raises."""
        program = self._ready(env)
        session = str(uuid.uuid4())
        # --raw-output leaves escape sequences in a stream; in one piece the CLI takes them out in any case.
        told = ("json",) if telling is None else ("stream-json", "--raw-output")
        command = (program, "-m", self.model, "-o", *told, "-e", "none", "--session-id", session)
        hear, bytes_max = (None, STDOUT_BYTES_MAX) if telling is None else (telling.hear, STREAM_BYTES_MAX)
        with private_folder(stdin_text(prompt), system, settings, env) as folder:
            try:
                return await run(
                    command,
                    env=folder.env,
                    work=folder.work,
                    stdin=folder.stdin,
                    stdout=folder.stdin.with_name("answer.json"),
                    timeout_s=timeout_s,
                    hear=hear,
                    stdout_bytes_max=bytes_max,
                )
            except OSError as error:
                message = f"the Gemini CLI could not be started ({error}); install it with: {INSTALL}"
                raise ClientUnready(message, error_type="client_missing") from error

    def _env(self) -> Mapping[str, str]:
        return os.environ if self._given is None else self._given

    def _ready(self, env: Mapping[str, str]) -> str:
        """Give the CLI's path."""
        program = shutil.which(self._command, path=env.get("PATH", os.defpath))
        if program is None:
            message = f"the Gemini CLI ({self._command}) was not found; install it with: {INSTALL}"
            raise ClientUnready(message, error_type="client_missing")
        if not env.get("GEMINI_API_KEY", "").strip():
            raise ClientUnready("no key for Gemini: set GEMINI_API_KEY", error_type="authentication")
        address = env.get("GOOGLE_GEMINI_BASE_URL")
        if address and not _is_web_address(address):
            # The address may hold a password, so it is not repeated.
            raise ClientUnready("GOOGLE_GEMINI_BASE_URL is no http or https address", error_type="not_found")
        return str(Path(program).absolute())


def _check(prompt: str, system: str | None) -> PromptPrefix | None:
    """Refuse what can never be sent; else say what goes before the prompt.

    The CLI takes a slash at the very beginning for a command of its own; after anything else, even a blank, it is text.
    """
    prefixed = prompt.startswith("/")
    check_texts(prompt, system, bytes_max=STDIN_BYTES_MAX - prefixed)
    return "newline" if prefixed else None


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
