"""``diff``: two tasks side by side."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["diff"]


@click.command(short_help="Compare two tasks: outcome, route, verdicts, tokens, cost, latency, texts.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--all", "everything", is_flag=True, help="Also what is the same on both sides.")
@common
@pass_common
def diff(common: Common, a: str, b: str | None, everything: bool) -> int:  # noqa: FBT001 - click calls it so
    """Compare two tasks, each any unique beginning or end of an id; without B, a replay with what it replays.

    Shown is what differs; of texts the lines that do, with their neighbours. A text that was erased is said to be.
    The exit code is 0 whether they differ or not.
    """
    from ledger.cli.work.diff import compare_tasks  # noqa: PLC0415 - loaded when the command runs

    return compare_tasks(common, a, b, everything=everything)
