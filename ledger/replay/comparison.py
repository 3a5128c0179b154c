"""Two tasks side by side: how they ended, by which route, what they took, what was asked and answered. Pure."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ledger.store.protocol import Projected

__all__ = ["Line", "Side", "Text", "compared", "text_lines"]

LINES_MAX: Final = 2000
PAIRS_MAX: Final = 20_000
"""Equal lines of both sides, paired in every way. Of texts with more only the first difference is told, since what is
repeated in every order takes the comparison cubic time."""
CONTEXT: Final = 2
ERASED: Final = "erased"
NONE: Final = "none"

Line = tuple[Literal["same", "left", "right", "gap"], str]


@dataclass(frozen=True, slots=True)
class Text:
    """One text of a task; without content it was erased."""

    content: str | None


@dataclass(frozen=True, slots=True)
class Side:
    """One task as it is compared."""

    rows: Projected
    texts: Mapping[str, Text]
    """By what they are called: prompt, system, answer, issues."""

    @property
    def task(self) -> Mapping[str, Any]:
        """The task's row of ``tasks``."""
        return self.rows.tasks[0]

    def figures(self) -> dict[str, Any]:
        """Return what is compared, by name."""
        task, attempts = self.task, self.rows.attempts
        ended, made = task["ended_at_ms"], task["created_at_ms"]
        unknown = [row for row in attempts if row["cost_nano_usd"] is None]
        bounds = [row["exposure_nano_usd"] for row in unknown]
        return {
            "kind": task["kind"],
            "state": task["state"],
            "error_type": task["error_type"],
            "accepted": None if task["accepted"] is None else bool(task["accepted"]),
            "tier_requested": task["tier_requested"],
            "tier_final": task["tier_final"],
            "model_final": task["model_final"],
            "replay_of": task["replay_of"],
            "attempts": task["attempts"],
            "route": [_step(row) for row in attempts],
            "decisions": [f"{row['decision']} ({row['reason']})" for row in self.rows.decisions],
            "verdicts": [_verdict(row) for row in self.rows.validations],
            "tokens_input": _sum(attempts, "tokens_input"),
            "tokens_output": _sum(attempts, "tokens_output"),
            "cost_nano_usd": task["cost_nano_usd"],
            "cost_known_nano_usd": task["cost_known_nano_usd"],
            "cost_unknown_attempts": task["cost_unknown_attempts"],
            "exposure_nano_usd": None if None in bounds else sum(bounds),
            "latency_ms": _sum(attempts, "latency_ms"),
            "duration_ms": None if ended is None else ended - made,
        }


def compared(left: Side, right: Side) -> list[dict[str, Any]]:
    """Return every figure of both, and whether they are the same."""
    ours, theirs = left.figures(), right.figures()
    return [{"field": name, "a": ours[name], "b": theirs[name], "same": ours[name] == theirs[name]} for name in ours]


def text_lines(left: Text | None, right: Text | None) -> list[Line]:
    """Return two texts as lines that both have or that one has; what is far from any difference is left out."""
    if left is None and right is None:
        return []
    ours, theirs = _lines(left), _lines(right)
    counts = Counter(theirs)
    if max(len(ours), len(theirs)) > LINES_MAX or sum(counts[line] for line in ours) > PAIRS_MAX:
        return _first_difference(ours, theirs)
    lines: list[Line] = []
    for number, group in enumerate(
        difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_grouped_opcodes(CONTEXT)
    ):
        if number:
            lines.append(("gap", ""))
        for kind, our_from, our_to, their_from, their_to in group:
            if kind == "equal":
                lines += [("same", line) for line in ours[our_from:our_to]]
                continue
            lines += [("left", line) for line in ours[our_from:our_to]]
            lines += [("right", line) for line in theirs[their_from:their_to]]
    return lines


def _lines(text: Text | None) -> Sequence[str]:
    if text is None:
        return [f"({NONE})"]
    return [f"({ERASED})"] if text.content is None else text.content.split("\n")


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> list[Line]:
    shorter = min(len(ours), len(theirs))
    place = next((at for at in range(shorter) if ours[at] != theirs[at]), shorter)
    if place == len(ours) == len(theirs):
        return []
    lines: list[Line] = [
        ("gap", f"{len(ours):,} and {len(theirs):,} lines; the first difference is line {place + 1:,}")
    ]
    lines += [("left", line) for line in ours[place : place + 1]]
    return [*lines, *(("right", line) for line in theirs[place : place + 1])]


def _step(row: Mapping[str, Any]) -> str:
    judging = " judging" if row["purpose"] == "validate" else ""
    end = row["error_type"] or row["state"]
    return f"{row['tier']} {row['response_model'] or row['request_model']}{judging}: {end}"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["error_type"] is not None:
        return f"no verdict: {row['error_type']}"
    confidence = "" if row["confidence"] is None else f", confidence {row['confidence']:g}"
    return f"{'pass' if row['pass'] else 'no pass'}{confidence}{', escalate' if row['escalate'] else ''}"


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Sum a column; a count that is unknown leaves the sum unknown, but for attempts that were not billed."""
    counted = [row[name] for row in rows if row[name] is not None or row["usage_source"] != "not_billed"]
    return None if None in counted else sum(counted)
