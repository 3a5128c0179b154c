"""Reading a batch: every line is checked, and a bad one anywhere refuses them all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, BinaryIO, Final, get_args

from ledger.canonical import canonical
from ledger.errors import RequestRefused, UsageError
from ledger.executor.checks import checked
from ledger.executor.requests import Request, fingerprint
from ledger.policy import Tier

__all__ = ["Asked", "BatchRefused", "LineProblem", "read_batch"]

LINES_MAX: Final = 1_000_000
LINE_BYTES_MAX: Final = 128 * 1024 * 1024
SHOWN_MAX: Final = 20
SHOWN_CHARACTERS: Final = 80
DIGITS_MAX: Final = 1000
KEYS: Final = ("prompt", "tier", "key", "max_tokens", "retries", "timeout_s", "system", "labels")
TIERS: Final[tuple[str, ...]] = get_args(Tier)
NAMES: Final = {"retry_count": "retries", "idempotency_key": "key"}
"""What a line calls the arguments of a request."""
BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the numbers of the lines that ask for it."""

    request: Request
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with a line."""

    line: int
    detail: str


class BatchRefused(UsageError):
    """A batch with bad lines; nothing of it was submitted.

    Attributes:
        name: the file, as it was named.
        problems: every bad line; the message shows the first twenty.
    """

    def __init__(self, name: str, problems: Sequence[LineProblem]) -> None:
        count = "1 bad line" if len(problems) == 1 else f"{len(problems):,} bad lines"
        shown = [f"  line {problem.line}: {problem.detail}" for problem in problems[:SHOWN_MAX]]
        more = len(problems) - len(shown)
        super().__init__(
            "\n".join(
                [f"{name}: {count}, nothing was submitted", *shown, *([f"  … and {more:,} more"] if more else [])]
            )
        )
        self.name = name
        self.problems = tuple(problems)


def read_batch(file: BinaryIO, name: str) -> tuple[Asked, ...]:
    """Read a batch; equal lines, and lines of one key, are asked for once.

    Args:
        file: JSON lines, UTF-8.
        name: what messages call it.

    Raises:
        BatchRefused: a line is wrong, or one key names two requests.
    """
    requests: dict[tuple[str, str], Request] = {}
    numbers: dict[tuple[str, str], list[int]] = {}
    problems: list[LineProblem] = []
    for number, line in _lines(file, name):
        try:
            request = _read_line(line)
            identity = ("key", request.key) if request.key is not None else ("line", request.default_key or "")
            first = requests.setdefault(identity, request)
            numbers.setdefault(identity, []).append(number)
        except ValueError as error:
            problems.append(LineProblem(number, str(error)))
            continue
        if first is not request and fingerprint(first) != fingerprint(request):
            other = numbers[identity][0]
            detail = f"the key {request.key!r} is line {other}'s, which is another request"
            problems.append(LineProblem(number, detail))
    if problems:
        raise BatchRefused(name, problems)
    return tuple(Asked(request, tuple(numbers[identity])) for identity, request in requests.items())


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers; empty ones are let pass at the end only."""
    blank: list[int] = []
    for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
        if len(line) > LINE_BYTES_MAX or number > LINES_MAX:
            limit = f"{LINES_MAX:,} lines of at most {LINE_BYTES_MAX:,} bytes"
            raise BatchRefused(name, [LineProblem(number, f"a batch has at most {limit}; split it")])
        content = line.removeprefix(BOM) if number == 1 else line
        if not content.strip():
            blank.append(number)
            continue
        # What looked like the end was none.
        yield from ((empty, b"") for empty in blank)
        blank.clear()
        yield number, content


def _read_line(line: bytes) -> Request:
    """Make a request of a line.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    if not line:
        raise ValueError("the line is empty, expected a JSON object")
    fields = _parse(line)
    _known(fields)
    request = Request(
        tier=fields["tier"],
        prompt=fields["prompt"],
        max_tokens=fields.get("max_tokens"),
        retry_count=fields.get("retries"),
        system=fields.get("system"),
        timeout_s=fields.get("timeout_s"),
        key=fields.get("key"),
        default_key=None,
        labels=fields.get("labels", {}),
    )
    try:
        checked(request)
    except RequestRefused as refused:
        argument = NAMES.get(refused.field, refused.field)
        raise ValueError(argument + str(refused).removeprefix(refused.field)) from None
    if request.key is not None:
        return request
    return _with_default_key(request, fields)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), object_pairs_hook=_object, parse_int=_whole, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("no JSON that can be read: nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {_kind(value)}, expected an object")  # noqa: TRY004 - a line has one kind of error
    return value


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key[:SHOWN_CHARACTERS]!r} stands there twice")
        value[key] = item
    return value


def _whole(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise ValueError(f"a number has {len(digits):,} digits, more than anything here can have")
    return int(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"no JSON: {name} is no number of it")


def _kind(value: Any) -> str:
    kinds = {list: "array", str: "text", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _known(fields: dict[str, Any]) -> None:
    """Check what a request does not: names, what must be there, nulls, the tier."""
    for key in fields:
        if key not in KEYS:
            near = get_close_matches(key.lower(), KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            raise ValueError(f"unknown key {key[:SHOWN_CHARACTERS]!r}; {hint}")
    for key in ("prompt", "tier"):
        if key not in fields:
            raise ValueError(f"{key} is missing")
    for key, value in fields.items():
        if value is None:
            raise ValueError(f"{key} is null; leave the key out instead")
    tier = fields["tier"]
    if tier not in TIERS:
        near = get_close_matches(str(tier).lower(), TIERS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"tier is {str(tier)[:SHOWN_CHARACTERS]!r}, expected one of {', '.join(TIERS)}{hint}")


def _with_default_key(request: Request, fields: dict[str, Any]) -> Request:
    """Name a line without a key by its content.

    Canonical JSON has no fractions: a timeout with one is written as text there, which no line can hold itself.
    """
    named = dict(fields)
    timeout_s = named.get("timeout_s")
    if isinstance(timeout_s, float):
        named["timeout_s"] = int(timeout_s) if timeout_s.is_integer() else repr(timeout_s)
    return replace(request, default_key=hashlib.sha256(canonical(named)).hexdigest())
