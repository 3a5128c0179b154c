"""The work of ``db backup``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

from ledger.audit import verify
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.verify import tell_report
from ledger.errors import ConfigurationError
from ledger.ports import Ports
from ledger.store.backing_up import back_up
from ledger.store.opening import open_store, parse_url

__all__ = ["back_up_ledger"]


def back_up_ledger(common: Common, to: Path | None) -> int:
    """Copy a ledger's file, verify the copy and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False, guarded=False) as executor:
            place = parse_url(executor.ledger.url)
        if not isinstance(place, Path):
            raise ConfigurationError(
                f"{place} is on a server, where pg_dump makes backups; `db copy` and `export` copy a ledger as well"
            )
        made = await asyncio.to_thread(back_up, place, to)
        store = await open_store(str(made.path), create=False, now_ms=Ports().now_ms, guarded=False)
        try:
            report = await verify(store)
        finally:
            await store.aclose()
        if common.as_json:
            told = {"backup": str(made.path), "newest": made.newest, "bytes": made.octets}
            output.document({**told, "verify": asdict(report)})
        else:
            output.write(f"{made.path}: the ledger up to position {made.newest:,}, {made.octets:,} bytes\n")
            tell_report(report)
        return DONE if report.ok else FOUND

    return perform(work, interrupted="no backup was made, or a whole one")
