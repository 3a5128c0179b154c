"""``report cost``: what attempts cost, what bought nothing, and what an accepted output came to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from ledger.reports import money
from ledger.reports.asked import Asked, Column, Report, average, share
from ledger.reports.grouping import (
    Grouping,
    Key,
    Measures,
    Total,
    by_attempt,
    by_row,
    grouped,
    merged,
    of_instant,
    started,
    tasks_among,
)
from ledger.reports.reading import Snapshot
from ledger.reports.totals import summed

__all__ = ["Priced", "cost", "whole"]

Sums = dict[Key, dict[str, Any]]

CREATED: Final = "t.created_at_ms >= :since_ms AND t.created_at_ms < :until_ms AND t.kind = 'generation'"
TOKENS: Final = (
    "tokens_input",
    "tokens_output",
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
COUNTS: Final[Measures] = {
    "attempts": "COUNT(*)",
    **{name: Total(f"a.{name}") for name in TOKENS},
    "tokens_unknown_attempts": (
        "COUNT(CASE WHEN (a.tokens_input IS NULL OR a.tokens_output IS NULL)"
        " AND a.usage_source <> 'not_billed' THEN 1 END)"
    ),
}
NOTHING: Final = "cost_bought_nothing_nano_usd"
BY_TASK: Final = {"tier": "t.tier_requested", **of_instant("t.created_at_ms")}
TASKS: Final[Measures] = {
    "tasks_asked": "COUNT(*)",
    "outputs_accepted": (
        "COUNT(CASE WHEN t.accepted = 1 OR (t.state = 'succeeded' AND t.accepted IS NULL) THEN 1 END)"
    ),
}
TASKS_COST: Final[Measures] = {
    "tasks_cost_nano_usd": Total("t.cost_known_nano_usd"),
    "tasks_cost_unknown_attempts": Total("t.cost_unknown_attempts"),
}

COLUMNS: Final = (
    Column("attempts", "count"),
    Column("tasks", "count"),
    *(Column(name, "count") for name in TOKENS),
    Column("tokens_unknown_attempts", "count"),
    Column("cost_nano_usd", "money"),
    Column("cost_unknown_attempts", "count"),
    Column("exposure_nano_usd", "money"),
    Column("exposure_unknown_attempts", "count"),
    Column("cost_failed_nano_usd", "money"),
    Column("cost_judges_nano_usd", "money"),
    Column(NOTHING, "money"),
    Column("bought_nothing_share", "share"),
    Column("tasks_asked", "count"),
    Column("outputs_accepted", "count"),
    Column("tasks_cost_nano_usd", "money"),
    Column("tasks_cost_unknown_attempts", "count"),
    Column("cost_per_accepted_nano_usd", "money"),
    Column("cost_per_accepted_known_nano_usd", "money"),
)
AGAINST: Final = (
    Column("compared_attempts", "count"),
    Column("compared_cost_nano_usd", "money"),
    Column("against_nano_usd", "money"),
    Column("saved_nano_usd", "money"),
)
"""Beside the others where a report compares with having sent everything to one tier."""

Priced = Callable[[Snapshot, int, int], AsyncIterator[Sequence[money.Money]]]
"""Gives the money of every attempt that started from one instant to before another, in pages."""


async def cost(
    snapshot: Snapshot, asked: Asked, *, priced: Priced | None = None, against: Priced | None = None
) -> Report:
    """Return what attempts cost, by group.

    Args:
        snapshot: the ledger.
        asked: the groups and the time.
        priced: other money than the ledger's of today.
        against: money of the same usage elsewhere, to compare with: an estimate.

    Raises:
        RequestRefused: there are too many groups.
    """
    attempts = grouped(asked, by_attempt("a"), "a.task_id")
    tasks = None if {"model", "purpose"} & set(asked.by) else grouped(asked, BY_TASK, "t.task_id")
    if priced is None:
        spent = await _spent(snapshot, asked, attempts)
        made = {} if tasks is None else await tasks.sums(snapshot, {**TASKS, **TASKS_COST}, "tasks t", CREATED)
    else:
        spent, made = await _repriced(snapshot, asked, attempts, tasks, priced)
    rows = []
    compared = {} if against is None else await _compared(snapshot, asked, attempts, against)
    for key in merged((*spent, *made), attempts.names):
        row = attempts.row(key) | _figures(spent.get(key, {}), made.get(key, {}), is_by_task=tasks is not None)
        if against is not None:
            row |= dict.fromkeys((column.name for column in AGAINST), 0) | compared.get(key, {})
            row["saved_nano_usd"] = row["against_nano_usd"] - row["compared_cost_nano_usd"]
        rows.append(row)
    return Report((*attempts.columns(), *COLUMNS, *(AGAINST if against is not None else ())), rows)


async def whole(snapshot: Snapshot, asked: Asked, report: Report) -> dict[str, Any]:
    """Return the total of a report of costs: its rows together, each task of theirs once."""
    asked = replace(asked, by=())
    everything = grouped(asked, by_attempt("a"), "a.task_id")
    counted = await everything.sums(snapshot, {"tasks": tasks_among(asked)}, "attempts a", started(asked))
    total = summed(report) | counted[()]
    return total | _each(total)


async def _spent(snapshot: Snapshot, asked: Asked, grouping: Grouping) -> Sums:
    """Add up attempts as they stand; lost tasks are few, so their answers are looked for from there."""
    without_answer = f"{money.WITHOUT_ANSWER} OR ({money.LATE_FOR_NOTHING})"
    aggregates: Measures = {
        **COUNTS,
        "tasks": tasks_among(asked),
        **money.measures("a.cost_nano_usd", "a.exposure_nano_usd"),
        NOTHING: Total(f"CASE WHEN {without_answer} THEN a.cost_nano_usd END"),
    }
    rows = grouped(asked, by_row(asked), "a.task_id")
    sums = await rows.sums(snapshot, aggregates, "attempts a", started(asked))
    lost = await grouping.sums(
        snapshot,
        {NOTHING: Total("a.cost_nano_usd")},
        "tasks t JOIN attempts a ON a.task_id = t.task_id",
        f"t.state IN ('failed', 'cancelled') AND a.state = 'succeeded' AND {started(asked)}",
    )
    for key, found in lost.items():
        if key in sums:
            sums[key][NOTHING] += found[NOTHING]
    return sums


async def _repriced(
    snapshot: Snapshot, asked: Asked, attempts: Grouping, tasks: Grouping | None, priced: Priced
) -> tuple[Sums, Sums]:
    """Count attempts and tasks as they stand, and add up the money that is given instead."""
    nothing = f"({money.WITHOUT_ANSWER}) OR ({money.LATE_FOR_NOTHING}) OR ({money.OF_LOST_TASKS})"
    cost_of_attempts: Measures = {
        **money.measures("m.cost", "m.exposure"),
        NOTHING: Total(f"CASE WHEN {nothing} THEN m.cost END"),
    }
    spent = money.Account(attempts, cost_of_attempts, started(asked))
    accounts = [spent]
    until_ms = asked.until_ms
    if tasks is not None:
        # A task that was made in this time may have attempts after it.
        newest = f"SELECT MAX(a.started_at_ms) FROM tasks t JOIN attempts a ON a.task_id = t.task_id WHERE {CREATED}"  # noqa: S608 - our own words
        ((last_ms,),) = await snapshot.rows(newest, asked.window)
        until_ms = max(until_ms, (last_ms or 0) + 1)
        cost_of_tasks: Measures = {
            "tasks_cost_nano_usd": Total("m.cost"),
            "tasks_cost_unknown_attempts": "COUNT(CASE WHEN m.cost IS NULL THEN 1 END)",
        }
        accounts.append(money.Account(tasks, cost_of_tasks, CREATED, "JOIN tasks t ON t.task_id = a.task_id"))
    await money.add_up(snapshot, priced(snapshot, asked.since_ms, until_ms), accounts)
    counts: Measures = {**COUNTS, "tasks": tasks_among(asked)}
    counted = await attempts.sums(snapshot, counts, "attempts a", started(asked))
    made = {} if tasks is None else await tasks.sums(snapshot, TASKS, "tasks t", CREATED)
    for sums, account in zip((counted, made), accounts, strict=False):
        for key in sums:
            sums[key] |= dict.fromkeys(account.aggregates, 0) | account.sums.get(key, {})
    return counted, made


async def _compared(snapshot: Snapshot, asked: Asked, attempts: Grouping, against: Priced) -> Sums:
    """Compare what both prices are known of; judges would have been paid all the same."""
    elsewhere = "CASE WHEN a.purpose = 'generate' THEN m.cost ELSE a.cost_nano_usd END"
    both = f"a.cost_nano_usd IS NOT NULL AND {elsewhere} IS NOT NULL"
    aggregates: Measures = {
        "compared_attempts": "COUNT(*)",
        "compared_cost_nano_usd": Total("a.cost_nano_usd"),
        "against_nano_usd": Total(elsewhere),
    }
    account = money.Account(attempts, aggregates, f"{started(asked)} AND {both}")
    await money.add_up(snapshot, against(snapshot, asked.since_ms, asked.until_ms), [account])
    return account.sums


def _figures(spent: Mapping[str, Any], made: Mapping[str, Any], *, is_by_task: bool) -> dict[str, Any]:
    """Return a row's figures; by a model or a purpose nothing can be said of tasks."""
    of_tasks = dict.fromkeys((*TASKS, *TASKS_COST), 0 if is_by_task else None) | dict(made)
    figures = {column.name: spent.get(column.name, 0) for column in COLUMNS} | of_tasks
    return figures | {"bought_nothing_share": share(figures[NOTHING], figures["cost_nano_usd"])} | _each(figures)


def _each(figures: Mapping[str, Any]) -> dict[str, int | None]:
    """Return what an accepted output came to; with an unknown part only what is known of it."""
    known = average(figures["tasks_cost_nano_usd"], figures["outputs_accepted"])
    return {
        "cost_per_accepted_nano_usd": None if figures["tasks_cost_unknown_attempts"] else known,
        "cost_per_accepted_known_nano_usd": known,
    }
