"""What a report is asked for, and what it answers with: rows of integers, shares and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, Literal

from ledger.canonical import INT64_MAX
from ledger.errors import RequestRefused
from ledger.store.protocol import storable

__all__ = ["BY_MAX", "LABEL", "ROWS_MAX", "Asked", "Column", "Report", "average", "share"]

LABEL: Final = "label:"
DIMENSIONS: Final = ("tier", "model", "day", "hour", "purpose")
BY_MAX: Final = 8
ROWS_MAX: Final = 100_000
"""Groups that a report has at the most."""
MILLIONTHS: Final = 1_000_000

Kind = Literal["key", "count", "money", "ms", "share", "ratio", "words"]


@dataclass(frozen=True, slots=True)
class Asked:
    """Which groups, and of which time: from ``since_ms`` to before ``until_ms``.

    Raises:
        RequestRefused: a group that no report knows, or too many.
    """

    by: tuple[str, ...] = ()
    since_ms: int = 0
    until_ms: int = INT64_MAX

    def __post_init__(self) -> None:
        """Refuse what can be no group."""
        for name in self.by:
            if name == f"{LABEL}subject":
                said = "the label subject can be erased, so nothing is grouped by it; use another label"
                raise RequestRefused(said, field="by")
            if name not in DIMENSIONS and not (name.startswith(LABEL) and name != LABEL):
                said = f"no report is made by {name!r}; expected {', '.join(DIMENSIONS)} or label:KEY"
                raise RequestRefused(said, field="by")
            if not storable(name) or "\0" in name:
                raise RequestRefused(f"no label can have the name {name.removeprefix(LABEL)!r}", field="by")
        if len(self.by) > BY_MAX:
            raise RequestRefused(f"a report is made by {BY_MAX} things at the most, not {len(self.by)}", field="by")

    @property
    def window(self) -> Mapping[str, int]:
        """Return its time as a statement's parameters."""
        return {"since_ms": self.since_ms, "until_ms": self.until_ms}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a report: what it is called, and what kind of figure stands in it."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Report:
    """Rows by their groups, sorted; every row has every column, None where nothing is known."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def share(part: int | None, whole: int | None) -> float | None:
    """Return a share to the millionth, half to even, the same on every machine; None of nothing."""
    return None if not whole or part is None else round(Fraction(part * MILLIONTHS, whole)) / MILLIONTHS


def average(total: int | None, count: int | None) -> int | None:
    """Return a mean to the unit, half to even; None of nothing."""
    return None if not count or total is None else round(Fraction(total, count))
