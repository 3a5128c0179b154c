"""``doctor``: whether this machine can dispatch."""

from __future__ import annotations

import click

from ledger.cli.options import Common, common, pass_common

__all__ = ["doctor"]


@click.command(short_help="Say whether this machine can dispatch, and what to do where it cannot.")
@common
@pass_common
def doctor(common: Common) -> int:
    """Look at all that a dispatch needs: CLI, SDK, keys, models, ledger, permissions, disk, clock.

    The real Gemini CLI is called, against a port of this machine and without your key, to see whether it keeps to its
    lock-down; nothing leaves the machine, and nothing is written. Keys are never shown, only whether they are set.

    Exit code 0 when at least one tier can be called and recorded, 1 when none can.
    """
    from ledger.cli.work.doctor import tell_doctor  # noqa: PLC0415 - loaded when the command runs

    return tell_doctor(common)
