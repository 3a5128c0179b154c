"""``reconcile``: compare the ledger with what a provider says that it billed."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["reconcile"]


@click.command(short_help="Settle unknown costs from a provider's export, and list what differs.")
@click.argument("file", type=FilePath(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Append nothing; say what would be settled.")
@common
@pass_common
def reconcile(common: Common, file: Path, *, dry_run: bool) -> int:
    """Compare the ledger with FILE, a provider's usage or cost export, and settle attempts whose cost is unknown.

    FILE is Anthropic's usage or cost report (JSON of the Admin API, or the Console's CSV), or a CSV with the columns
    day or time, provider, model, and of request_id, input_uncached_tokens, cache_read_tokens, cache_write_5m_tokens,
    cache_write_1h_tokens, output_tokens, cost_usd, service_tier, inference_geo what there is.

    An attempt is settled by its request id, or where the rest of a day can be no other attempt's; what is left is
    listed by day, model and tier. The same file again changes nothing. Exit code 1 if anything is left.
    """
    from ledger.cli.work.reconcile import reconcile_file  # noqa: PLC0415 - loaded when the command runs

    return reconcile_file(common, file, dry_run=dry_run)
