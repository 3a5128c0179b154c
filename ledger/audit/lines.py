"""The lines of an exported ledger: JSON objects, each with one key that says what the line is.

``header`` first, then every ``event`` by position, each followed by the ``text`` lines of what its digests stand for,
and ``end`` last, with counts and the SHA-256 of all bytes before it. An event's ``data`` is the exact text that is
hashed. A text is itself where it is UTF-8, else it stands in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from ledger.canonical import INT64_MAX
from ledger.envelope import Payload, Recorded
from ledger.errors import RequestRefused

__all__ = [
    "FORMAT",
    "End",
    "Header",
    "Line",
    "LineInvalid",
    "Text",
    "end_line",
    "event_line",
    "header_line",
    "numbered",
    "opened",
    "read_line",
    "text_line",
]

FORMAT: Final = "dispatch-ledger 1"
LINE_BYTES_MAX: Final = 512 << 20
EVENT: Final = Recorded._fields
WHOLE: Final = frozenset({"position", "version", "schema_version", "recorded_at_ms", "fence"})
HASHES: Final = frozenset({"prev_hash", "hash"})
HASH_BYTES: Final = 32


class LineInvalid(ValueError):
    """A line that is none of an export; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the export holds."""

    after: int
    """Events up to this position are not in it."""
    texts: bool
    """Texts are in it."""
    salts: Mapping[str, bytes]
    """Of keys, by name."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a task."""

    task_id: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class End:
    """What the export says of itself."""

    events: int
    texts: int
    upto: int
    """The position of the last event, from where another export may go on."""
    sha256: str
    """Of all bytes before this line."""


Line = Header | Recorded | Text | End


def opened(file: Path) -> BinaryIO:
    """Open an export.

    Raises:
        RequestRefused: it cannot be read.
    """
    try:
        return file.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error


def numbered(file: Path, source: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Give its lines with their numbers.

    Raises:
        RequestRefused: it cannot be read any further.
    """
    try:
        yield from enumerate(iter(partial(source.readline, LINE_BYTES_MAX), b""), 1)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError | ValueError) -> RequestRefused:
    why = error.strerror if isinstance(error, OSError) else error
    return RequestRefused(f"{file} cannot be read: {why}", field="file")


def header_line(header: Header) -> bytes:
    """Encode the first line."""
    salts = {name: salt.hex() for name, salt in header.salts.items()}
    told = {"format": FORMAT, "after": header.after, "texts": header.texts, "salts": salts}
    return _line("header", told)


def event_line(row: Sequence[Any]) -> bytes:
    """Encode a row of ``events``, whose columns stand in the order of ``Recorded``."""
    told = dict(zip(EVENT, row, strict=True))
    return _line("event", told | {name: bytes(told[name]).hex() for name in HASHES})


def text_line(row: Sequence[Any]) -> bytes:
    """Encode a row of ``payloads``: task, slot, salt and bytes."""
    task_id, slot, salt, content = row
    told = {"task_id": task_id, "slot": slot, "salt": bytes(salt).hex()}
    try:
        return _line("text", told | {"text": bytes(content).decode()})
    except UnicodeDecodeError:
        return _line("text", told | {"base64": base64.b64encode(bytes(content)).decode()})


def end_line(end: End) -> bytes:
    """Encode the last line."""
    return _line("end", {"events": end.events, "texts": end.texts, "upto": end.upto, "sha256": end.sha256})


def _line(kind: str, told: Mapping[str, Any]) -> bytes:
    return orjson.dumps({kind: told}, option=orjson.OPT_APPEND_NEWLINE)


def read_line(line: bytes) -> Line:
    """Read a line; an event's hash is compared with its fields.

    Raises:
        LineInvalid: it is none, or was changed.
    """
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineInvalid(f"is no JSON: {error}") from error
    if not isinstance(found, dict) or len(found) != 1:
        raise LineInvalid("is no object with one of header, event, text or end")
    ((kind, told),) = found.items()
    reader = READERS.get(kind)
    if reader is None or not isinstance(told, dict):
        raise LineInvalid("is no object with one of header, event, text or end")
    read, written = reader(told)
    if written != line:
        raise LineInvalid("is not as it was written")
    return read


def _header(told: Mapping[str, Any]) -> tuple[Header, bytes]:
    if told.get("format") != FORMAT:
        raise LineInvalid(f"has the format {told.get('format')!r}, expected {FORMAT!r}")
    _only(told, "format", "after", "texts", "salts")
    salts = told.get("salts")
    if not isinstance(salts, dict) or not isinstance(told.get("texts"), bool):
        raise LineInvalid("has no salts, or does not say whether texts are in it")
    header = Header(_whole(told, "after"), told["texts"], {name: _octets(salts, name) for name in salts})
    return header, header_line(header)


def _event(told: Mapping[str, Any]) -> tuple[Recorded, bytes]:
    _only(told, *EVENT)
    values: dict[str, Any] = {name: _octets(told, name) if name in HASHES else told[name] for name in EVENT}
    for name in EVENT:
        if name in WHOLE:
            _whole(told, name)
        elif name not in HASHES:
            _string(told, name)
    recorded = Recorded(**values)
    if len(recorded.hash) != HASH_BYTES or len(recorded.prev_hash) != HASH_BYTES:
        raise LineInvalid(f"has a hash that is not {HASH_BYTES} bytes")
    if recorded.computed_hash() != recorded.hash:
        raise LineInvalid("has an event that was changed: the hash is not that of its fields")
    return recorded, event_line([values[name] for name in EVENT])


def _text(told: Mapping[str, Any]) -> tuple[Text, bytes]:
    form = "base64" if "base64" in told else "text"
    _only(told, "task_id", "slot", "salt", form)
    content = _string(told, form)
    try:
        octets = base64.b64decode(content, validate=True) if form == "base64" else content.encode()
    except ValueError as error:
        raise LineInvalid(f"has a text that cannot be read: {error}") from error
    text = Text(_string(told, "task_id"), Payload(_string(told, "slot"), _octets(told, "salt"), octets))
    return text, text_line((text.task_id, text.payload.slot, text.payload.salt, octets))


def _end(told: Mapping[str, Any]) -> tuple[End, bytes]:
    _only(told, "events", "texts", "upto", "sha256")
    counts = [_whole(told, name) for name in ("events", "texts", "upto")]
    end = End(counts[0], counts[1], counts[2], _string(told, "sha256"))
    return end, end_line(end)


READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], tuple[Line, bytes]]]] = {
    "header": _header,
    "event": _event,
    "text": _text,
    "end": _end,
}


def _only(told: Mapping[str, Any], *names: str) -> None:
    if told.keys() != set(names):
        odd = sorted(told.keys() ^ set(names))
        raise LineInvalid(f"has other fields than {', '.join(names)}: {', '.join(odd)[:200]} missing or unknown")


def _whole(told: Mapping[str, Any], name: str) -> int:
    value = told[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INT64_MAX:
        raise LineInvalid(f"has {name} that is no whole number from 0 to {INT64_MAX}")
    return value


def _string(told: Mapping[str, Any], name: str) -> str:
    value = told[name]
    if not isinstance(value, str):
        raise LineInvalid(f"has {name} that is no text")
    return value


def _octets(told: Mapping[str, Any], name: str) -> bytes:
    try:
        return bytes.fromhex(_string(told, name))
    except ValueError as error:
        raise LineInvalid(f"has {name} that is no hex") from error
