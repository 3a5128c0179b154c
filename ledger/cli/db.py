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


@db.command(short_help="Check that schema and guards stand as they were made.")
@common
@pass_common
def check(common: Common) -> int:
    """Check that the schema and its guards stand as they were made. Exit code 1 on any finding."""
    from ledger.cli.work.db import check_ledger  # noqa: PLC0415 - loaded when the command runs

    return check_ledger(common)
