"""Python, packages, SQLite, clock, keys: what a machine is, before any ledger."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from ledger.config.origins import KEYS
from ledger.doctor.findings import Finding
from ledger.store.sqlite_linked import has_wal_reset_bug, linked_version

__all__ = ["clock", "keys", "packages", "python", "sqlite"]

PACKAGES: Final = (
    "aiosqlite",
    "alembic",
    "anthropic",
    "click",
    "orjson",
    "pydantic",
    "rich",
    "sqlalchemy",
    "uuid-utils",
)
MISSING: Final = "is missing"
BEHIND_MS_MAX: Final = 60_000
STEP_MS_MAX: Final = 1_000


def python() -> Finding:
    """Say which Python this is, and which version of the program."""
    said = f"Python {platform.python_version()}, dispatch-ledger {_version('dispatch-ledger')}"
    return Finding("python", "ok", f"{said}, {platform.system()} {platform.machine()}")


def packages() -> Finding:
    """Say which packages are installed."""
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, number in found.items() if number == MISSING]
    said = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing:
        return Finding("packages", "warning", said, f"pip install {' '.join(missing)}")
    return Finding("packages", "ok", said)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def sqlite(number: str | None = None) -> Finding:
    """Say what is known of the SQLite that is linked."""
    number = linked_version() if number is None else number
    if not has_wal_reset_bug(number):
        return Finding("sqlite", "ok", f"SQLite {number}")
    said = (
        f"SQLite {number}: releases from 3.7.0 to 3.51.2 can, very rarely, damage a ledger when several processes "
        "write to it and checkpoint at the same instant; one process writes through one connection"
    )
    advice = "with several workers on one ledger keep backups and run `dispatch-ledger db check`, or use SQLite 3.51.3"
    return Finding("sqlite", "note", said, advice)


def keys(environ: Mapping[str, str]) -> Finding:
    """Say which keys there are; never what they are."""
    said = ", ".join(f"{name} is {'set' if environ.get(name) else 'not set'}" for name in KEYS.values())
    return Finding("keys", "ok", said)


def clock(now_ms: int, newest_ms: int | None, stepped_ms: int) -> Finding:
    """Compare the clock with the ledger's newest event, and with a clock that nobody sets.

    Args:
        now_ms: what the clock says.
        newest_ms: when the newest event was recorded, if there is one.
        stepped_ms: by how much the clock was set while this command ran.
    """
    advice = "let the system set the clock (NTP); waits and deadlines are instants of this clock"
    if abs(stepped_ms) > STEP_MS_MAX:
        return Finding("clock", "warning", f"the clock was moved by {stepped_ms:,} ms while this command ran", advice)
    behind_ms = 0 if newest_ms is None else newest_ms - now_ms
    if behind_ms > BEHIND_MS_MAX:
        behind = timedelta(seconds=behind_ms // 1000)
        said = f"the clock is {behind} behind the ledger's newest event: it was set back, or that event's was fast"
        return Finding("clock", "warning", said, advice)
    return Finding("clock", "ok", "the clock is not behind the ledger's newest event")
