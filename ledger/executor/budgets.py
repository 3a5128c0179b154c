"""The caps of the configuration as an attempt is held to them, and what is said of one that refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from ledger import events as e
from ledger.config.budget import BudgetTable
from ledger.envelope import Cap
from ledger.parts import BudgetSeen
from ledger.policy import Tier
from ledger.registry import ModelTier, nano_usd

__all__ = ["LOOK_S", "TASK_CAP", "Budgets", "in_usd", "refusal"]

TASK_CAP: Final = "max_usd_per_task"
LOOK_S: Final = 0.5
"""How often a task that waits for a reservation of others looks again; it records nothing by that."""
NANO: Final = Decimal(10**9)


class Budgets:
    """``[budget]``: which caps hold for an attempt.

    Args:
        table: the caps that are written; a task's own is pinned into it when it is submitted.
    """

    def __init__(self, table: BudgetTable | None = None) -> None:
        table = BudgetTable() if table is None else table
        self._refuses_unpriced = table.unpriced == "refuse"
        self._by_day = self._capped("max_usd_per_day", table.max_usd_per_day)
        self._by_label = {label: self._of_label(label, usd) for label, usd in table.per_label.items()}
        self._by_tier: dict[Tier, tuple[Cap, ...]] = {
            tier.value: self._capped(f"per_tier.{tier}", getattr(table.per_tier, tier.value), tier=tier.value)
            for tier in ModelTier
        }

    def caps(self, submitted: e.TaskSubmitted, tier: Tier) -> tuple[Cap, ...]:
        """Return the caps that a task's attempt on a tier is held to."""
        pinned = submitted.limits.cost_nano_usd
        mine = () if pinned is None else (Cap(TASK_CAP, pinned, of_task=True, refuses_unpriced=self._refuses_unpriced),)
        labelled = [
            cap
            for label in self._by_label
            for cap in self._by_label[label]
            if cap.label is not None and submitted.labels.get(cap.label[0]) == cap.label[1]
        ]
        return (*mine, *self._by_day, *labelled, *self._by_tier[tier])

    def daily(self) -> tuple[Cap, ...]:
        """Return every cap on a day's spending."""
        of_labels = [cap for caps in self._by_label.values() for cap in caps]
        return (*self._by_day, *of_labels, *(cap for caps in self._by_tier.values() for cap in caps))

    def _of_label(self, label: str, usd: Decimal | None) -> tuple[Cap, ...]:
        key, _, value = label.partition("=")
        return self._capped(f"per_label.{label}", usd, label=(key, value))

    def _capped(
        self, name: str, usd: Decimal | None, *, tier: str | None = None, label: tuple[str, str] | None = None
    ) -> tuple[Cap, ...]:
        if usd is None:
            return ()
        return (Cap(name, nano_usd(usd), tier=tier, label=label, refuses_unpriced=self._refuses_unpriced),)


def refusal(event: e.BudgetRefused) -> str:
    """Say which cap refused an attempt, what stands against it, and what can be done."""
    seen = next((one for one in event.inputs.budgets if one.cap == event.cap), None)
    if seen is None:
        return f"budget.{event.cap} refused attempt on {event.tier}"
    cap = f"budget.{seen.cap} = {in_usd(seen.limit)} USD"
    refuses = f"{cap} refuses the call to {event.tier}"
    if seen.asked is None:
        advice = 'give it one under [prices], or write budget.unpriced = "allow"'
        return f"{refuses}: its model has no price, so nobody knows what it may cost; {advice}"
    return f"{refuses}, which may cost {in_usd(seen.asked)} USD: {_standing(seen)}"


def _standing(seen: BudgetSeen) -> str:
    tomorrow = seen.cap != TASK_CAP and (seen.asked or 0) <= seen.limit
    if seen.unknown is None:
        # A higher cap would not help: nothing fits beside what may have cost anything.
        why = f"{in_usd(seen.settled)} USD are spent, and a call before it may have cost anything"
        wait = "wait for the next day (UTC), or " if tomorrow else ""
        return f'{why}; settle that by `dispatch-ledger reconcile`, or {wait}write budget.unpriced = "allow"'
    advice = "raise the cap, or wait for the next day (UTC)" if tomorrow else "raise the cap"
    unknown = f" and up to {in_usd(seen.unknown)} USD more of calls whose cost is unknown" if seen.unknown else ""
    return f"{in_usd(seen.settled)} USD are spent{unknown}; {advice}, or ask for fewer max_tokens"


def in_usd(nano: int) -> str:
    """Write an amount exactly, with two decimals at least."""
    whole, _, rest = f"{nano / NANO:f}".partition(".")
    return f"{whole}.{rest.rstrip('0').ljust(2, '0')}"
