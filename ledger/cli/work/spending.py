"""What stands against the caps of a day, and what is left: the part of ``config`` that asks the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ledger import Ledger
from ledger.cli import output
from ledger.cli.work.words import plural
from ledger.config import Config
from ledger.envelope import Cap
from ledger.errors import LedgerError, LedgerMissing
from ledger.executor.budgets import Budgets, in_usd
from ledger.store.protocol import Spent

__all__ = ["Standing", "standings", "tell_standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """A cap, and what stands against it today; None where the ledger cannot be asked."""

    cap: Cap
    spent: Spent | None

    @property
    def left_nano_usd(self) -> int | None:
        """What a call may still cost; nothing where one before it may have cost anything."""
        if self.spent is None:
            return None
        if self.spent.unbounded and self.cap.refuses_unpriced:
            return 0
        return max(0, self.cap.limit_nano_usd - self.spent.settled - self.spent.unknown - self.spent.reserved)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        spent = self.spent
        return {
            "cap": self.cap.name,
            "limit_nano_usd": self.cap.limit_nano_usd,
            "settled_nano_usd": spent and spent.settled,
            "unknown_nano_usd": spent and spent.unknown,
            "reserved_nano_usd": spent and spent.reserved,
            "unbounded_attempts": spent and spent.unbounded,
            "left_nano_usd": self.left_nano_usd,
        }

    def said(self) -> str:
        """Return it in a line."""
        head = f"budget.{self.cap.name}: cap {in_usd(self.cap.limit_nano_usd)}"
        if self.spent is None or self.left_nano_usd is None:
            return f"{head}, what is spent is not known"
        parts = [f"{in_usd(self.spent.settled)} spent"]
        parts += [f"{in_usd(self.spent.unknown)} more of calls whose cost is unknown"] * bool(self.spent.unknown)
        parts += [f"{in_usd(self.spent.reserved)} reserved by running calls"] * bool(self.spent.reserved)
        parts += [f"{plural(self.spent.unbounded, 'call')} of any cost"] * bool(self.spent.unbounded)
        return f"{head}, {', '.join(parts)}, {in_usd(self.left_nano_usd)} left"


async def standings(config: Config, place: str) -> tuple[Standing, ...]:
    """Ask the ledger what stands against each cap of today; one that is not there has spent nothing."""
    caps = Budgets(config.budget).daily()
    if not caps:
        return ()
    try:
        async with Ledger.open(place, create=False, guarded=False) as ledger:
            store = await ledger.store()
            now_ms = await store.now_ms()
            return tuple([Standing(cap, await store.spent(cap, "", now_ms)) for cap in caps])
    except LedgerMissing:
        return tuple(Standing(cap, Spent()) for cap in caps)
    except LedgerError as error:
        output.note(f"warning: what is spent is not known: {error}")
        return tuple(Standing(cap, None) for cap in caps)


def tell_standings(found: tuple[Standing, ...]) -> None:
    """Write them as comments below a configuration."""
    if found:
        output.write(f"\n# spending of today, {time.strftime('%Y-%m-%d', time.gmtime())} UTC, in USD:\n")
    for standing in found:
        output.write(f"#   {output.visible(standing.said())}\n")
