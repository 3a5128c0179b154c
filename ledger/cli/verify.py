"""``verify``: check the ledger against itself."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["verify"]


@click.command(short_help="Check hashes, versions, guards, projections and decisions.")
@common
@pass_common
def verify(common: Common) -> int:
    """Check the whole ledger against itself: hashes, links, versions, guards, projections, texts and decisions.

    Each decision is made again from the events before it and compared byte for byte. Exit code 1 on any finding.
    """
    from ledger.cli.work.verify import verify_ledger  # noqa: PLC0415 - loaded when the command runs

    return verify_ledger(common)
