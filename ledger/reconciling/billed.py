"""A row of a provider's export, whatever form it came in, and the fields that every form has: exact or refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NoReturn

from ledger.canonical import INT64_MAX
from ledger.errors import RequestRefused
from ledger.parts import UsageRow

__all__ = ["COUNTS", "DAY_MS", "NANO", "Billed", "Place", "Span"]

DAY_MS: Final = 86_400_000
NANO: Final = 10**9
COUNTS: Final = (
    "input_uncached_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)
"""What both sides count, by the names of ``attempts`` and of usage rows."""
NATURAL: Final = re.compile(r"[0-9]{1,19}")
USD: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN_MAX: Final = 60
NAME_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Span:
    """A time, from ``from_ms`` to before ``until_ms``."""

    from_ms: int
    until_ms: int

    @property
    def day(self) -> int:
        """Return the UTC day that it begins on, in days since 1970."""
        return self.from_ms // DAY_MS


@dataclass(frozen=True, slots=True)
class Billed:
    """What a provider billed, for one request or for many of a model.

    Attributes:
        where: the row, as people find it.
        at: when.
        provider: in the ledger's words.
        model: as the provider calls it; None for what no model cost, as a search.
        usage: the counts, each None where the export has none.
        cost_nano_usd: exact; None where the export has none.
        rounding_nano_usd: how far off a cost may be that the provider rounded.
        request_id: None for many requests together.
        kind: what else the prices depend on, as an API's speed; a row of another kind has other prices.
        mark: what tells it from the other rows of its time, besides the figures.
        raw: the row as it stood there.
    """

    where: str
    at: Span
    provider: str
    model: str | None
    usage: UsageRow
    cost_nano_usd: Fraction | None
    rounding_nano_usd: int
    request_id: str | None
    kind: str
    mark: tuple[str | None, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a file we are; what is wrong there is said with it."""

    where: str

    def wrong(self, field: str, said: str) -> NoReturn:
        """Refuse the file.

        Raises:
            RequestRefused: always.
        """
        raise RequestRefused(f"{self.where}: {field}: {said}; nothing was settled", field=field)

    def natural(self, field: str, value: Any) -> int | None:
        """Return a count; None where there is none."""
        if value is None or value == "":
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not NATURAL.fullmatch(value) or int(value) > INT64_MAX:
            self.wrong(field, f"expected a whole number from 0 on, found {_shown(value)}")
        return int(value)

    def usd(self, field: str, value: Any) -> Fraction | None:
        """Return an amount exactly; None where there is none."""
        if value is None or value == "":
            return None
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not USD.fullmatch(value):
            self.wrong(field, f"expected a decimal number from 0 on, found {_shown(value)}")
        return Fraction(Decimal(value))

    def instant(self, field: str, value: Any) -> int:
        """Return an ISO date or time in UTC milliseconds; UTC unless it says otherwise."""
        try:
            then = datetime.fromisoformat(value.strip())
            then = then if then.tzinfo else then.replace(tzinfo=UTC)
            at_ms = (then - EPOCH) // timedelta(milliseconds=1)
        except (AttributeError, TypeError, ValueError, OverflowError):
            self.wrong(field, f"expected a date or time as 2026-11-22 or 2026-11-22T17:00:00Z, found {_shown(value)}")
        if at_ms < 0:
            self.wrong(field, f"expected a time since 1970, found {_shown(value)}")
        return at_ms

    def day(self, field: str, value: Any) -> Span:
        """Return the UTC day of a date or time."""
        start = self.instant(field, value) // DAY_MS * DAY_MS
        return Span(start, start + DAY_MS)

    def name(self, field: str, value: Any) -> str | None:
        """Return a word, stripped; None where there is none."""
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > NAME_MAX or not value.strip().isprintable():
            self.wrong(field, f"expected a name of at most {NAME_MAX} characters, found {_shown(value)}")
        return value.strip() or None

    def needed(self, field: str, value: Any) -> str:
        """Return a word that has to be there."""
        name = self.name(field, value)
        if name is None:
            self.wrong(field, "expected a name, found nothing")
        return name


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}… ({len(text):,} characters)"
