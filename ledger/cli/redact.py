"""``redact``: erase the texts of tasks for good."""

from __future__ import annotations

import click

from ledger.cli.options import LABEL, Common, common, labels_of, pass_common

__all__ = ["redact"]


@click.command(short_help="Erase the texts of tasks for good.")
@click.argument("tasks", metavar="[TASK]...", nargs=-1)
@click.option(
    "--label", type=LABEL, multiple=True, help="All tasks with this label, as in subject=NAME; all of several."
)
@click.option("--reason", required=True, help="Why; kept in the ledger for ever, so no names in it.")
@click.option("--only", is_flag=True, help="Leave alone the replays, judgements and originals of these tasks.")
@click.option("--no-vacuum", is_flag=True, help="Do not write the whole file anew: quicker, less thorough.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask at a terminal.")
@common
@pass_common
def redact(
    common: Common,
    tasks: tuple[str, ...],
    label: tuple[tuple[str, str], ...],
    reason: str,
    only: bool,  # noqa: FBT001 - click calls it so
    no_vacuum: bool,  # noqa: FBT001 - likewise
    yes: bool,  # noqa: FBT001 - likewise
) -> int:
    """Erase prompts, system texts, answers, judged outputs, issues, providers' messages, subjects and keys of tasks.

    TASK is any unique beginning or end of an id. Replays, judgements and originals of a task hold the same texts and
    are erased with it, unless --only is given. Events, figures and hashes stay as they are; `verify` still holds.
    Tasks have to have ended. Backups, exports and copies made before are not reached. Exit code 1: something is left,
    and it is said what to do.
    """
    from ledger.cli.work.redact import Wanted, redact_tasks  # noqa: PLC0415 - loaded when the command runs

    if not tasks and not label:
        raise click.UsageError("name a TASK, or tasks by --label")
    return redact_tasks(common, Wanted(tasks, labels_of(label), reason, not only, not no_vacuum, yes))
