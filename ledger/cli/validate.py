"""``validate``: have an output judged."""

from __future__ import annotations

from typing import Any

import click

from ledger.cli.options import LABEL, Common, common, labels_of, pass_common

__all__ = ["validate"]


@click.command(short_help="Have an output judged; the exit code is 0 whatever the verdict.")
@click.option("--task", metavar="TEXT", help="What was asked for.")
@click.option("--output", metavar="TEXT", help="What came out.")
@click.option("--label", "labels", type=LABEL, multiple=True, help="A label of this verdict's task, with --task.")
@click.option("--task-id", metavar="TASK", help="Judge the answer of this task instead: a unique beginning or end.")
@click.option(
    "--verdict", type=click.Choice(("pass", "fail")), help="Record your own verdict on --task-id; nobody is called."
)
@click.option("--issue", "issues", multiple=True, metavar="TEXT", help="What you found wrong; at most three times.")
@common
@pass_common
def validate(
    common: Common,
    /,
    *,
    task: str | None,
    output: str | None,
    labels: tuple[tuple[str, str], ...],
    task_id: str | None,
    **person: Any,
) -> int:
    """Have Sonnet judge an output: a text of yours, or a finished task's answer.

    The verdict is a task of its own in the ledger; an answer may be judged again. Any trouble with the judge is a
    verdict that does not pass. With --verdict it is yours that is recorded, beside those of the judge.
    """
    from ledger.cli.work.validate import judge_stored, judge_texts  # noqa: PLC0415 - loaded when the command runs

    if task_id is not None and labels:
        raise click.UsageError("--label goes with --task; a verdict on a task has no labels of its own")
    if task_id is not None and task is None and output is None:
        return judge_stored(common, task_id, **person)
    if any(person.values()):
        raise click.UsageError("--verdict and --issue go with --task-id")
    if task is not None and output is not None and task_id is None:
        return judge_texts(common, task, output, labels_of(labels))
    raise click.UsageError("give --task with --output, or --task-id alone")
