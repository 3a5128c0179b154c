"""``db``: the ledger's schema and guards."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["db"]


@click.group(short_help="The ledger's schema and guards.")
def db() -> None:
    """Look after the ledger's schema and guards."""


@db.command(short_help="Bring an older ledger up to date.")
@common
@pass_common
def upgrade(common: Common) -> int:
    """Bring an older ledger up to date; a verified copy of it as it was stays beside it."""
    from ledger.cli.work.db import upgrade_ledger  # noqa: PLC0415 - loaded when the command runs

    return upgrade_ledger(common)


@db.command(short_help="Copy a whole ledger into a new one.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@common
@pass_common
def copy(common: Common, source: str, target: str) -> int:
    """Copy the ledger FROM into the ledger TO, which is new or empty, then verify TO. Exit code 1 on any finding.

    Both are named as --ledger names one; from a file to PostgreSQL, back, or between two of a kind. Events keep their
    bytes, positions and hashes. FROM is only read; what is appended to it meanwhile stays behind.
    """
    from ledger.cli.work.db import copy_to  # noqa: PLC0415 - loaded when the command runs

    return copy_to(common, source, target)


@db.command(short_help="Make a verified copy of the ledger's file.")
@click.argument("to", required=False, type=FilePath(path_type=Path))
@common
@pass_common
def backup(common: Common, to: Path | None) -> int:
    """Copy the ledger into the new file TO while others go on writing, then verify the copy.

    Without TO it lies beside the ledger, named by its newest position. The copy is one file and needs no other; the
    ledger's own file without its -wal is no copy. Exit code 1 on any finding.
    """
    from ledger.cli.work.backup import back_up_ledger  # noqa: PLC0415 - loaded when the command runs

    return back_up_ledger(common, to)


@db.command(short_help="Check that schema, guards and views stand as they were made.")
@common
@pass_common
def check(common: Common) -> int:
    """Check that schema, guards, views and indexes stand as they were made. Exit code 1 on any finding.

    Whether the projections are what the events say is for `verify` to find; `db rebuild` makes them again.
    """
    from ledger.cli.work.db import check_ledger  # noqa: PLC0415 - loaded when the command runs

    return check_ledger(common)


@db.command(short_help="Make the projections again from the events.")
@common
@pass_common
def rebuild(common: Common) -> int:
    """Make all projections, views and indexes again from the events, in one transaction.

    No worker may be at work meanwhile; others may read, and see the old rows until the new ones are complete. Whether
    the projections are what the events say is for `verify` to find.
    """
    from ledger.cli.work.rebuild import rebuild_ledger  # noqa: PLC0415 - loaded when the command runs

    return rebuild_ledger(common)


@db.command(short_help="Write metadata for Datasette.")
@common
@pass_common
def datasette(common: Common) -> int:
    """Write metadata for Datasette: the questions of docs/sql.md as canned queries, and a dashboard with charts.

    The ledger need not be there; its file's name is what Datasette calls it. Always JSON.
    """
    from ledger.cli.work.datasette import write_metadata  # noqa: PLC0415 - loaded when the command runs

    return write_metadata(common)
