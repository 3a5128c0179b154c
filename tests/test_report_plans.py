"""Which way SQLite takes through a large ledger for a report of all times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.reports.asked import Asked
from ledger.reports.cost import cost
from ledger.reports.latency import latency
from ledger.reports.reading import Snapshot, reading
from ledger.reports.reliability import reliability
from ledger.store.opening import open_sqlite
from ledger.store.snapshots import NOTHING
from tests.contracts.appends import Clock
from tests.ledgers import fresh_ledger

Rows = list[tuple[Any, ...]]


class Explained:
    """A snapshot that keeps the plan of every statement."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.plans: list[str] = []

    async def rows(self, text: str, wanted: Mapping[str, Any] = NOTHING) -> Rows:
        steps = await self._snapshot.rows(f"EXPLAIN QUERY PLAN {text}", wanted)
        self.plans.append(" / ".join(str(step[3]) for step in steps))
        return await self._snapshot.rows(text, wanted)

    async def each(self, text: str, wanted: Sequence[Mapping[str, Any]]) -> list[Rows]:
        return [await self.rows(text, one) for one in wanted]


async def planned(report: Any, asked: Asked, snapshot: Snapshot) -> list[str]:
    explained = Explained(snapshot)
    await report(explained, asked)
    return explained.plans


@pytest.mark.parametrize("report", [cost, latency, reliability])
async def test_no_row_is_looked_up_through_the_index_of_days(tmp_path: Path, report: Any) -> None:
    """What no index holds is read in the table's own order, or found by keys; a day's figures still use its index."""
    store = await open_sqlite(fresh_ledger(tmp_path), create=False, now_ms=Clock())
    by = ("day", "tier", "model")
    always = await reading(store, partial(planned, report, Asked(by)))
    a_day = await reading(store, partial(planned, report, Asked(by, 0, 86_400_000)))
    await store.aclose()
    assert [plan for plan in always if "USING INDEX attempts_by_day" in plan] == []
    assert [plan for plan in a_day if "INDEX attempts_by_day (<expr>" in plan] != []
