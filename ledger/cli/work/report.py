"""The work of ``report``: read at one instant, then written as a table, as JSON or as CSV."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

import click

from ledger.canonical import INT64_MAX
from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened_to_read, perform
from ledger.cli.work.report_csv import comma_separated
from ledger.cli.work.report_prices import Pricing, cost_maker
from ledger.cli.work.report_table import tell_table
from ledger.reports.asked import Asked, Report
from ledger.reports.cost import whole
from ledger.reports.latency import latency
from ledger.reports.reading import Snapshot, reading
from ledger.reports.reliability import reliability
from ledger.reports.routing import routing
from ledger.reports.totals import summed
from ledger.reports.validation import validation
from ledger.store.protocol import Store

__all__ = ["Wanted", "tell", "tell_cost"]

Make = Callable[[Snapshot, Asked], Coroutine[Any, Any, Report]]

MAKERS: Final[dict[str, Make]] = {
    "latency": latency,
    "reliability": reliability,
    "routing": routing,
    "validation": validation,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    by: tuple[str, ...]
    since_ms: int
    until_ms: int
    form: str | None

    @classmethod
    def of(
        cls,
        by: tuple[tuple[str, ...], ...],
        since_ms: int | None,
        until_ms: int | None,
        form: str | None,
        *,
        default: tuple[str, ...],
    ) -> Self:
        """Return it, with the report's own groups where none are named."""
        names = tuple(dict.fromkeys(name for one in by for name in one)) or default
        return cls(names, since_ms or 0, INT64_MAX if until_ms is None else until_ms, form)


def tell(common: Common, name: str, wanted: Wanted) -> int:
    """Make a report, write it and return the exit code."""

    async def make(_store: Store) -> Make:
        return MAKERS[name]

    return _tell(common, name, wanted, make)


def tell_cost(common: Common, wanted: Wanted, pricing: Pricing) -> int:
    """Make the report of costs, write it and return the exit code."""
    return _tell(common, "cost", wanted, partial(cost_maker, config_file=common.config, pricing=pricing))


def _tell(common: Common, name: str, wanted: Wanted, maker: Callable[[Store], Awaitable[Make]]) -> int:
    if common.as_json and wanted.form not in (None, "json"):
        raise click.UsageError(f"--json and --format {wanted.form} exclude each other; give one of them")
    form = "json" if common.as_json else wanted.form or "table"

    async def work() -> int:
        asked = Asked(wanted.by, wanted.since_ms, wanted.until_ms)
        async with opened_to_read(common) as store:
            make = await maker(store)
            report, total = await reading(store, lambda snapshot: _made(snapshot, name, make, asked, form))
        match form:
            case "json":
                output.document(list(report.rows))
            case "csv":
                output.write(comma_separated(report))
            case _:
                tell_table(name, report, total, asked)
        return DONE

    return perform(work)


async def _made(
    snapshot: Snapshot, name: str, make: Make, asked: Asked, form: str
) -> tuple[Report, dict[str, Any] | None]:
    """Make a report, and its total where it is shown."""
    report = await make(snapshot, asked)
    if form != "table" or not report.rows:
        return report, None
    match name:
        case "cost":
            return report, await whole(snapshot, asked, report)
        case "routing" | "validation":
            return report, summed(report)
        case _:
            return report, dict((await make(snapshot, replace(asked, by=()))).rows[0])
