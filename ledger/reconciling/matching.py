"""Which row of an export is about which attempt, and what is left; pure but for the file that is read again.

A request id is certain. Without one a difference is an attempt's only where it can be nobody else's: on a day that is
over and wholly in the export, of a model of which one attempt alone is unknown and none runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from ledger.parts import UsageRow
from ledger.reconciling.billed import COUNTS, DAY_MS, Billed, Span
from ledger.reconciling.exports import Export, Group, Sums, Theirs, rows_of
from ledger.reconciling.ours import Known, Unknown

__all__ = ["Day", "Match", "by_day", "by_request", "days_of"]

LATE_MS: Final = 3_600_000
"""After the end of a day a provider may still add to it; Anthropic's figures take five minutes, as a rule."""


@dataclass(frozen=True, slots=True)
class Match:
    """What an export says of one attempt."""

    unknown: Unknown
    by: Literal["request_id", "model_and_day"]
    usage: tuple[UsageRow, ...]
    """Of whole counts, else none."""
    cost_nano_usd: Fraction | None
    raw: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Day:
    """A model on a day, both sides, after what could be settled was."""

    group: Group
    known: Known
    theirs: Sums
    why: str | None = None
    """Why an unknown attempt stays so; None where there is none."""

    @property
    def differences(self) -> dict[str, int | None]:
        """Return how much more they counted than we know of; None where they have no whole counts."""
        told = self.theirs.counts
        return {name: None if (count := told[name]) is None else count - self.known.counts[name] for name in COUNTS}

    @property
    def cost_difference(self) -> int | None:
        """Return how much more they billed than we know, in nano-USD; None where they say no cost."""
        cost = self.theirs.cost_nano_usd
        return None if cost is None else round(cost) - self.known.cost_nano_usd

    @property
    def agrees(self) -> bool:
        """Say whether nothing is left to explain; each rounded figure may be half a unit off."""
        known, cost = self.known, self.cost_difference
        rounding = known.billable + self.theirs.rounding_nano_usd
        # An attempt whose cost is settled and whose counts nobody gave has a share in every difference.
        is_even = known.uncounted or not any(self.differences.values())
        is_even = is_even and (cost is None or abs(cost) <= rounding)
        return bool(is_even) and not known.unknown and not known.running


async def by_request(export: Export, wanted: Mapping[str, Unknown]) -> AsyncIterator[Match]:
    """Give what an export says of these attempts by their request ids; one call may have been billed on two models.

    Raises:
        RequestRefused: the file is not as it was a moment ago.
    """
    found: dict[str, list[Billed]] = {}
    async for row in rows_of(export):
        unknown = None if row.request_id is None else wanted.get(row.request_id)
        if unknown is not None and unknown.provider == row.provider:
            found.setdefault(unknown.request_id or "", []).append(row)
    for request_id, rows in found.items():
        costs = [row.cost_nano_usd for row in rows if row.cost_nano_usd is not None]
        yield Match(
            wanted[request_id],
            "request_id",
            _whole(row.usage for row in rows),
            sum(costs, Fraction(0)) if len(costs) == len(rows) else None,
            tuple(row.raw for row in rows),
        )


def _whole(rows: Iterable[UsageRow]) -> tuple[UsageRow, ...]:
    """Return the rows if all their counts are known."""
    usage = tuple(rows)
    return usage if all(getattr(row, name) is not None for row in usage for name in COUNTS) else ()


def by_day(day: Day, first: Unknown, now_ms: int, export: Export, covered: Iterable[Span]) -> Match | str:
    """Return what the rest of a day is of its one unknown attempt, or why that cannot be said."""
    known, theirs = day.known, day.theirs
    start = day.group[0] * DAY_MS
    if export.is_cut:
        return "the report goes on in pages that are not in this file"
    if now_ms < start + DAY_MS + LATE_MS:
        return "the day is not over for at least an hour"
    if not any(span.from_ms <= start and start + DAY_MS <= span.until_ms for span in covered):
        return "the export has only a part of this day"
    if known.running:
        return "attempts of this day still run"
    if known.unknown > 1:
        return "several attempts are unknown"
    if len(theirs.kinds) > 1:
        return "several service tiers or places were billed"
    if None not in theirs.counts.values():
        return _by_counts(day, first, is_whole=export.is_report)
    return _by_cost(day, first)


def _by_counts(day: Day, first: Unknown, *, is_whole: bool) -> Match | str:
    rest = {name: (day.theirs.counts[name] or 0) - day.known.counts[name] for name in COUNTS}
    if first.counted:
        return "its counts are known, and only a price is missing"
    if day.known.uncounted > 1:
        return "other attempts of this day have no whole counts"
    if any(count < 0 for count in rest.values()):
        return "they counted less than we know of"
    if not is_whole and not any(rest.values()):
        # Only a report says of which time it tells everything; that a list has no row for a call proves nothing.
        return "nothing is left for it, and a list need not be complete"
    service_tier, geo, _ = next(iter(day.theirs.kinds), (None, None, ""))
    usage = UsageRow(
        input_uncached_tokens=rest["input_uncached_tokens"],
        cache_read_tokens=rest["cache_read_tokens"],
        cache_write_5m_tokens=rest["cache_write_5m_tokens"],
        cache_write_1h_tokens=rest["cache_write_1h_tokens"],
        output_tokens=rest["output_tokens"],
        model=first.model,
        reasoning_tokens=None,
        service_tier=service_tier,
        inference_geo=geo,
    )
    return Match(first, "model_and_day", (usage,), None, (rest,))


def _by_cost(day: Day, first: Unknown) -> Match | str:
    """Take a cost alone only where it is one attempt's: prices may differ, and would be laid at its door."""
    cost = day.theirs.cost_nano_usd
    if cost is None:
        return "the export has neither whole counts nor a whole cost"
    if day.theirs.rounding_nano_usd:
        return "the export's costs are rounded to cents"
    if day.known.billable != 1:
        return "a cost without counts, and other attempts of this day"
    return Match(first, "model_and_day", (), cost, ({"cost_nano_usd": str(cost)},))


def _nothing(theirs: Theirs) -> Sums:
    """Return the sums of a model that an export has nothing of: none of what it counts, unknown what it does not."""
    sums = Sums()
    if not theirs.has_counts:
        sums.counts = dict.fromkeys(COUNTS)
    if not theirs.has_cost:
        sums.cost_nano_usd = None
    return sums


def days_of(theirs: Theirs, known: Mapping[Group, Known]) -> dict[Group, Day]:
    """Return both sides of every model and day that either has."""
    groups = sorted({*theirs.groups, *known}, key=lambda group: (group[0], group[1], group[2] or ""))
    return {
        group: Day(group, known.get(group, Known()), theirs.groups.get(group) or _nothing(theirs)) for group in groups
    }
