"""A machine's folder beside the ledger, in memory: locks that end with their process, spilled answers that do not."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final
from unittest.mock import patch

from ledger.executor import attempt, crew, driver, presence, spill
from tests.simulation.loop import HOST, Host

__all__ = ["Folder", "in_memory"]

LOOK_S: Final = 2.0
"""Between two looks at the ledger; ten times a second is too often for those who live a thousand worlds."""


@dataclass
class Folder:
    """As much of a ``Path`` as is asked of the folder."""

    name: str
    full: Callable[[], bool] = bool
    """Whether its disk takes nothing now."""
    locks: dict[str, Host | None] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    elsewhere: Folder | None = None
    """Another disk, with room."""

    def __str__(self) -> str:
        return self.name

    def __truediv__(self, name: str) -> File:
        return File(self, name)

    def kept(self) -> bool:
        """Say whether spilled answers lie here, or on the other disk."""
        return bool(self.files) or (self.elsewhere is not None and self.elsewhere.kept())

    def mkdir(self, mode: int, *, parents: bool, exist_ok: bool) -> None:
        """It is there."""

    def is_dir(self) -> bool:
        """It is."""
        return True

    def stat(self) -> SimpleNamespace:
        """Say that it is ours."""
        return SimpleNamespace(st_uid=os.getuid())

    def glob(self, pattern: str) -> list[File]:
        """List lock files and spilled answers, by name."""
        return [File(self, name) for name in sorted(fnmatch.filter([*self.locks, *self.files], pattern))]


@dataclass(frozen=True, order=True)
class File:
    """As much of a ``Path`` as is asked of a file."""

    folder: Folder = field(compare=False)
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def stem(self) -> str:
        """Its name without what stands behind the last point."""
        return self.name.rpartition(".")[0]

    def read_bytes(self) -> bytes:
        """Read it; what is gone raises as it would on a disk."""
        if self.name not in self.folder.files:
            raise FileNotFoundError(self.name)
        return self.folder.files[self.name]

    def unlink(self, *, missing_ok: bool) -> None:
        """Remove it."""
        self.folder.files.pop(self.name, None)


def _locked(path: File) -> None:
    path.folder.locks[path.name] = HOST.get()


def _is_held(path: File) -> bool | None:
    if path.name not in path.folder.locks:
        return None
    host = path.folder.locks[path.name]
    return host is not None and host.alive


def _unlinked(path: File) -> None:
    path.folder.locks.pop(path.name, None)


def _written(folder: Folder, name: str, content: bytes) -> File:
    if folder.full():
        raise OSError(f"no room for {name}")
    folder.files[name] = content
    return File(folder, name)


def _places(folder: Folder) -> tuple[Folder, ...]:
    return (folder,) if folder.elsewhere is None else (folder, folder.elsewhere)


@contextmanager
def in_memory() -> Iterator[None]:
    """Keep locks and spilled answers in the worlds' own folders, and look less often."""
    put = (
        (presence, "_locked", _locked),
        (presence, "_is_held", _is_held),
        (presence, "_unlinked", _unlinked),
        (spill, "_written", _written),
        (spill, "_places", _places),
        (driver, "POLL_S", LOOK_S),
        (attempt, "PLACE_S", LOOK_S),
        (crew, "LOOK_S", LOOK_S),
    )
    with ExitStack() as stack:
        for module, name, value in put:
            stack.enter_context(patch.object(module, name, value))
        yield
