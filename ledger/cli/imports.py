"""``import``: make a ledger of what was exported."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["import_"]


@click.command("import", short_help="Make a ledger of an export.")
@click.argument("file", type=FilePath(path_type=Path))
@common
@pass_common
def import_(common: Common, file: Path) -> int:
    """Make an equal ledger of FILE, which `export --format jsonl` wrote, then verify it. Exit code 1 on any finding.

    The ledger is new or empty. Every line is checked while it is read; a bad one is named by its number, and nothing
    is kept.
    """
    from ledger.cli.work.imports import import_ledger  # noqa: PLC0415 - loaded when the command runs

    return import_ledger(common, file)
