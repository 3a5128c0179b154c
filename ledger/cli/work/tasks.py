"""The work of ``tasks``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.words import instant
from ledger.store.protocol import Store, TaskQuery

__all__ = ["Wanted", "list_tasks"]

PAGE: Final = 500
ID_END: Final = 12
COLUMNS: Final[tuple[output.Column, ...]] = (
    ("task", "left"),
    ("made (UTC)", "left"),
    ("state", "left"),
    ("tier", "left"),
    ("model", "left"),
    ("attempts", "right"),
    ("cost USD", "right"),
    ("error", "left"),
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    state: str | None
    tier: str | None
    since_ms: int | None
    labels: Mapping[str, str]
    after: str | None
    """The last task of the page before."""
    limit: int


def list_tasks(common: Common, wanted: Wanted) -> int:
    """List tasks and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            store = await executor.ledger.store()
            rows = await _rows(store, await _query(store, wanted), wanted.limit + 1)
        shown = rows[: wanted.limit]
        if common.as_json:
            output.document([dict(row) for row in shown])
        elif shown:
            output.table(COLUMNS, [_cells(row) for row in shown])
        else:
            output.note("no such tasks")
        if len(rows) > wanted.limit:
            last = shown[-1]["task_id"]
            output.note(f"there are more: --limit shows more at once, --after {last} the next ones")
        return DONE

    return perform(work)


async def _query(store: Store, wanted: Wanted) -> TaskQuery:
    """Return what to ask the store for.

    Raises:
        TaskNotFound: the page's begin is no task, or not only one.
    """
    after = None
    if wanted.after is not None:
        task_id = await one_task(store, wanted.after)
        after = ((await store.projected(task_id)).tasks[0]["created_at_ms"], task_id)
    return TaskQuery(state=wanted.state, tier=wanted.tier, since_ms=wanted.since_ms, labels=wanted.labels, after=after)


async def _rows(store: Store, query: TaskQuery, limit: int) -> list[Row]:
    rows: list[Row] = []
    while len(rows) < limit:
        size = min(PAGE, limit - len(rows))
        after = (rows[-1]["created_at_ms"], rows[-1]["task_id"]) if rows else query.after
        page = await store.tasks(replace(query, limit=size, after=after))
        rows += page
        if len(page) < size:
            break
    return rows


def _cells(row: Row) -> list[str]:
    """Return a row's texts; a terminal gets the id's end, which `show` takes as well."""
    task_id = str(row["task_id"])
    state = row["state"] if row["waiting_for"] is None else f"{row['state']} ({row['waiting_for']})"
    tier = row["tier_requested"]
    if row["tier_final"] not in (None, tier):
        tier = f"{tier} → {row['tier_final']}"
    cost = row["cost_nano_usd"]
    return [
        task_id[-ID_END:] if output.is_terminal() else task_id,
        instant(row["created_at_ms"]),
        state,
        tier,
        row["model_final"] or "",
        str(row["attempts"]),
        "unknown" if cost is None else f"{cost / output.NANO:.6f}",
        row["error_type"] or "",
    ]
