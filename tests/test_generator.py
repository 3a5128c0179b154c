"""The benchmarks' large ledgers are real ones."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.generator import DAYS, generate
from ledger.audit import verify
from ledger.store.opening import open_sqlite
from tests.contracts.appends import Clock


async def test_a_generated_ledger_is_one_that_verify_accepts(tmp_path: Path) -> None:
    """Every hash, projection and decision holds; days, tiers, failures and unpriced models are all there."""
    path = tmp_path / "large.db"
    events = await asyncio.to_thread(generate, path, 400)
    store = await open_sqlite(path, create=False, now_ms=Clock())
    report = await verify(store)
    await store.aclose()
    assert (True, events) == (report.ok, report.events)
    with closing(sqlite3.connect(path)) as ledger:
        days, tiers, unpriced = ledger.execute(
            "SELECT count(DISTINCT day), count(DISTINCT tier), sum(exposure_unknown_attempts) FROM tier_cost"
        ).fetchone()
    assert days > DAYS // 2
    assert tiers == 5
    assert unpriced
