"""``submit``: queue one task for whoever works."""

from __future__ import annotations

from typing import Any

import click

from ledger.cli.asking import asking, wanted_from
from ledger.cli.options import Common, common, pass_common

__all__ = ["submit"]


@click.command(short_help="Queue one task for a worker.")
@asking
@common
@pass_common
def submit(common: Common, /, **given: Any) -> int:
    """Record PROMPT (`-` reads standard input) as a task that belongs to nobody, and print its id.

    `dispatch-ledger worker` takes it. With --key the same request submitted again gives the same task.
    """
    wanted = wanted_from(given)
    from ledger.cli.work.queue import submit_task  # noqa: PLC0415 - loaded when the command runs

    return submit_task(common, wanted)
