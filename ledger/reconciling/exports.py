"""Reading an export: which form it has, its rows as often as they are wanted, and its sums by day and model."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from ledger.errors import RequestRefused
from ledger.reconciling.anthropic_reports import billed_in, is_cost, pages_of, spans_in
from ledger.reconciling.billed import COUNTS, DAY_MS, Billed, Place, Span
from ledger.reconciling.csv_exports import billed_in_csv, form_of

__all__ = ["Export", "Group", "Same", "Sums", "Theirs", "opened_export", "rows_of", "summed"]

JSON_MAX: Final = 64 * 2**20
CSV_MAX: Final = 512 * 2**20
ROWS_MAX: Final = 1_000_000
GROUPS_MAX: Final = 100_000
ROWS_A_TURN: Final = 1_000

Group = tuple[int, str, str | None]
"""UTC day since 1970, provider, model; None is what no model cost."""
Same = Callable[[str, str], str]
"""From a provider and a name to the model that is meant."""


@dataclass(frozen=True, slots=True)
class Export:
    """A file that was found to have a form."""

    path: Path
    form: str
    """``anthropic_usage``, ``anthropic_cost``, ``console_usage``, ``console_cost`` or ``plain``."""
    is_cut: bool = False
    """Said by a report of several pages whose last one is not there."""
    pages: tuple[Any, ...] = ()

    @property
    def is_report(self) -> bool:
        """Say whether it states of which time it tells everything."""
        return self.form.startswith("anthropic")

    def rows(self) -> Iterator[Billed]:
        """Give the rows.

        Raises:
            RequestRefused: one is not as it should be.
        """
        if self.is_report:
            yield from billed_in(list(self.pages), self.path.name)
            return
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            yield from billed_in_csv(file, self.path.name)

    def spans(self) -> Iterator[Span]:
        """Give the times that a report speaks of besides those of its rows.

        Raises:
            RequestRefused: one is not as it should be, or two lie over each other.
        """
        before: tuple[Place, Span] | None = None
        spans = sorted(spans_in(list(self.pages), self.path.name), key=lambda one: (one[1].from_ms, one[1].until_ms))
        for place, span in spans:
            if before is not None and span.from_ms < before[1].until_ms:
                place.wrong("starting_at", f"its time is also that of {before[0].where}")
            before = place, span
            yield span


@dataclass(slots=True)
class Sums:
    """What a provider billed of a model on a day."""

    counts: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    """None where a row had none."""
    cost_nano_usd: Fraction | None = Fraction(0)
    rounding_nano_usd: int = 0
    kinds: set[tuple[str | None, str | None, str]] = field(default_factory=set)
    """Service tier, place and kind of its rows."""

    def add(self, row: Billed) -> None:
        """Add a row."""
        for name in COUNTS:
            before, count = self.counts[name], getattr(row.usage, name)
            self.counts[name] = None if before is None or count is None else before + count
        cost = row.cost_nano_usd
        self.cost_nano_usd = None if cost is None or self.cost_nano_usd is None else self.cost_nano_usd + cost
        self.rounding_nano_usd += row.rounding_nano_usd
        self.kinds.add((row.usage.service_tier, row.usage.inference_geo, row.kind))


@dataclass(slots=True)
class Theirs:
    """An export, added up."""

    groups: dict[Group, Sums] = field(default_factory=dict)
    covered: list[Span] = field(default_factory=list)
    """The times that it speaks of, ascending, none touching another."""
    providers: set[str] = field(default_factory=set)
    rows: int = 0
    requests: int = 0
    has_counts: bool = False
    has_cost: bool = False


def opened_export(path: Path) -> Export:
    """Find out what form a file has.

    Raises:
        RequestRefused: it cannot be read, is too large or has no form that is known.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise RequestRefused(f"{path}: is no regular file, and it is read more than once", field="file")
        size = found.st_size
        with path.open("rb") as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        is_json = start[:1] in (b"{", b"[")
        if size > (JSON_MAX if is_json else CSV_MAX):
            most = (JSON_MAX if is_json else CSV_MAX) // 2**20
            raise RequestRefused(f"{path.name}: {size:,} bytes; at most {most} MiB are read at once", field="file")
        if is_json:
            return _report(path)
        with path.open(encoding="utf-8-sig", newline="") as text:
            return Export(path, form_of(text, path.name))
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be read: {error.strerror}", field="file") from error


def _report(path: Path) -> Export:
    place = Place(path.name)
    try:
        document = json.loads(path.read_bytes().decode("utf-8-sig"), parse_float=Decimal)
    except json.JSONDecodeError as error:
        Place(f"{path.name}: line {error.lineno}, column {error.colno}").wrong("JSON", error.msg)
    except (RecursionError, UnicodeDecodeError, ValueError) as error:
        place.wrong(
            "JSON", str(error) if isinstance(error, UnicodeDecodeError) else "a number or a nesting is too long"
        )
    pages = pages_of(document, path.name)
    form = "anthropic_cost" if is_cost(pages) else "anthropic_usage"
    return Export(path, form, is_cut=bool(pages and pages[-1].get("has_more")), pages=tuple(pages))


async def rows_of(export: Export) -> AsyncIterator[Billed]:
    """Give the rows, and now and then let others have their turn: a signal, above all.

    Raises:
        RequestRefused: a row is not as it should be.
    """
    for number, row in enumerate(export.rows()):
        if number % ROWS_A_TURN == 0:
            await asyncio.sleep(0)
        yield row


async def summed(export: Export, same: Same) -> Theirs:
    """Read a whole export, refuse it if anything is wrong with it, and add it up.

    Args:
        export: the file.
        same: tells which model a name means.

    Raises:
        RequestRefused: a row is not as it should be, stands there twice, or there are too many.
    """
    theirs, seen, spans = Theirs(), dict[int, str](), set(export.spans())
    async for row in rows_of(export):
        once = (row.provider, row.model, row.request_id, *(() if row.request_id else (row.at, *row.mark)))
        before = seen.setdefault(hash(once), row.where)
        if before is not row.where:
            what = f"the request {row.request_id!r}" if row.request_id else "the same row, but for its figures,"
            Place(row.where).wrong("row", f"{what} is also at {before}")
        if len(seen) > ROWS_MAX:
            Place(row.where).wrong("row", f"more than {ROWS_MAX:,} rows; take a shorter time")
        model = None if row.model is None else same(row.provider, row.model)
        theirs.groups.setdefault((row.at.day, row.provider, model), Sums()).add(row)
        if len(theirs.groups) > GROUPS_MAX:
            Place(row.where).wrong("row", f"more than {GROUPS_MAX:,} days and models; take a shorter time")
        theirs.providers.add(row.provider)
        theirs.rows += 1
        theirs.requests += row.request_id is not None
        theirs.has_counts |= row.usage.output_tokens is not None
        theirs.has_cost |= row.cost_nano_usd is not None
    theirs.has_counts |= export.form.endswith("_usage")
    theirs.has_cost |= export.form.endswith("_cost")
    if export.is_report:
        theirs.providers.add("anthropic")
    elif theirs.groups:
        days = [day for day, _, _ in theirs.groups]
        spans.add(Span(min(days) * DAY_MS, (max(days) + 1) * DAY_MS))
    theirs.covered = _merged(spans)
    return theirs


def _merged(spans: set[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda one: one.from_ms):
        if merged and span.from_ms <= merged[-1].until_ms:
            merged[-1] = Span(merged[-1].from_ms, max(merged[-1].until_ms, span.until_ms))
        else:
            merged.append(span)
    return merged
