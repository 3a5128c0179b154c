"""The ledger and the folder it lies in: guards, permissions, room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.config.origins import without_password
from ledger.doctor.findings import Finding
from ledger.errors import DispatchError, LedgerCorrupt, LedgerMissing, LedgerVersion
from ledger.store.opening import open_store, parse_url
from ledger.store.postgres_url import PostgresUrl

__all__ = ["Place", "look"]

MIB: Final = 1 << 20
FREE_BYTES_WARN: Final = 100 * MIB
FREE_BYTES_STOP: Final = MIB
OTHERS: Final = 0o077


@dataclass(frozen=True, slots=True)
class Place:
    """What was found at a ledger's place."""

    findings: tuple[Finding, ...]
    newest_ms: int | None = None
    """When its newest event was recorded."""


async def look(url: str, now_ms: Callable[[], int]) -> Place:
    """Look at a ledger without writing to it."""
    try:
        path = parse_url(url)
    except DispatchError as error:
        return Place((Finding("ledger", "stop", str(error), "name another place by --ledger"),))
    # On a server those are its own.
    around = (*_permissions(path), *_room(path)) if isinstance(path, Path) else ()
    shown = without_password(url)
    try:
        store = await open_store(url, create=False, now_ms=now_ms)
    except LedgerMissing as missing:
        if isinstance(path, PostgresUrl):
            return Place((Finding("ledger", "note", str(missing)),))
        if not path.parent.is_dir():
            said = f"there is no ledger at {shown}, nor its folder"
            return Place((Finding("ledger", "stop", said, f"mkdir -p {path.parent}, or name another place"),))
        said = f"there is no ledger at {shown} yet; the first command that writes makes it"
        return Place((Finding("ledger", "note", said), *around))
    except LedgerVersion as error:
        return Place((Finding("ledger", "stop", str(error), "--ledger names another one"), *around))
    except LedgerCorrupt as error:
        advice = "put a backup in its place, or name another ledger by --ledger"
        return Place((Finding("ledger", "stop", str(error), advice), *around))
    except DispatchError as error:
        return Place((Finding("ledger", "stop", str(error), "then try again, or name another by --ledger"), *around))
    try:
        newest = await store.newest()
        events = await store.page(newest - 1, 1) if newest else ()
    except DispatchError as error:
        return Place((Finding("ledger", "stop", str(error), "`dispatch-ledger db check` says more"), *around))
    finally:
        await store.aclose()
    found = Finding("ledger", "ok", f"{shown}: its guards stand; the newest event is number {newest:,}")
    return Place((found, *around), events[0].recorded_at_ms if events else None)


def _permissions(path: Path) -> Iterator[Finding]:
    """Say who can read the files, and whether we can write them."""
    files = [file for file in (path, *(Path(f"{path}{end}") for end in ("-wal", "-shm"))) if file.is_file()]
    if not path.parent.is_dir():
        return
    locked = [file for file in (path.parent, *files) if not os.access(file, os.W_OK)]
    if locked:
        yield Finding("permissions", "stop", f"{locked[0]} may not be written", f"chmod u+w {locked[0]}")
        return
    open_to_others = [file for file in files if file.stat().st_mode & OTHERS]
    if open_to_others:
        names = " ".join(map(str, open_to_others))
        said = f"other users of this machine may read or write {names}, prompts and answers included"
        yield Finding("permissions", "warning", said, f"chmod 600 {names}")
    elif files:
        yield Finding("permissions", "ok", "only its owner can read the ledger (0600)")


def _room(path: Path) -> Iterator[Finding]:
    """Say how much room there is for more."""
    if not path.parent.is_dir():
        return
    free = shutil.disk_usage(path.parent).free
    said = f"{free / MIB:,.0f} MiB free where the ledger lies"
    if free < FREE_BYTES_STOP:
        yield Finding("disk", "stop", said, "make room: no call is made that cannot be recorded")
    elif free < FREE_BYTES_WARN:
        yield Finding("disk", "warning", said, "make room soon: no call is made that cannot be recorded")
    else:
        yield Finding("disk", "ok", said)
