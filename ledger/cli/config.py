"""``config``: what is in force, and why."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["config"]


@click.command(short_help="Print what is configured, and where each value comes from.")
@common
@pass_common
def config(common: Common) -> int:
    """Print every value that is in force, and where it comes from: a file's line, a variable, an option, built in.

    What is printed is a configuration itself: it may be kept as a dispatch.toml and changed. Keys and secrets are never
    shown; of what the environment holds it says only whether it is set. Where caps are configured it says what stands
    against each today, and what is left.
    """
    from ledger.cli.work.config import show_config  # noqa: PLC0415 - loaded when the command runs

    return show_config(common)
