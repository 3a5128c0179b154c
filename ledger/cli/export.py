"""``export``: write the ledger out."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["export"]

FORMATS = ("jsonl", "csv", "parquet")
# Also in ledger.audit.tabling, which is too heavy to import for a --help; a test compares the two.
TABLES = (
    "events", "tasks", "attempts", "decisions", "validations", "task_labels",
    "tier_cost", "tier_latency", "tasks_iso", "attempts_iso",
)  # fmt: skip


@click.command(short_help="Write the ledger out as JSON lines, CSV or Parquet.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="What to write.")
@click.option("--out", type=FilePath(path_type=Path, dir_okay=False), help="The file; otherwise standard output.")
@click.option(
    "--table", type=click.Choice(TABLES), help="Of csv and parquet: which table or view; attempts by default."
)
@click.option(
    "--after", type=click.IntRange(0, 2**63 - 1), default=0, metavar="POSITION", help="Only events after this one."
)
@click.option("--no-texts", is_flag=True, help="Of jsonl: leave prompts, answers and messages out.")
@common
@pass_common
def export(
    common: Common,
    form: str,
    out: Path | None,
    table: str | None,
    after: int,
    no_texts: bool,  # noqa: FBT001 - click calls it so
) -> int:
    """Write the ledger out, as it stands at one instant.

    jsonl is complete: `import` makes an equal ledger of it. csv and parquet (which needs pyarrow) hold one table or
    view. A file gets its name when all of it is written. --after goes on where an earlier export ended.
    """
    from ledger.cli.work.export import Wanted, export_ledger  # noqa: PLC0415 - loaded when the command runs

    if form == "jsonl" and table is not None:
        raise click.UsageError("--table is for csv and parquet; jsonl holds everything")
    if form != "jsonl" and (no_texts or (after and table != "events")):
        raise click.UsageError("--no-texts is for jsonl; --after is for jsonl, and for --table events")
    return export_ledger(common, Wanted(form, out, table or "attempts", after, not no_texts))
