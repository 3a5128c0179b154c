"""Fresh SQLite ledgers for tests, copied from one that was migrated once."""

from __future__ import annotations

import itertools
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from ledger.store.upgrade import create

__all__ = ["fresh_ledger"]

numbers = itertools.count(1)


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        create(path)
        return path.read_bytes()


def fresh_ledger(folder: Path) -> Path:
    """Return the path of a new, empty ledger in ``folder``; all of them have the same salt."""
    path = folder / f"ledger-{next(numbers)}.db"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(_migrated())
    return path
