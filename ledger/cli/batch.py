"""``batch``: dispatch the lines of a file."""

from __future__ import annotations

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["batch"]


@click.command(short_help="Dispatch the lines of a file; the same file again does only what is left.")
@click.argument("file", type=FilePath(allow_dash=True), metavar="FILE.jsonl")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Tasks under way at once; the sum of the providers' limits, at most 64.",
)
@click.option(
    "--out",
    type=FilePath(dir_okay=False, writable=True),
    metavar="R.jsonl",
    help="Write one object a line, in the file's order; written whole at the end, or not at all.",
)
@click.option("--retry-failed", is_flag=True, help="Replay the tasks that had failed, as new ones that name them.")
@common
@pass_common
def batch(common: Common, file: str, concurrency: int | None, out: str | None, retry_failed: bool) -> int:  # noqa: FBT001 - click calls it so
    """Dispatch every line of FILE.jsonl (`-` reads standard input).

    A line is {"prompt", "tier", "key"?, "max_tokens"?, "retries"?, "timeout_s"?, "system"?, "labels"?}. Without a key
    the line's content is its key: equal lines are one task, and the same file again pays for nothing twice. A bad line
    anywhere, and nothing is submitted.

    \b
    The sums (--json has them by these names):
      submitted   tasks that are new in the ledger
      reused      lines that had succeeded before
      succeeded, failed, held   the other lines, as they stand now
      attempts, cost_…          of this run only

    A failed task stays failed under its key: it is reported again and not called again, until --retry-failed or
    `replay` runs it again as a new task. Then its newest replay answers for the line, also without the option.
    """  # noqa: D301 - to click the control character says that these lines stay as they are
    from ledger.cli.work.batch import run_file  # noqa: PLC0415 - loaded when the command runs

    return run_file(common, file, concurrency, out, retry_failed=retry_failed)
