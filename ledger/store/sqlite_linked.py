"""Which SQLite this Python is linked with, and what is known of that version."""

from __future__ import annotations

import sqlite3
from typing import Final

__all__ = ["has_wal_reset_bug", "linked_version"]

WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
"""The first and the last release in which a write and a checkpoint of several connections, at the same instant, can
very rarely damage a file with a write-ahead log."""


def linked_version() -> str:
    """Return the version of the library, not of the module."""
    return sqlite3.sqlite_version


def has_wal_reset_bug(version: str) -> bool:
    """Say whether a release carries that bug, unless its packager has patched it."""
    first, last = WAL_RESET_BUG
    return first <= tuple(int(part) for part in version.split(".")[:3]) <= last
