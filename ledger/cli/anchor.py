"""``anchor``: seal what was appended since the last time."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.cli.options import Common, FilePath, common, pass_common

__all__ = ["anchor"]


@click.command(short_help="Seal what is new; print one line to be kept elsewhere.")
@click.option(
    "--out",
    type=FilePath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append the line to this file, which should be where nobody who writes the ledger can write.",
)
@click.option(
    "--sign-key",
    type=FilePath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Sign it with this Ed25519 key in PEM form (needs the extra `sign`).",
)
@common
@pass_common
def anchor(common: Common, out: Path | None, sign_key: Path | None) -> int:
    """Seal every event since the last anchor under one hash and print one line.

    Keep the line where nobody who can write the ledger can change it: on paper, in another account, in a mail. With it
    `verify --anchor FILE` finds what is gone, and what was written anew with all hashes recomputed. Where nothing is
    new the last anchor's line is printed again.
    """
    from ledger.cli.work.anchor import seal_ledger  # noqa: PLC0415 - loaded when the command runs

    return seal_ledger(common, out, sign_key)
