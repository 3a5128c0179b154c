"""The work of ``anchor``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from ledger.audit import Sealed, read_signing_key, seal_range
from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import plural
from ledger.errors import UsageError
from ledger.ports import Ports

__all__ = ["seal_ledger"]

PRIVATE: Final = 0o600


def seal_ledger(common: Common, out: Path | None, sign_key: Path | None) -> int:
    """Seal what is new, and return the exit code."""

    async def work() -> int:
        sign = None if sign_key is None else read_signing_key(sign_key)
        if out is not None:
            _keep(out, "")  # before an anchor is made that could not be kept
        async with opened(common, create=False) as executor:
            sealed = await seal_range(await executor.ledger.store(), Ports(), sign)
        return _told(common, sealed, out)

    return perform(work, interrupted="what was sealed is in the ledger; `anchor` prints its line again")


def _told(common: Common, sealed: Sealed | None, out: Path | None) -> int:
    if sealed is None:
        output.document(None, on_one_line=True) if common.as_json else output.note("the ledger is empty")
        return DONE
    text = sealed.line.text()
    if out is not None and _last_line(out) != text:
        _keep(out, f"{text}\n")
    if common.as_json:
        output.document({**json.loads(text), "sealed": sealed.is_new}, on_one_line=True)
        return DONE
    if not sealed.is_new:
        output.note("nothing is new since the last anchor; its line again")
    elif out is not None:
        output.note(f"{plural(sealed.line.sealed.events, 'event')} sealed; the line stands in {out} too")
    output.write(f"{text}\n")
    return DONE


def _keep(path: Path, text: str) -> None:
    """Append to a file, durably.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
        try:
            with open(file, "ab", closefd=False) as lines:
                lines.write(text.encode())
            os.fsync(file)
            _sync_folder(path)
        finally:
            os.close(file)
    except OSError as error:
        said = f"{path}: the line cannot be kept there: {error.strerror}; `anchor` prints the newest one again"
        raise UsageError(said) from error


def _sync_folder(path: Path) -> None:
    """Make a new file's name durable too, where folders can be synced."""
    if os.name == "posix":
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _last_line(path: Path) -> str:
    """Return the last line of the file that was just opened for writing; empty where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            return max(enumerate(lines), default=(0, ""))[1].rstrip("\n")
    except (OSError, UnicodeDecodeError):
        return ""
