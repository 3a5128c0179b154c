"""The whole configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError

from ledger.config import values
from ledger.config.budget import BudgetTable
from ledger.config.lines import Lines
from ledger.config.mistakes import Report
from ledger.config.tables import (
    BreakersTable,
    EscalationTable,
    ProvidersTable,
    RedactTable,
    RetryTable,
    Table,
    TelemetryTable,
    TiersTable,
)
from ledger.prices.tables import PricesTable

__all__ = ["Config"]


class Config(Table):
    """All that can be configured; ``Config()`` is the defaults.

    Made directly, it checks as pydantic does; ``from_mapping`` says in words what is wrong.
    """

    ledger: Annotated[str, values.written_ledger] = "sqlite:///dispatch.db"
    retry: RetryTable = RetryTable()
    tiers: TiersTable = TiersTable()
    providers: ProvidersTable = ProvidersTable()
    breakers: BreakersTable = BreakersTable()
    escalation: EscalationTable = EscalationTable()
    budget: BudgetTable = BudgetTable()
    prices: PricesTable = Field(default_factory=dict)
    redact: RedactTable = RedactTable()
    telemetry: TelemetryTable = TelemetryTable()

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], source: str = "<python>", lines: Lines | None = None) -> Self:
        """Check tables as a file has them; what they leave out is the default.

        Args:
            mapping: tables and keys.
            source: what messages call it.
            lines: where the keys stand, if it was read from a text.

        Raises:
            ConfigurationError: all that is wrong, each with its key, what it is and what was expected.
        """
        report = Report(cls, mapping, source, lines or Lines())
        try:
            config = cls.model_validate(mapping)
        except ValidationError as invalid:
            raise report.error(invalid.errors(include_url=False)) from None
        report.refuse_secrets()
        return config
