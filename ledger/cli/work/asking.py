"""From what the command line asks to a request; the prompt is read byte for byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO, Final

from ledger.cli.asking import Wanted
from ledger.errors import RequestRefused
from ledger.executor.requests import Request
from ledger.registry import ModelTier

__all__ = ["request_of"]

PROMPT_BYTES_MAX: Final = 32 * 1024 * 1024


def request_of(wanted: Wanted) -> Request:
    """Return the request.

    Raises:
        RequestRefused: the prompt cannot be read, or is no UTF-8.
    """
    return Request(
        tier=ModelTier(wanted.tier).value,
        prompt=_prompt(wanted),
        max_tokens=wanted.max_tokens,
        retry_count=wanted.retries,
        system=wanted.system,
        timeout_s=wanted.timeout_s,
        key=wanted.key,
        labels=wanted.labels,
    )


def _prompt(wanted: Wanted) -> str:
    if wanted.file is not None:
        try:
            with Path(wanted.file).open("rb") as file:
                return _text(file, wanted.file)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise RequestRefused(f"{wanted.file} cannot be read: {why}", field="prompt") from error
    if wanted.prompt == "-":
        return _text(sys.stdin.buffer, "standard input")
    return wanted.prompt or ""


def _text(file: BinaryIO, name: str) -> str:
    # One byte more than can be kept, so that what is too long is refused and not cut.
    content = file.read(PROMPT_BYTES_MAX + 1)
    if len(content) > PROMPT_BYTES_MAX:
        raise RequestRefused(f"{name} has more than {PROMPT_BYTES_MAX:,} bytes; shorten it", field="prompt")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestRefused(f"{name} is not UTF-8 at byte {error.start + 1}", field="prompt") from None
