"""What the ledger knows of the same days and models: sums of what is known, and the attempts whose cost is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ledger.reconciling.billed import COUNTS, DAY_MS, Span
from ledger.reconciling.exports import Group, Same
from ledger.reports.reading import Snapshot

__all__ = ["Known", "Unknown", "known_of", "unknown_attempts"]

PAGE: Final = 500

COLUMNS: Final = {
    "input_uncached_tokens": "a.input_uncached_tokens",
    "cache_read_tokens": "a.cache_read_tokens",
    "cache_write_5m_tokens": "a.cache_write_5m_tokens",
    "cache_write_1h_tokens": "a.cache_write_1h_tokens",
    "output_tokens": "a.tokens_output",
}
WHOLE: Final = " AND ".join(("a.usage_source = 'provider'", *(f"{column} IS NOT NULL" for column in COLUMNS.values())))
ENDED: Final = "a.state <> 'running'"
COUNTED: Final = f"CASE WHEN {WHOLE} THEN 1 WHEN a.usage_source = 'not_billed' THEN 1 ELSE 0 END"
MEASURES: Final = ", ".join(
    f"COALESCE(SUM({measure}), 0)"
    for measure in (
        "CASE WHEN a.usage_source = 'not_billed' THEN 0 ELSE 1 END",
        "CASE WHEN a.state = 'running' THEN 1 END",
        f"CASE WHEN {ENDED} AND {COUNTED} = 0 THEN 1 END",
        f"CASE WHEN {ENDED} AND a.cost_nano_usd IS NULL THEN 1 END",
        "a.cost_nano_usd",
        f"CASE WHEN {ENDED} AND a.cost_nano_usd IS NULL THEN a.exposure_nano_usd END",
        f"CASE WHEN {ENDED} AND a.cost_nano_usd IS NULL AND a.exposure_nano_usd IS NULL THEN 1 END",
        *(f"CASE WHEN {WHOLE} THEN {column} END" for column in COLUMNS.values()),
    )
)
WINDOW: Final = "a.started_at_ms >= :since_ms AND a.started_at_ms < :until_ms"
DAY: Final = f"(a.started_at_ms / {DAY_MS})"
"""In the words of an index."""
MODEL: Final = "COALESCE(a.response_model, a.request_model)"
SUMS: Final = (
    f"SELECT {DAY}, a.provider, {MODEL}, a.tier, {MEASURES} FROM attempts a WHERE {WINDOW}"  # noqa: S608 - our own words
    f" AND {DAY} >= :first_day AND {DAY} <= :last_day GROUP BY 1, 2, 3, 4"
)
UNKNOWN: Final = (
    f"SELECT a.task_id, a.attempt, a.tier, a.provider, {MODEL}, a.started_at_ms, a.request_id, a.exposure_nano_usd,"  # noqa: S608 - our own words
    f" {COUNTED} FROM attempts a WHERE {WINDOW} AND a.cost_nano_usd IS NULL AND {ENDED}"
    " AND (a.task_id, a.attempt) > (:task_id, :attempt) ORDER BY a.task_id, a.attempt LIMIT :rows"
)


@dataclass(slots=True)
class Known:
    """What we know of a model on a day."""

    tiers: set[str] = field(default_factory=set)
    billable: int = 0
    """Attempts that may have been billed."""
    running: int = 0
    uncounted: int = 0
    """Ended attempts without whole counts from the provider."""
    unknown: int = 0
    """Ended attempts without a cost."""
    cost_nano_usd: int = 0
    exposure_nano_usd: int = 0
    exposure_unknown: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def add(self, tier: str, figures: Sequence[Any]) -> None:
        """Add a row of the statement."""
        self.tiers.add(tier)
        self.billable += figures[0]
        self.running += figures[1]
        self.uncounted += figures[2]
        self.unknown += figures[3]
        self.cost_nano_usd += figures[4]
        self.exposure_nano_usd += figures[5]
        self.exposure_unknown += figures[6]
        for name, count in zip(COUNTS, figures[7:], strict=True):
            self.counts[name] += count


class Unknown(NamedTuple):
    """An ended attempt whose cost is unknown."""

    task_id: str
    attempt: int
    tier: str
    provider: str
    model: str
    """Served, else requested."""
    started_at_ms: int
    request_id: str | None
    exposure_nano_usd: int | None
    counted: int
    """1 where its counts are whole, and only a price is missing."""


async def known_of(snapshot: Snapshot, covered: Sequence[Span], providers: set[str], same: Same) -> dict[Group, Known]:
    """Return our sums of the times that an export covers, of its providers.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    known: dict[Group, Known] = {}
    for span in covered:
        days = {"first_day": span.from_ms // DAY_MS, "last_day": span.until_ms // DAY_MS}
        wanted = {"since_ms": span.from_ms, "until_ms": span.until_ms, **days}
        for day, provider, model, tier, *figures in await snapshot.rows(SUMS, wanted):
            if provider in providers:
                known.setdefault((day, provider, same(provider, model)), Known()).add(tier, figures)
    return known


async def unknown_attempts(
    snapshot: Snapshot, since_ms: int, until_ms: int, providers: set[str]
) -> AsyncIterator[Unknown]:
    """Give the attempts of these providers whose cost is unknown, by task and number; all pages pass the table once.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    task_id, attempt = "", 0
    while True:
        wanted = {"since_ms": since_ms, "until_ms": until_ms, "task_id": task_id, "attempt": attempt, "rows": PAGE}
        page = [Unknown(*row) for row in await snapshot.rows(UNKNOWN, wanted)]
        for one in page:
            if one.provider in providers:
                yield one
        if len(page) < PAGE:
            return
        task_id, attempt = page[-1].task_id, page[-1].attempt
