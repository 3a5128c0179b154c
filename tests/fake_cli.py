"""A command that is played by a few lines of Python, wherever this Python lies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

__all__ = ["fake_cli"]


def fake_cli(folder: Path, text: str, *, name: str = "gemini") -> Path:
    """Make the command in a folder; a shell starts it, for the path of this Python may have spaces in it."""
    played = folder / f"{name}_played.py"
    played.write_text(text)
    command = folder / name
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS {shlex.quote(str(played))} "$@"\n')
    command.chmod(0o755)
    return command
