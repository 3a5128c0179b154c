"""``verify``: check the ledger against itself."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["verify"]


@click.command(short_help="Check hashes, versions, guards, projections, decisions and anchors.")
@click.option(
    "--anchor",
    "anchors",
    type=FilePath(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Lines of `anchor` that were kept elsewhere; may be given again.",
)
@click.option(
    "--public-key",
    "public_keys",
    type=FilePath(dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="An Ed25519 key in PEM form that the anchors must be signed by (needs the extra `sign`).",
)
@common
@pass_common
def verify(common: Common, anchors: tuple[Path, ...], public_keys: tuple[Path, ...]) -> int:
    """Check the whole ledger against itself: hashes, links, versions, guards, projections, texts and decisions.

    Each decision is made again from the events before it and compared byte for byte. What was cut off, or written anew
    with all hashes recomputed, shows only against an anchor that was kept elsewhere. Exit code 1 on any finding.
    """
    from ledger.cli.work.verify import verify_ledger  # noqa: PLC0415 - loaded when the command runs

    return verify_ledger(common, anchors, public_keys)
