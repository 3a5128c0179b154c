"""``tail``: events as they come."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["tail"]


@click.command(short_help="Print the newest events, and with -f each one as it comes.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each event that any process appends, until stopped.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, 100_000), default=10, show_default=True, help="So many events first."
)
@common
@pass_common
def tail(common: Common, follow: bool, lines: int) -> int:  # noqa: FBT001 - click gives a flag so
    """Print the newest events of all tasks in the order in which they were appended, a line each.

    With --json every line is an object. It only reads; no event is missed and none is printed twice.
    """
    from ledger.cli.work.tail import tail_events  # noqa: PLC0415 - loaded when the command runs

    return tail_events(common, lines, follow=follow)
