"""The private folder in which one call of the Gemini CLI lives, and the environment that points there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from clients.errors import ClientUnready

__all__ = ["Folder", "private_folder"]

REMOVAL_WAITS_S = (0.0, 0.01, 0.05, 0.25)
"""Before each try: a killed process may still be closing a file for a moment."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """Where the CLI works, what it reads as stdin, and all of its environment."""

    work: Path
    stdin: Path
    env: Mapping[str, str]


@contextlib.contextmanager
def private_folder(prompt: str, system: str | None, settings: str, given: Mapping[str, str]) -> Iterator[Folder]:
    """Make the folder, readable by this user only, and remove it with all that the CLI wrote there.

    The CLI keeps the conversation under its home and a failure's report under its temporary folder.

    Args:
        prompt: what stdin holds; a file, so that it is there in full before the CLI begins to read.
        system: the system text, if any; an empty file keeps the CLI from sending its own 31 kB.
        settings: the text of settings.json.
        given: the caller's environment; only PATH, the key and the address pass.

    Raises:
        ClientUnready: there is no place for it.
    """
    owner, root = os.getpid(), None
    try:
        try:
            root = Path(tempfile.mkdtemp(prefix="dispatch-gemini-"))
            folder = _furnished(root, prompt, system, settings, given)
        except OSError as error:
            why = f"no private folder for the Gemini CLI can be made ({error}); see to the space in TMPDIR"
            raise ClientUnready(why, error_type="other") from error
        yield folder
    finally:
        # What was forked off us has no say in it.
        if root is not None and os.getpid() == owner:
            _remove(root)


def _furnished(root: Path, prompt: str, system: str | None, settings: str, given: Mapping[str, str]) -> Folder:
    home, temporary = root / "home", root / "tmp"
    # The CLI looks for an .env from its working folder upwards and obeys the first, wherever that lies and whoever
    # wrote it; an empty one in the home above the working folder ends the search there.
    work = home / "work"
    for folder in (home / ".gemini", work, temporary):
        folder.mkdir(parents=True, mode=0o700)
    (home / ".gemini" / "settings.json").write_text(settings)
    (home / ".gemini" / ".env").touch()
    stdin = root / "prompt.txt"
    stdin.write_bytes(prompt.encode())
    system_file = root / "system.md"
    system_file.write_bytes((system or "").encode())
    env = {
        "PATH": given.get("PATH", os.defpath),
        "HOME": str(home),
        "GEMINI_CLI_HOME": str(home),
        "TMPDIR": str(temporary),
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_CLI_NO_RELAUNCH": "true",
        "GEMINI_SYSTEM_MD": str(system_file),
        "NO_COLOR": "1",
    }
    env |= {name: given[name] for name in ("GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL") if given.get(name)}
    return Folder(work, stdin, env)


def _remove(root: Path) -> None:
    for wait_s in REMOVAL_WAITS_S:
        # Blocks for a third of a second at most, and only when a process outlived its group.
        time.sleep(wait_s)
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
    log.warning("the private folder %s of a Gemini call could not be removed; it holds the prompt", root)
