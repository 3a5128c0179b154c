"""A disk that keeps what was synced, and of the rest whatever it likes: the log of the shim, played again."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

__all__ = ["STYLES", "Call", "Cut", "Disk", "calls", "cuts"]

HEAD: Final = struct.Struct("<ciqI")
TURNS: Final = (b"s", b"f", b"t", b"u", b"r", b"o")
"""Calls before and after which a cut is most telling."""

STYLES: Final = ("nothing", "everything", "files only", "names only", "torn 512", "torn 4096", "half", "last only")
"""What becomes of what was not synced."""
NAMES_KEPT: Final = ("everything", "names only")
NAMES_LOST: Final = ("nothing", "files only")


class Call(NamedTuple):
    """One call that a program made."""

    kind: bytes
    descriptor: int
    offset: int
    data: bytes

    @property
    def path(self) -> str:
        """The file that was opened or removed."""
        return os.fsdecode(self.data)


class Write(NamedTuple):
    """Bytes at a place; of a truncation None and the size."""

    at: int
    data: bytes | None


class Cut(NamedTuple):
    """What a disk holds after the power went."""

    at: int
    """After so many calls."""
    style: str
    files: Mapping[str, bytes]
    acknowledged: frozenset[str]
    """The lines that the program had written to the file of acknowledgements."""


@dataclass(eq=False, slots=True)
class File:
    """A file's bytes as they were synced last, and what was written since."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Write] = field(default_factory=list)


def calls(log: Path) -> list[Call]:
    """Read the log of a program."""
    content, found, at = memoryview(log.read_bytes()), [], 0
    while at < len(content):
        kind, descriptor, offset, length = HEAD.unpack_from(content, at)
        at += HEAD.size
        found.append(Call(kind, descriptor, offset, bytes(content[at : at + length])))
        at += length
    return found


def cuts(
    made: Sequence[Call], before: Mapping[str, bytes], acknowledgements: str, count: int, seed: int
) -> Iterator[Cut]:
    """Yield ``count`` states of the disk: every style around every sync, open, truncation, removal and acknowledgement.

    Args:
        made: all calls of the program, in order.
        before: the files that were there, synced, by path.
        acknowledgements: the path of a file to which the program wrote what it had been promised.
        count: how many states at most.
        seed: what is torn, which of these cuts are taken if there are more, and which others if there are fewer.
    """
    draw = random.Random(seed)  # noqa: S311 - a test's choice, to be had again
    told = {call.descriptor for call in made if call.kind == b"o" and call.path == acknowledgements}
    turns = [place for place, call in enumerate(made) if call.kind in TURNS or call.descriptor in told]
    telling = sorted({at for place in turns for at in (place, place + 1)})
    plan = [(at, style) for at in telling for style in STYLES]
    if len(plan) > count:
        plan = draw.sample(plan, count)
    plan += [(draw.randrange(len(made) + 1), draw.choice(STYLES)) for _ in range(count - len(plan))]
    disk, played = Disk(before, acknowledgements, seed), 0
    for at, style in sorted(plan):
        for call in made[played:at]:
            disk.play(call)
        played = at
        yield Cut(at, style, disk.after_cut(style, draw), frozenset(disk.acknowledged.decode().split()))


