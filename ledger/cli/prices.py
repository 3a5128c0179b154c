"""``prices``: what tokens cost, and where a price comes from."""

from __future__ import annotations

import click

from ledger.cli.options import SINCE, Common, common, pass_common

__all__ = ["prices"]


@click.group(invoke_without_command=True, short_help="What tokens cost; list, compare and check price books.")
@click.option("--all", "everything", is_flag=True, help="Every model of the book, not only the tiers' ones.")
@click.option("--model", metavar="NAME", multiple=True, help="This model, as claude-… or provider/name; several times.")
@click.option("--as-of", type=SINCE, help="The prices at an instant: 7d, or an ISO date or time, in UTC; else now.")
@click.option("--book", metavar="BOOK", default="current", show_default=True, help="A book: a digest's beginning.")
@common
@pass_common
@click.pass_context
def prices(
    ctx: click.Context,
    common: Common,
    model: tuple[str, ...],
    as_of: int | None,
    book: str,
    *,
    everything: bool,
) -> int | None:
    """List what the tiers' models cost, in USD for a million tokens: by size, cache use, service tier and place.

    Prices come from genai-prices as it is installed, and from [prices] of the configuration. Without a ledger the book
    is made from both; attempts are charged by the book that the ledger holds, which this command compares it with.
    """
    if ctx.invoked_subcommand is not None:
        if everything or model or as_of is not None or book != "current" or common != Common():
            raise click.UsageError(f"options follow the whole name: prices {ctx.invoked_subcommand} …", ctx)
        return None
    from ledger.cli.work.prices import Wanted, list_prices  # noqa: PLC0415 - loaded when the command runs

    return list_prices(common, Wanted(everything, model, as_of, book))


@prices.command(short_help="The price books in the ledger.")
@common
@pass_common
def books(common: Common) -> int:
    """List the ledger's price books, oldest first, and say which one this installation would make now."""
    from ledger.cli.work.price_books import list_books  # noqa: PLC0415 - loaded when the command runs

    return list_books(common)


@prices.command(short_help="How two price books differ.")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B", default="current")
@click.option("--as-of", type=SINCE, help="Compare rates at this instant; else now.")
@common
@pass_common
def diff(common: Common, before: str, after: str, as_of: int | None) -> int:
    """List the models whose prices differ between A and B: beginnings of digests, or `current`.

    B is `current` where it is left out: what this installation would make now. Exit code 1 where they differ.
    """
    from ledger.cli.work.price_books import diff_books  # noqa: PLC0415 - loaded when the command runs

    return diff_books(common, before, after, as_of)


@prices.command(short_help="Check digests, unpriced models and prices that lag.")
@common
@pass_common
def check(common: Common) -> int:
    """Compare each book's digest with its content; say which configured models are unpriced and which prices lag.

    Prices lag where none of the ledger's books is what this installation would make: new attempts then start under a
    new book. Exit code 1 on any finding.
    """
    from ledger.cli.work.price_books import check_books  # noqa: PLC0415 - loaded when the command runs

    return check_books(common)
