"""``report``: what things cost, how long they took, how often they failed, why, and what judges said of them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ledger.cli.options import SINCE, TIERS, Common, common, pass_common

__all__ = ["report"]

FORMATS: Final = ("table", "json", "csv")

F = TypeVar("F", bound=Callable[..., Any])


class _Groups(click.ParamType[tuple[str, ...]]):
    name = "tier,model,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Take a list apart; a label whose name has a comma is quoted as in CSV."""
        if isinstance(value, tuple):
            return value
        try:
            (names,) = csv.reader([str(value)], skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            self.fail(f"{value!r} is no list of groups: {error}", param, ctx)
        return tuple(name if name.startswith("label:") else name.strip() for name in names)


def _told(default: str) -> Callable[[F], F]:
    """Give a report the options that all of them have."""

    def give(command: F) -> F:
        by = f"One row for each of these: {{}}; may be given several times. [default: {default}]"
        known = {
            "tier": "tier, model, day, hour, purpose, label:KEY",
            "the decision alone": "tier (the one asked for), day, hour, label:KEY",
            "tier and judge alone": "model (the judged answer's), day, hour, label:KEY",
        }[default]
        for option in (
            click.option("--format", "form", type=click.Choice(FORMATS), help="How to write it. [default: table]"),
            click.option("--until", type=SINCE, help="Only what was before: as --since."),
            click.option(
                "--since", type=SINCE, help="Only what was since: 90m, 2h, 7d, or an ISO date or time, in UTC."
            ),
            click.option("--by", type=_Groups(), multiple=True, help=by.format(known)),
        ):
            command = option(command)
        return command

    return give


@click.group()
def report() -> None:
    """Say what calls cost, how long they took, how often they failed, why, and what judges said.

    Every report is rows of figures by group, as a table with a total, as a JSON array of rows, or as CSV that a
    spreadsheet can open safely. Money is exact, in nano-USD outside tables; times are UTC; what is unknown is counted
    beside what is known, and never taken for zero. docs/reports.md says what each figure means.
    """


@report.command(short_help="What attempts cost, and what an accepted output came to.")
@click.option("--against", type=click.Choice(TIERS), help="Beside it, as an estimate: the same tokens at this tier.")
@click.option("--as-of", type=SINCE, help="Under the prices that were in force at an instant, for every attempt.")
@click.option("--prices", metavar="BOOK", help="Under another price book: the beginning of its digest, or `current`.")
@click.option("--as-charged", is_flag=True, help="As charged when each attempt ended, before anything was settled.")
@_told("tier")
@common
@pass_common
def cost(
    common: Common,
    /,
    by: tuple[tuple[str, ...], ...],
    since: int | None,
    until: int | None,
    form: str | None,
    **pricing: Any,
) -> int:
    """Say what attempts cost, what bought nothing, and what an accepted output came to.

    Costs are what is known, by the tier that was called; cost_unknown_attempts says for how many attempts it is not,
    and exposure_nano_usd the most that those can have cost. What bought nothing are attempts without an answer, and
    answers of tasks that failed or were cancelled. An accepted output is one that passed its judge, or was not judged;
    its cost is all that the tasks asked of the tier cost, tries, fallbacks, escalations and judges, over accepted
    outputs. Shares are fractions, to six decimals.
    """
    from ledger.cli.work.report import Wanted, tell_cost  # noqa: PLC0415 - loaded when the command runs
    from ledger.cli.work.report_prices import Pricing  # noqa: PLC0415 - likewise

    return tell_cost(common, Wanted.of(by, since, until, form, default=("tier",)), Pricing(**pricing))


@report.command(short_help="How long answers took.")
@_told("tier")
@common
@pass_common
def latency(
    common: Common, by: tuple[tuple[str, ...], ...], since: int | None, until: int | None, form: str | None
) -> int:
    """Say how long answers took, from sending to the last byte, and how long tasks waited for another attempt.

    Over generating attempts that succeeded; by purpose, judges' calls too. Percentiles are nearest rank: a latency that
    occurred. ttft is the time to the first token. A wait is the time from one attempt's end to the next one's start.
    """
    from ledger.cli.work.report import Wanted, tell  # noqa: PLC0415 - loaded when the command runs

    return tell(common, "latency", Wanted.of(by, since, until, form, default=("tier",)))


@report.command(short_help="How often attempts failed, and of what.")
@_told("tier")
@common
@pass_common
def reliability(
    common: Common, by: tuple[tuple[str, ...], ...], since: int | None, until: int | None, form: str
) -> int:
    """Say how attempts ended, how often they were repeated, and what that cost in time.

    Rates are fractions of the attempts that ended. A retry is an attempt on the step of the one before;
    requests_per_task is the amplification: what providers were sent, hidden retries of their clients included.
    """
    from ledger.cli.work.report import Wanted, tell  # noqa: PLC0415 - loaded when the command runs

    return tell(common, "reliability", Wanted.of(by, since, until, form, default=("tier",)))


@report.command(short_help="What was decided, and why.")
@_told("the decision alone")
@common
@pass_common
def routing(
    common: Common, by: tuple[tuple[str, ...], ...], since: int | None, until: int | None, form: str | None
) -> int:
    """Say what was decided and why: routes, retries, fallbacks, escalations, refusals, holds and ends.

    A row is a kind of decision, its reason, the tiers it went from and to, and the obstacle: the breakers that were
    open, or the budget that was spent.
    """
    from ledger.cli.work.report import Wanted, tell  # noqa: PLC0415 - loaded when the command runs

    return tell(common, "routing", Wanted.of(by, since, until, form, default=()))


@report.command(short_help="What judges said, and whether others agreed.")
@_told("tier and judge alone")
@common
@pass_common
def validation(
    common: Common, by: tuple[tuple[str, ...], ...], since: int | None, until: int | None, form: str | None
) -> int:
    """Say what judges said, by the tier that they judged and the tier that judged.

    A verdict that could not be had is errored, never a pass. False passes are those that a person saw otherwise;
    disagreed are verdicts that a later one on the same answer contradicts.
    """
    from ledger.cli.work.report import Wanted, tell  # noqa: PLC0415 - loaded when the command runs

    return tell(common, "validation", Wanted.of(by, since, until, form, default=()))
