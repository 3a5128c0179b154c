"""``worker``, ``resume`` and ``cancel``: tasks that are there already."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["cancel", "resume", "worker"]

GRACE_S = 30.0

many = click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Tasks under way at once; the sum of the providers' limits, at most 64.",
)


@click.command(short_help="Work on queued, due and abandoned tasks.")
@click.option("--drain", is_flag=True, help="End when none is left, instead of waiting for more.")
@many
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=GRACE_S,
    show_default=True,
    metavar="S",
    help="Seconds that tasks under way are given after SIGTERM or SIGINT.",
)
@common
@pass_common
def worker(common: Common, *, drain: bool, concurrency: int | None, grace: float) -> int:
    """Work on tasks that have no living owner: submitted ones, due ones, and those whose worker died.

    SIGTERM or SIGINT: nothing new is taken, what is under way may end within the grace and is then interrupted and
    recorded (exit 130); a second signal ends the process at once, which loses nothing that was recorded either.
    """
    from ledger.cli.work.queue import work_on  # noqa: PLC0415 - loaded when the command runs

    return work_on(common, drain=drain, concurrency=concurrency, grace_s=grace)


@click.command(short_help="Finish what dead workers left.")
@click.argument("task", required=False)
@many
@common
@pass_common
def resume(common: Common, task: str | None, concurrency: int | None) -> int:
    """Finish the tasks whose owner died, started or not; waits for their backoffs.

    With TASK (any unique beginning or end of its id) that one alone, also one that waits for a person.
    """
    from ledger.cli.work.queue import resume_tasks  # noqa: PLC0415 - loaded when the command runs

    return resume_tasks(common, task, concurrency)


@click.command(short_help="Call a task off.")
@click.argument("task")
@common
@pass_common
def cancel(common: Common, task: str) -> int:
    """Call TASK off (any unique beginning or end of its id); a call in flight is recorded as given up.

    What that call cost is recorded when its worker tells. Exit 1: the task had ended otherwise before.
    """
    from ledger.cli.work.queue import cancel_task  # noqa: PLC0415 - loaded when the command runs

    return cancel_task(common, task)
