"""What a backtest comes to: by tier, what would have been against what happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from ledger import events as e
from ledger.replay.backtest import Backtested, Reason
from ledger.replay.record import Figures, Record

__all__ = ["Account", "Row"]

End = e.TaskSucceeded | e.TaskFailed | e.TaskCancelled | None
JUDGED: Final = ("accepted", "not_accepted")


@dataclass(slots=True)
class Side:
    """How tasks ended, and what they took."""

    ends: Counter[str] = field(default_factory=Counter)
    """By word; of answers that were judged within their task also whether they were accepted."""
    figures: Figures = field(default_factory=Figures)

    def add(self, word: str, record: Record, end: End, figures: Figures) -> None:
        """Count a task."""
        self.ends[word] += 1
        self.figures.add(figures)
        if record.submitted.kind == "generation" and isinstance(end, e.TaskSucceeded) and end.accepted is not None:
            self.ends[JUDGED[not end.accepted]] += 1

    def document(self) -> dict[str, Any]:
        """Return it with the names of the reports; a sum of which a part is unknown is NULL."""
        figures = self.figures
        named = {name: getattr(figures, name) for name in Figures.__slots__}
        cost = None if figures.cost_unknown_attempts else figures.cost_known_nano_usd
        ends = {word: self.ends[word] for word in ("succeeded", "failed", "cancelled", "held", *JUDGED)}
        return {**ends, **named, "cost_nano_usd": cost}


@dataclass(slots=True)
class Row:
    """The tasks that were asked for one tier."""

    tasks: int = 0
    """Those that could be answered for; both sides are about these only."""
    won: int = 0
    """Failed then, would have succeeded."""
    lost: int = 0
    """Succeeded then, would not have."""
    changed: int = 0
    """Ended otherwise, or took another number of attempts."""
    happened: Side = field(default_factory=Side)
    backtest: Side = field(default_factory=Side)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        counts = {"tasks": self.tasks, "won": self.won, "lost": self.lost, "changed": self.changed}
        return {**counts, "happened": self.happened.document(), "backtest": self.backtest.document()}


@dataclass(slots=True)
class Account:
    """A whole backtest."""

    rows: dict[str, Row] = field(default_factory=dict)
    """By the tier asked for."""
    cannot: Counter[Reason] = field(default_factory=Counter)
    cannot_by_tier: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0

    def add(self, record: Record, would: Backtested) -> None:
        """Count a task that could be answered for."""
        row = self.rows.setdefault(record.submitted.tier, Row())
        before, now, figures = _word(record.end), _word(would.end), record.figures()
        row.tasks += 1
        row.won += now == "succeeded" != before
        row.lost += before == "succeeded" != now
        row.changed += before != now or figures.attempts != would.figures.attempts
        row.happened.add(before, record, record.end, figures)
        row.backtest.add(now, record, would.end, would.figures)

    def leave(self, tier: str, reason: Reason) -> None:
        """Count a task that the record cannot answer for."""
        self.cannot[reason] += 1
        self.cannot_by_tier[tier] += 1

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        tiers = sorted({*self.rows, *self.cannot_by_tier})
        rows = [
            {"tier": tier, "cannot_answer": self.cannot_by_tier[tier], **self.rows.get(tier, Row()).document()}
            for tier in tiers
        ]
        return {
            "tasks": sum(row.tasks for row in self.rows.values()),
            "cannot_answer": self.cannot.total(),
            "cannot_answer_because": dict(sorted(self.cannot.items())),
            "unfinished": self.unfinished,
            "won": sum(row.won for row in self.rows.values()),
            "lost": sum(row.lost for row in self.rows.values()),
            "tiers": rows,
        }


def _word(end: End) -> str:
    match end:
        case None:
            return "held"
        case e.TaskSucceeded():
            return "succeeded"
        case e.TaskFailed():
            return "failed"
        case e.TaskCancelled():
            return "cancelled"
