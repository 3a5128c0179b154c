"""The work of ``backtest``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.words import plural
from ledger.config.load import load
from ledger.registry import ModelRegistry
from ledger.replay.folding import backtest
from ledger.replay.overlay import Overlay
from ledger.replay.selection import Selection

__all__ = ["backtest_ledger"]

TASKS_A_WORD: Final = 10_000
PLAYED: Final = ("retry", "tiers")
JUDGED: Final = ("accepted", "not_accepted")
COLUMNS: Final[tuple[output.Column, ...]] = (
    ("tier", "left"),
    ("", "left"),
    ("tasks", "right"),
    ("succeeded", "right"),
    ("failed", "right"),
    ("cancelled", "right"),
    ("held", "right"),
    ("attempts", "right"),
    ("waits s", "right"),
    ("calls s", "right"),
    ("known USD", "right"),
    ("unknown", "right"),
    ("at most USD", "right"),
)
REASONS: Final = {
    "no_outcome": "need an outcome that was never recorded",
    "timeout": "have an outcome that another timeout would have changed",
    "truncated": "have a judge's answer that was cut off",
    "max_tokens": "would have had another limit of tokens",
    "budget": "met a cap, which would have seen another spend",
    "unreadable": "hold events that this version cannot read",
}


def backtest_ledger(common: Common, policy: str, selection: Selection) -> int:
    """Backtest a policy and return the exit code."""

    async def work() -> int:
        loaded = load(policy)
        left = [name for name in loaded.written if name not in PLAYED]
        if left:
            output.note(f"{policy}: only [retry] and [tiers] play a part; left aside: {', '.join(left)}")
        async with opened(common, create=False, guarded=False) as executor:
            overlay = Overlay(loaded.written, ModelRegistry(loaded.config), executor.registry)
            store = await executor.ledger.store()
            account = await backtest(store, selection, overlay, progress=_progress())
        document = account.document()
        if common.as_json:
            output.document({"policy": policy, **document})
        else:
            _tell(document)
        return DONE

    return perform(work)


def _progress() -> Callable[[int], None]:
    """Say now and then how far it is, to whoever waits at a terminal."""

    def report(tasks: int) -> None:
        if tasks % TASKS_A_WORD == 0 and output.is_terminal(sys.stderr):
            output.note(f"{tasks:,} tasks looked at")

    return report


def _tell(document: dict[str, Any]) -> None:
    rows = [row for row in document["tiers"] if row["tasks"]]
    if rows:
        cells = [_cells(row, side) for row in rows for side in ("happened", "backtest")]
        output.table(COLUMNS, cells)
    answered, cannot = document["tasks"], document["cannot_answer"]
    output.write(f"{plural(answered, 'task')}: {document['won']:,} won, {document['lost']:,} lost\n")
    then, now = ({word: sum(row[side][word] for row in rows) for word in JUDGED} for side in ("happened", "backtest"))
    if any(then.values()) or any(now.values()):
        said = f"{then['accepted']:,} of {plural(sum(then.values()), 'answer')} accepted"
        output.write(f"judged: {said} then, {now['accepted']:,} of {sum(now.values()):,} in the backtest\n")
    if cannot:
        output.write(f"{plural(cannot, 'task')} cannot be answered for and stand in none of these figures:\n")
        for reason, count in document["cannot_answer_because"].items():
            output.write(f"  {count:,} {REASONS[reason]}\n")
    if document["unfinished"]:
        output.write(f"{plural(document['unfinished'], 'task')} not finished yet and left out\n")


def _cells(row: dict[str, Any], name: str) -> list[str]:
    side = row[name]
    first = [row["tier"], name, f"{row['tasks']:,}"]
    ends = [f"{side[word]:,}" for word in ("succeeded", "failed", "cancelled", "held", "attempts")]
    seconds = [f"{side[word] / 1000:,.1f}" for word in ("waits_ms", "latency_ms")]
    return [*first, *ends, *seconds, _usd(side["cost_known_nano_usd"]), *_unknown(side)]


def _unknown(side: dict[str, Any]) -> list[str]:
    """Say how many attempts have no known cost, and what they can have cost at most."""
    attempts, boundless = side["cost_unknown_attempts"], side["exposure_unknown_attempts"]
    if not attempts:
        return ["0", ""]
    bound = _usd(side["exposure_nano_usd"]) if attempts > boundless else ""
    return [f"{attempts:,}", f"{bound} and more".strip() if boundless and bound else bound or "no bound"]


def _usd(nano_usd: int) -> str:
    return f"{nano_usd / output.NANO:.6f}"