class Disk:
    """Files and their names, kept apart: a file that is synced can still lose its name, and the other way round."""

    def __init__(self, before: Mapping[str, bytes], acknowledgements: str = "", seed: int = 0) -> None:
        self.draw = random.Random(seed)  # noqa: S311 - a test's choice, to be had again
        self.names = {path: File(bytearray(content)) for path, content in before.items()}
        self.names_synced = dict(self.names)
        self.names_since: list[tuple[str, File | None]] = []
        self.open: dict[int, File | str] = {}
        self.acknowledgements = acknowledgements
        self.acknowledged = b""

    def play(self, call: Call) -> None:
        """Make a call again."""
        match call.kind:
            case b"o":
                self.open[call.descriptor] = self._opened(call.path, call.offset)
            case b"w" if self.open[call.descriptor] == self.acknowledgements:
                self.acknowledged += call.data
            case b"w":
                self._file(call).since.append(Write(call.offset, call.data))
            case b"t":
                self._file(call).since.append(Write(call.offset, None))
            case b"s":
                self._sync(self.open[call.descriptor])
            case b"f":
                self._fail(self._file(call))
            case b"u":
                self._name(call.path, None)
            case b"r":
                old, new = call.path.split("\0")
                self._name(new, self.names.get(old))
                self._name(old, None)
            case unknown:
                raise ValueError(unknown)

    def after_cut(self, style: str, draw: random.Random) -> dict[str, bytes]:
        """Return the files as a style of losing leaves them; what SQLite maps into memory is noise."""
        names: dict[str, File | None] = {**self.names_synced}
        for path, file in self.names_since:
            if style in NAMES_KEPT or (style not in NAMES_LOST and draw.random() < 0.5):
                names |= {path: file}
        return {
            path: draw.randbytes(32768) if path.endswith("-shm") else _content(file, style, draw)
            for path, file in names.items()
            if file is not None
        }

    def _opened(self, path: str, flags: int) -> File | str:
        if path == self.acknowledgements:
            return path
        if path not in self.names:
            if not flags & os.O_CREAT:
                return path  # a folder
            self._name(path, File())
        if flags & os.O_TRUNC:
            self.names[path].since.append(Write(0, None))
        return self.names[path]

    def _file(self, call: Call) -> File:
        file = self.open[call.descriptor]
        assert isinstance(file, File)
        return file

    def _name(self, path: str, file: File | None) -> None:
        self.names_since.append((path, file))
        if file is None:
            self.names.pop(path, None)
        else:
            self.names[path] = file

    def _fail(self, file: File) -> None:
        """Lose some of what was to be synced, for good: the next sync has forgotten it, as Linux does."""
        for write in file.since:
            for piece in _torn(write, 4096, self.draw):
                _put(file.synced, piece)
        file.since.clear()

    def _sync(self, opened: File | str) -> None:
        if isinstance(opened, File):
            for write in opened.since:
                _put(opened.synced, write)
            opened.since.clear()
            return
        left = []
        for path, file in self.names_since:
            if str(PurePosixPath(path).parent) != opened.rstrip("/"):
                left.append((path, file))
            elif file is None:
                self.names_synced.pop(path, None)
            else:
                self.names_synced[path] = file
        self.names_since = left


def _content(file: File, style: str, draw: random.Random) -> bytes:
    """Write some of what was not synced, in order."""
    content = bytearray(file.synced)
    match style:
        case "nothing" | "names only":
            kept: Sequence[Write] = ()
        case "everything" | "files only":
            kept = file.since
        case "half":
            kept = file.since[: draw.randrange(len(file.since) + 1)]
        case "last only":
            kept = file.since[-1:]
        case _:
            kept = [piece for write in file.since for piece in _torn(write, int(style.split()[1]), draw)]
    for write in kept:
        _put(content, write)
    return bytes(content)


def _torn(write: Write, sector: int, draw: random.Random) -> Iterator[Write]:
    """Keep some of a write's sectors, one in eight as noise."""
    if write.data is None:
        if draw.random() < 0.5:
            yield write
        return
    at, end = write.at, write.at + len(write.data)
    while at < end:
        until = min(end, (at // sector + 1) * sector)
        chance = draw.random()
        if chance < 0.5:
            yield Write(at, write.data[at - write.at : until - write.at])
        elif chance < 0.5625:
            yield Write(at, draw.randbytes(until - at))
        at = until


def _put(content: bytearray, write: Write) -> None:
    if write.data is None:
        del content[write.at :]
        content.extend(bytes(write.at - len(content)))
        return
    content.extend(bytes(max(0, write.at - len(content))))
    content[write.at : write.at + len(write.data)] = write.data
