"""The work of ``import``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ledger.audit import verify
from ledger.audit.importing import import_lines
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.cli.work.verify import tell_report
from ledger.config import load_config, resolve_ledger
from ledger.ports import Ports
from ledger.store.opening import open_store, parse_url

__all__ = ["import_ledger"]


def import_ledger(common: Common, file: Path) -> int:
    """Import a file, verify the ledger and return the exit code."""

    async def work() -> int:
        url = resolve_ledger(common.ledger, load_config(common.config))
        now_ms = Ports().now_ms
        imported = await import_lines(file, url, now_ms=now_ms)
        store = await open_store(url, create=False, now_ms=now_ms)
        try:
            report = await verify(store)
        finally:
            await store.aclose()
        if common.as_json:
            output.document({**asdict(imported), "verify": asdict(report)})
        else:
            output.write(
                f"{parse_url(url)}: {imported.events:,} events of {imported.tasks:,} tasks and {imported.texts:,} "
                f"texts, up to position {imported.newest:,}, as they are in {file}\n"
            )
            tell_report(report)
        return DONE if report.ok else FOUND

    return perform(work, interrupted="nothing was kept")
