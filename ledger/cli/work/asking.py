"""From what the command line asks to a request; the prompt is read byte for byte."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from ledger.cli.asking import Wanted
from ledger.errors import RequestRefused
from ledger.executor.requests import Request
from ledger.registry import ModelTier

__all__ = ["by_option", "request_of"]

PROMPT_BYTES_MAX: Final = 32 * 1024 * 1024
OPTIONS: Final[Mapping[str, str]] = {
    "idempotency_key": "--key",
    "labels": "--label",
    "max_tokens": "--max-tokens",
    "prompt": "the prompt",
    "retry_count": "--retries",
    "system": "--system",
    "timeout_s": "--timeout",
}
"""What the command line calls the arguments of a request."""


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


@contextmanager
def by_option() -> Iterator[None]:
    """Let a refusal name what was typed, not the argument that became of it.

    Raises:
        RequestRefused: whatever the block refuses.
    """
    try:
        yield
    except RequestRefused as refused:
        said = str(refused)
        if refused.field in OPTIONS and said.startswith(f"{refused.field} "):
            typed = OPTIONS[refused.field] + said.removeprefix(refused.field)
            raise RequestRefused(typed, field=refused.field) from refused
        raise


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
