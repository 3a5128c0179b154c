"""``[budget]``: what may be spent."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from ledger.config import values
from ledger.config.tables import Table

__all__ = ["BudgetTable", "TierCapsTable"]

Cap = Annotated[Decimal | None, values.cap]


class TierCapsTable(Table):
    """``[budget.per_tier]``."""

    flash: Cap = None
    pro: Cap = None
    haiku: Cap = None
    sonnet: Cap = None
    opus: Cap = None


class BudgetTable(Table):
    """``[budget]``: no cap unless written; those of labels and tiers are of a UTC day, as ``max_usd_per_day``."""

    max_usd_per_task: Cap = None
    max_usd_per_day: Cap = None
    per_label: dict[Annotated[str, values.label], Cap] = Field(default_factory=dict)
    per_tier: TierCapsTable = TierCapsTable()
    unpriced: Annotated[Literal["refuse", "allow"], values.choice("refuse", "allow")] = "refuse"
