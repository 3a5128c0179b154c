"""``backtest``: what another policy would have come to."""

from __future__ import annotations

import click

from ledger.cli.options import LABEL, SINCE, Common, common, labels_of, pass_common

__all__ = ["backtest"]


@click.command(short_help="Fold the recorded outcomes through another policy; no call is made.")
@click.option("--policy", metavar="FILE", required=True, help="TOML with [retry] and [tiers.*], as dispatch.toml has.")
@click.option("--since", type=SINCE, help="Only tasks made since: 90m, 2h, 7d, or an ISO date or time, in UTC.")
@click.option("--until", type=SINCE, help="Only tasks made before.")
@click.option("--label", type=LABEL, multiple=True, help="Only tasks with this label; may be given several times.")
@common
@pass_common
def backtest(
    common: Common, policy: str, since: int | None, until: int | None, label: tuple[tuple[str, str], ...]
) -> int:
    """Say what the recorded tasks would have come to under another retry, fallback or routing policy.

    The n-th call of a provider's model takes the n-th recorded outcome of that call within the task. Where the record
    has none the task is counted as one that cannot be answered for: nothing is guessed. What FILE does not write stays
    as each task had it, so an empty file gives exactly what happened.
    """
    from ledger.cli.work.backtest import backtest_ledger  # noqa: PLC0415 - loaded when the command runs
    from ledger.replay.selection import Selection  # noqa: PLC0415 - likewise

    return backtest_ledger(common, policy, Selection(None, since, until, None, labels_of(label)))
