"""``demo``: see it work, for nothing."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["demo"]


@click.command(short_help="Dispatch a small batch on played models, and look at what the ledger has.")
@common
@pass_common
def demo(common: Common) -> int:
    """Dispatch a small batch over all five tiers, with failures, a fallback and verdicts, and look at its ledger.

    The models are played, so nothing is sent and nothing costs; what happens is the same each time. The ledger is a
    new dispatch-demo.db, unless --ledger names one; the configuration is the demonstration's own.
    """
    from ledger.cli.work.demo import run_demo  # noqa: PLC0415 - loaded when the command runs

    return run_demo(common)
