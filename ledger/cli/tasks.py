"""``tasks``: list them."""

from __future__ import annotations

import click

from ledger.cli.options import LABEL, SINCE, STATES, TIERS, Common, common, labels_of, pass_common

__all__ = ["tasks"]


@click.command(short_help="List tasks, newest first.")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only tasks in this state.")
@click.option("--tier", "-t", type=click.Choice(TIERS, case_sensitive=False), help="Only tasks asked for this tier.")
@click.option("--since", type=SINCE, help="Only tasks made since: 90m, 2h, 7d, or an ISO date or time, in UTC.")
@click.option("--label", type=LABEL, multiple=True, help="Only tasks with this label; may be given several times.")
@click.option("--after", metavar="TASK", help="Only what comes after this task: the next page.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@common
@pass_common
def tasks(
    common: Common,
    state: str | None,
    tier: str | None,
    since: int | None,
    label: tuple[tuple[str, str], ...],
    after: str | None,
    limit: int,
) -> int:
    """List tasks, newest first. With --json: an array of rows of the table `tasks`.

    The order never changes: when a task was made, then its id, both descending. --after with the last task of one page
    gives the next, however many tasks there are.
    """
    from ledger.cli.work.tasks import Wanted, list_tasks  # noqa: PLC0415 - loaded when the command runs

    return list_tasks(common, Wanted(state, tier, since, labels_of(label), after, limit))
