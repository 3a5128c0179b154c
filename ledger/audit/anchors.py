"""What an anchor says: the event in ``ledger:anchors``, and the line of text that is kept elsewhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TextIO

from ledger.canonical import canonical
from ledger.envelope import Recorded
from ledger.errors import EventInvalid, UsageError
from ledger.store.leaves import leaves
from ledger.store.protocol import Store
from ledger.system_events import AnchorSealed

__all__ = ["STREAM", "Line", "line_of", "range_leaves", "read_lines", "statement"]

STREAM: Final = "ledger:anchors"
FORM: Final = "dispatch_ledger_anchor"
PAGE: Final = 10_000
LINE_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Line:
    """An anchor as it is kept elsewhere."""

    anchor: int
    """Its number: the version in its stream."""
    hash: bytes
    """The hash of its event, which covers all anchors before it."""
    sealed: AnchorSealed

    def text(self) -> str:
        """Return the line, without its end."""
        return canonical({FORM: 1, "anchor": self.anchor, "hash": self.hash.hex(), **self.sealed.model_dump()}).decode()


def line_of(recorded: Recorded) -> Line:
    """Return the line of an anchor's event.

    Raises:
        EventInvalid: it is none.
    """
    event = recorded.event()
    if not isinstance(event, AnchorSealed):
        raise EventInvalid(f"{STREAM}, version {recorded.version}: {recorded.type} is no anchor")
    return Line(recorded.version, recorded.hash, event)


def statement(sealed: AnchorSealed) -> bytes:
    """Return what is signed: all that an anchor says but its signature, as canonical JSON behind a tag."""
    return b"dispatch-ledger anchor 1\n" + sealed.model_copy(update={"signature": None}).data()


def read_lines(path: Path) -> tuple[Line, ...]:
    """Read the lines of a file; empty ones are passed over.

    Raises:
        UsageError: the file cannot be read, holds no line, or one that is no anchor.
    """
    try:
        with path.open(encoding="utf-8") as file:
            found = tuple(_read(path, number, text) for number, text in _numbered(path, file))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{path}: the anchors cannot be read: {why}") from error
    if not found:
        raise UsageError(f"{path}: holds no anchor; give a file with lines that `dispatch-ledger anchor` wrote")
    return found


def _numbered(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(iter(lambda: file.readline(LINE_MAX + 1), ""), 1):
        if len(text) > LINE_MAX:
            raise UsageError(f"{path}, line {number}: too long for an anchor")
        if text.strip():
            yield number, text


def _read(path: Path, number: int, text: str) -> Line:
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        said = f"{path}, line {number}: not a line that `dispatch-ledger anchor` wrote, or only a part of one"
        raise UsageError(said) from error


def _parsed(written: dict[str, Any]) -> Line:
    form, anchor, digest = written.pop(FORM), written.pop("anchor"), bytes.fromhex(written.pop("hash"))
    if form != 1 or type(anchor) is not int or len(digest) != sha256().digest_size:
        raise ValueError("a form that this version does not read")
    return Line(anchor, digest, AnchorSealed.model_validate_json(json.dumps(written)))


async def range_leaves(store: Store, first: int, last: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield position and hash of every event of a range, a page at a time."""
    after = first - 1
    while page := await leaves(store, after, last, PAGE):
        for leaf in page:
            yield leaf
        after = page[-1][0]
