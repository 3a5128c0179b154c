"""``show``: a task's story."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["show"]


@click.command(short_help="Tell a task's story: every event, decision and cost.")
@click.argument("task")
@click.option("--full", is_flag=True, help="Do not shorten texts on a terminal.")
@click.option("--at", type=click.IntRange(min=1), metavar="VERSION", help="Tell what was known after this event.")
@click.option("--proof", is_flag=True, help="Write, as JSON, the proof that its events are among what is anchored.")
@common
@pass_common
def show(common: Common, /, task: str, *, full: bool, at: int | None, proof: bool) -> int:
    """Tell the story of TASK, which is any unique beginning or end of its id."""
    from ledger.cli.work.show import show_task  # noqa: PLC0415 - loaded when the command runs

    if proof and at is not None:
        raise click.UsageError("--proof is about the whole task; give it without --at")
    if proof:
        from ledger.cli.work.proof import prove_task  # noqa: PLC0415 - likewise

        return prove_task(common, task)
    return show_task(common, task, full=full, at=at)
