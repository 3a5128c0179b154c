"""Percentiles by nearest rank: of n values in their order the one at n times p per cent, rounded up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.reports.asked import Asked
from ledger.reports.grouping import Grouping, Key, Measures, by_attempt, grouped
from ledger.reports.reading import Snapshot

__all__ = ["PERCENTS", "of_latencies", "ranks"]

PERCENTS: Final = (50, 95, 99)
INDEXED: Final = ("day", "tier", "model")
"""The groups within which an index has latencies in their order."""

Ranks = dict[Key, dict[str, Any]]


async def of_latencies(
    snapshot: Snapshot, asked: Asked, grouping: Grouping, answered: str, sizes: Mapping[Key, int]
) -> Ranks:
    """Return the percentiles of latencies; read off an index where each group is one stretch of it.

    Args:
        snapshot: the ledger.
        asked: the groups and the time.
        grouping: the groups' expressions.
        answered: the condition of the attempts that count.
        sizes: of each group, how many latencies it has.
    """
    if set(asked.by) == set(INDEXED):
        return await _read_off(snapshot, grouping, {key: size for key, size in sizes.items() if size}, answered)
    if set(asked.by) < set(INDEXED):
        stretches = grouped(Asked(INDEXED, asked.since_ms, asked.until_ms), by_attempt("a"), "a.task_id")
        counts: Measures = {"attempts": "COUNT(a.latency_ms)"}
        found = await stretches.sums(snapshot, counts, "attempts a", answered)
        groups = {key: tuple(key[INDEXED.index(name)] for name in grouping.names) for key in found}
        if len(set(groups.values())) == len(groups):
            sizes = {key: row["attempts"] for key, row in found.items() if row["attempts"]}
            read = await _read_off(snapshot, stretches, sizes, answered)
            return {groups[key]: ranked for key, ranked in read.items()}
    return await ranks(snapshot, grouping, "latency_ms", answered)


async def _read_off(snapshot: Snapshot, stretches: Grouping, sizes: dict[Key, int], answered: str) -> Ranks:
    """Read each percentile at its place, counted from the nearer end."""
    same = " AND ".join(
        f"{expression} = :{name}" for name, expression in zip(stretches.names, stretches.expressions, strict=True)
    )
    text = f"SELECT a.latency_ms FROM attempts a WHERE {answered} AND {same} AND a.latency_ms IS NOT NULL"  # noqa: S608 - our own words
    read: Ranks = {key: {"attempts": size} for key, size in sizes.items()}
    for percent in PERCENTS:
        places = {key: (size * percent + 99) // 100 for key, size in sizes.items()}
        for is_upper, order in ((False, "ASC"), (True, "DESC")):
            half = [key for key, size in sizes.items() if (2 * places[key] > size) is is_upper]
            wanted: list[dict[str, Any]] = [
                {
                    **stretches.wanted,
                    **dict(zip(stretches.names, key, strict=True)),
                    "skipped": sizes[key] - places[key] if is_upper else places[key] - 1,
                }
                for key in half
            ]
            found = await snapshot.each(f"{text} ORDER BY a.latency_ms {order} LIMIT 1 OFFSET :skipped", wanted)
            for key, rows in zip(half, found, strict=True):
                read[key][f"p{percent}_ms"] = _only(rows)
    return read


def _only(rows: Sequence[tuple[Any, ...]]) -> Any:
    ((value,),) = rows
    return value


async def ranks(snapshot: Snapshot, grouping: Grouping, column: str, answered: str) -> Ranks:
    """Return the percentiles of a column by group, and of how many attempts they are."""
    names = [f"key_{place}" for place in range(len(grouping.names))]
    keys = [f"{expression} AS {name}" for expression, name in zip(grouping.expressions, names, strict=True)]
    places = ", ".join(str(place + 1) for place in range(len(names) + 1))
    # Equal values are one row each first, so that fewer are put into order.
    counted = (
        f"SELECT {', '.join((*keys, f'a.{column} AS took'))}, COUNT(*) AS times"  # noqa: S608 - our own words
        f" FROM attempts a {grouping.joins} WHERE {answered} AND a.{column} IS NOT NULL GROUP BY {places}"
    )
    of_group = f"PARTITION BY {', '.join(names)}" if names else ""
    ranked = (
        f"SELECT {', '.join((*names, 'took', 'times'))},"  # noqa: S608 - our own words
        f" CAST(SUM(times) OVER ({of_group} ORDER BY took) AS BIGINT) AS up_to,"
        f" CAST(SUM(times) OVER ({of_group}) AS BIGINT) AS of_all FROM ({counted}) counted"
    )
    outer = Grouping(grouping.names, tuple(names), "", grouping.wanted)
    aggregates: Measures = {
        "attempts": "COALESCE(MAX(of_all), 0)",
        **{f"p{percent}_ms": _at(percent) for percent in PERCENTS},
    }
    return await outer.sums(snapshot, aggregates, f"({ranked}) ranked", "1 = 1")


def _at(percent: int) -> str:
    rank = f"(of_all * {percent} + 99) / 100"
    return f"MAX(CASE WHEN up_to >= {rank} AND up_to - times < {rank} THEN took END)"
