"""The work of ``db rebuild``."""

from __future__ import annotations

from dataclasses import asdict

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.cli.work.progress import progress
from ledger.cli.work.words import plural
from ledger.config import load_config, resolve_ledger
from ledger.ports import Ports
from ledger.store.opening import open_store, parse_url
from ledger.store.rebuilding import rebuild

__all__ = ["rebuild_ledger"]


def rebuild_ledger(common: Common) -> int:
    """Make the projections again and return the exit code."""

    async def work() -> int:
        url = resolve_ledger(common.ledger, load_config(common.config))
        now_ms = Ports().now_ms
        store = await open_store(url, create=False, now_ms=now_ms)
        newest = await store.newest()
        await store.aclose()
        with progress(max(newest, 1), "events") as report:
            done = await rebuild(url, now_ms=now_ms, progress=lambda events: report("read", events))
        if common.as_json:
            output.document(asdict(done))
        else:
            told = f"{plural(done.events, 'event')} of {plural(done.tasks, 'task')}"
            output.write(f"{parse_url(url)}: projections, views and indexes made again from {told}\n")
        return DONE

    return perform(work, interrupted="the ledger is as it was before")
