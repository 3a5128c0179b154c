"""``show``: a task's story."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["show"]


@click.command(short_help="Tell a task's story: every event, decision and cost.")
@click.argument("task")
@click.option("--full", is_flag=True, help="Do not shorten texts on a terminal.")
@common
@pass_common
def show(common: Common, task: str, full: bool) -> int:  # noqa: FBT001 - click gives a flag so
    """Tell the story of TASK, which is any unique beginning or end of its id."""
    from ledger.cli.work.show import show_task  # noqa: PLC0415 - loaded when the command runs

    return show_task(common, task, full=full)
