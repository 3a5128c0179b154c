"""The page ``docs/sql.md``: each question of the cookbook with its SQL, and the answer of one small ledger."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from clients.base import ExecutionResult, Usage
from ledger import Config, ModelTier
from ledger.reports.cookbook import COOKBOOK
from tests.world import World, answer, fail

__all__ = ["fill", "shown", "sql_page"]

PRICES: Final = {
    "gemini/gemini-2.5-flash": {"input_usd_per_mtok": 0.3, "output_usd_per_mtok": 2.5},
    "anthropic/claude-haiku-5-5": {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.5},
    "anthropic/claude-haiku-4-5": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 5},
    "anthropic/claude-sonnet-5-5": {"input_usd_per_mtok": 2, "output_usd_per_mtok": 10, "cache_read_usd_per_mtok": 0.1},
}
INTRODUCTION: Final = """\
# Questions in SQL

Written by `make docs`; change `ledger/reports/cookbook.py`, not this page. Every statement is run on both engines by a
test, and answers there what stands here.

The ledger is a plain SQLite file or PostgreSQL database; whatever reads those reads it: the `sqlite3` shell, psql,
Datasette, DuckDB, Grafana. `tasks`, `attempts`, `decisions`, `validations` and `task_labels` are tables, written in the
same transaction as the events; `tier_cost`, `tier_latency`, `tasks_iso` and `attempts_iso` are views. Money is in
billionths of a dollar, times are UTC milliseconds (the `_iso` views have them as text); NULL is unknown, never zero.

```bash
sqlite3 dispatch.db "SELECT * FROM tier_cost"
psql "$DISPATCH_LEDGER_URL" -c "SELECT * FROM tier_cost"
duckdb -c "ATTACH 'dispatch.db' (TYPE sqlite); SELECT * FROM dispatch.tier_cost"
dispatch-ledger db datasette >metadata.json && datasette dispatch.db -m metadata.json
```

`db datasette` writes these questions as canned queries for Datasette, and a dashboard with charts for its plugin
`datasette-dashboards`. Read a ledger that is in use with tools that only read: the guards let nobody change an event,
but not every tool asks before it locks a file.
"""


def sql_page() -> str:
    """Return the page."""
    with tempfile.TemporaryDirectory() as folder:
        path = asyncio.run(fill(Path(folder)))
        with sqlite3.connect(path) as database:
            sections = [
                f"## {question.asks}\n\n{question.read}\n\n```sql\n{question.sql}\n```\n\n```text\n"
                f"{_asked(database, question.sql)}\n```\n"
                for question in COOKBOOK
            ]
        database.close()
    return "\n".join((INTRODUCTION, *sections))


def _asked(database: sqlite3.Connection, sql: str) -> str:
    cursor = database.execute(sql)
    return shown([column[0] for column in cursor.description], cursor.fetchall())


def shown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Set rows in columns: figures to the right, NULL by its name."""
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    figures = [all(isinstance(row[place], int | Decimal | None) for row in rows) for place in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if figure else cell.ljust(width)
            for cell, width, figure in zip(row, widths, figures, strict=True)
        ).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    return "NULL" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


async def fill(folder: Path) -> Path:
    """Make a ledger in which something of everything happened; return its path."""
    asked = {"flash": "gemini-2.5-flash", "haiku": "claude-haiku-5-5", "sonnet": "claude-sonnet-5-5"}
    world = World(folder, config=Config.from_mapping({"prices": PRICES}))
    world.scripts = {
        asked["flash"]: [
            _used(asked["flash"], 1_200, 300, 41),
            fail("rate_limited", status_code=429),
            _used(asked["flash"], 900, 450, 38),
            *[fail("overloaded", status_code=503)] * 3,
            fail("timeout"),
            _used(asked["flash"], 2_000, 800, 95),
        ],
        asked["haiku"]: [
            _used(asked["haiku"], 1_500, 500, 60),
            _used("claude-haiku-4-5", 1_000, 250, 72),
            _used(asked["haiku"], 3_000, 640, 81),
        ],
        asked["sonnet"]: [
            _judged(passed=False),
            _used(asked["sonnet"], 2_500, 900, 210, cached=2_048),
            _judged(passed=True),
            fail("connection"),
            _used(asked["sonnet"], 4_000, 1_100, 305),
        ],
    }
    async with world.executor() as executor:
        for number, team in enumerate(("geo", "geo", "ops", "ops")):
            await executor.execute(ModelTier.FLASH, f"Question {number}", labels={"team": team})
        await executor.execute(ModelTier.HAIKU, "Question 5", labels={"team": "geo"})
        await executor.execute_validated(ModelTier.HAIKU, "Question 6", labels={"team": "ops"})
        world.now_ms += 86_400_000
        await executor.execute(ModelTier.SONNET, "Question 7")
    return world.path


def _used(model: str, tokens_in: int, tokens_out: int, latency_ms: int, cached: int = 0) -> ExecutionResult:
    usage = Usage(
        model=model,
        input_uncached_tokens=tokens_in,
        cache_read_tokens=cached,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=tokens_out,
    )
    return answer().model_copy(update={"usage": (usage,), "served_model": model, "latency_ms": latency_ms})


def _judged(*, passed: bool) -> ExecutionResult:
    verdict = json.dumps({"pass": passed, "issues": [], "confidence": 0.9, "escalate": not passed})
    return _used("claude-sonnet-5-5", 700, 40, 120).model_copy(update={"response": verdict})
