"""``db``: the ledger's schema and guards."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

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


@db.command(short_help="Check that schema and guards stand as they were made.")
@common
@pass_common
def check(common: Common) -> int:
    """Check that the schema and its guards stand as they were made. Exit code 1 on any finding."""
    from ledger.cli.work.db import check_ledger  # noqa: PLC0415 - loaded when the command runs

    return check_ledger(common)
