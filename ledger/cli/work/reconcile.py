"""The work of ``reconcile``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import plural
from ledger.config import load_config
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.reconciling.billed import COUNTS, DAY_MS
from ledger.reconciling.matching import Day
from ledger.reconciling.work import Reconciled, Settled, reconcile

__all__ = ["reconcile_file"]

ACTOR: Final = "person"
SHOWN_MAX: Final = 50
COLUMNS: Final[Sequence[output.Column]] = (
    ("day", "left"),
    ("tier", "left"),
    ("model", "left"),
    ("ours USD", "right"),
    ("unknown", "right"),
    ("up to USD", "right"),
    ("theirs USD", "right"),
    ("more tokens in", "right"),
    ("out", "right"),
    ("why", "left"),
)


def reconcile_file(common: Common, file: Path, *, dry_run: bool) -> int:
    """Reconcile with a file and return the exit code."""

    async def work() -> int:
        config = load_config(common.config)
        async with opened(common, create=False, config=config) as executor:
            desk = Desk(await executor.ledger.store(), Ports(), ACTOR)
            done = await reconcile(desk, file, config.prices, dry_run=dry_run)
        if common.as_json:
            output.document(_document(done, dry_run=dry_run))
        else:
            _tell(done, dry_run=dry_run)
        return DONE if done.agrees else FOUND

    return perform(work, interrupted="what was settled stays; the same file again goes on from there")


def _document(done: Reconciled, *, dry_run: bool) -> dict[str, Any]:
    return {
        "form": done.form,
        "rows": done.rows,
        "requests": done.requests,
        "complete": not done.is_cut,
        "dry_run": dry_run,
        "agrees": done.agrees,
        "settled": [_settled(one) for one in done.settled],
        "left": [
            {"task_id": one.unknown.task_id, "attempt": one.unknown.attempt}
            | {"request_id": one.unknown.request_id, "why": one.why}
            for one in done.left.values()
        ],
        "days": [_day(day) for day in done.days],
    }


def _settled(one: Settled) -> dict[str, Any]:
    unknown, cost = one.match.unknown, one.match.cost_nano_usd
    return {
        "task_id": unknown.task_id,
        "attempt": unknown.attempt,
        "tier": unknown.tier,
        "provider": unknown.provider,
        "model": unknown.model,
        "request_id": unknown.request_id,
        "by": one.match.by,
        "cost_nano_usd": one.event.cost_nano_usd,
        "price_book": one.event.price_book,
        "export_cost_nano_usd": None if cost is None else round(cost),
    }


def _day(day: Day) -> dict[str, Any]:
    number, provider, model = day.group
    known, cost = day.known, day.theirs.cost_nano_usd
    return {
        "day": _date(number),
        "provider": provider,
        "model": model,
        "tiers": sorted(known.tiers),
        "agrees": day.agrees,
        "attempts": known.billable,
        "attempts_running": known.running,
        "cost_nano_usd": known.cost_nano_usd,
        "cost_unknown_attempts": known.unknown,
        "exposure_nano_usd": known.exposure_nano_usd,
        "exposure_unknown_attempts": known.exposure_unknown,
        "usage_unknown_attempts": known.uncounted,
        "export_cost_nano_usd": None if cost is None else round(cost),
        "cost_difference_nano_usd": day.cost_difference,
        **{name: known.counts[name] for name in COUNTS},
        **{f"export_{name}": day.theirs.counts[name] for name in COUNTS},
        "differences": day.differences,
        "why": day.why,
    }


def _tell(done: Reconciled, *, dry_run: bool) -> None:
    output.note(f"{plural(done.rows, 'row')} of {done.form.replace('_', ' ')}")
    if done.is_cut:
        output.note("warning: the report goes on in pages that are not in this file; differences may be theirs")
    verb = "would settle" if dry_run else "settled"
    for one in done.settled[:SHOWN_MAX]:
        unknown = one.match.unknown
        how = f"request {unknown.request_id}" if one.match.by == "request_id" else "the rest of its day"
        said = f"{verb} {unknown.task_id} attempt {unknown.attempt}: {_usd(one.event.cost_nano_usd)} USD, by {how}"
        output.write(output.visible(f"{said}\n"))
    if len(done.settled) > SHOWN_MAX:
        output.write(f"… and {len(done.settled) - SHOWN_MAX:,} more; --json has them\n")
    for left in list(done.left.values())[:SHOWN_MAX]:
        output.write(
            output.visible(f"not settled: {left.unknown.task_id} attempt {left.unknown.attempt}: {left.why}\n")
        )
    if len(done.left) > SHOWN_MAX:
        output.write(f"… and {len(done.left) - SHOWN_MAX:,} more; --json has them\n")
    rest = [day for day in done.days if not day.agrees]
    if rest:
        output.table(COLUMNS, [_cells(day) for day in rest])
    agreeing = plural(len(done.days) - len(rest), "model and day").replace("model and days", "models and days")
    output.note(f"{agreeing} agree; {len(rest):,} left to explain" if rest else f"{agreeing} agree")


def _cells(day: Day) -> list[str]:
    known, differences = day.known, day.differences
    number, provider, model = day.group
    inputs = [differences[name] for name in COUNTS if name != "output_tokens"]
    more = None if None in inputs else sum(count or 0 for count in inputs)
    cost = day.theirs.cost_nano_usd
    exposure = "unknown" if known.exposure_unknown else _usd(known.exposure_nano_usd)
    return [
        _date(number),
        "+".join(sorted(known.tiers)),
        provider if model is None else model,
        _usd(known.cost_nano_usd),
        str(known.unknown),
        exposure if known.unknown else "",
        "" if cost is None else _usd(round(cost)),
        _signed(more),
        _signed(differences["output_tokens"]),
        day.why or ("attempts still run" if known.running else ""),
    ]


def _date(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_MS // 1000, UTC).strftime("%Y-%m-%d")


def _usd(nano_usd: int | None) -> str:
    return "unknown" if nano_usd is None else f"{nano_usd / output.NANO:.6f}"


def _signed(count: int | None) -> str:
    return "?" if count is None else f"{count:+,}" if count else "0"
