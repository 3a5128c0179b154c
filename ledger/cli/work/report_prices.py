"""Which money ``report cost`` tells: the ledger's of today, that of each outcome, or that of other prices."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ledger.config import load_config
from ledger.reports.asked import Asked, Report
from ledger.reports.cost import Priced, cost
from ledger.reports.reading import Snapshot
from ledger.store.protocol import Store

if TYPE_CHECKING:
    from ledger.reports.repricing import Prices

__all__ = ["Pricing", "cost_maker"]


@dataclass(frozen=True, slots=True)
class Pricing:
    """What the command line asks for.

    Raises:
        click.UsageError: two of its wishes exclude each other.
    """

    as_charged: bool = False
    prices: str | None = None
    as_of: int | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be told together."""
        others = [self.as_charged, self.prices is not None or self.as_of is not None, self.against is not None]
        if sum(others) > 1:
            raise click.UsageError(
                "--as-charged, --prices with --as-of, and --against are reports of their own; give one of them"
            )


async def cost_maker(
    store: Store, config_file: str | None, pricing: Pricing
) -> Callable[[Snapshot, Asked], Coroutine[Any, Any, Report]]:
    """Return what makes the report of costs, its prices read.

    Raises:
        RequestRefused: no price book answers to the name.
        ConfigurationError: our own prices cannot be used.
    """
    if pricing == Pricing():
        return cost
    # Prices take a moment to load, and most reports need none.
    from ledger.prices.shelf import CURRENT, named  # noqa: PLC0415 - see above
    from ledger.reports.repricing import Prices, charged_then  # noqa: PLC0415 - see above

    if pricing.as_charged:
        return partial(cost, priced=charged_then)
    config = load_config(config_file)
    book = await named(store, pricing.prices or CURRENT, config.prices)
    if pricing.against is None:
        return partial(cost, priced=_under(Prices(book, at_ms=pricing.as_of)))
    from ledger.registry import ModelRegistry  # noqa: PLC0415 - see above

    entry = ModelRegistry(config).entry(pricing.against)
    return partial(cost, against=_under(Prices(book, against=(entry.provider, entry.model))))


def _under(prices: Prices) -> Priced:
    from ledger.reports.repricing import charged_under  # noqa: PLC0415 - prices take a moment to load

    return lambda snapshot, since_ms, until_ms: charged_under(snapshot, prices, since_ms, until_ms)
