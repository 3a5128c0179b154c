"""The work of ``replay --dry-run``: what would be replayed, what it did cost, and what it can cost at most."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.work.words import plural
from ledger.errors import RequestRefused
from ledger.executor.books import built
from ledger.executor.replay_plans import Plan, Replay, planned
from ledger.executor.sending import Sent
from ledger.prices.book import PriceBook
from ledger.prices.costing import upper_bound
from ledger.prices.source import has_prices
from ledger.store.protocol import Store

__all__ = ["list_plans"]

SHOWN_MAX: Final = 50
COLUMNS: Final[tuple[output.Column, ...]] = (
    ("task", "left"),
    ("tier", "left"),
    ("error", "left"),
    ("did cost USD", "right"),
    ("at most USD", "right"),
    ("replay", "left"),
)


async def list_plans(store: Store, task_ids: AsyncIterator[str], how: Replay, *, as_json: bool) -> int:
    """Say what would be replayed; nothing is written and nobody is called."""
    rows: list[dict[str, Any]] = []
    sums = _Sums()
    async for task_id in task_ids:
        plan = None
        try:
            plan = await planned(store, task_id, how)
            row = _row(plan, how)
        except RequestRefused as refused:
            row = {"task_id": task_id, "why": str(refused)}
        sums.add(row, plan)
        if as_json or len(rows) < SHOWN_MAX:
            rows.append(row)
    if as_json:
        listed = {word: [row for row in rows if _kind(row) == word] for word in ("would_replay", "existing")}
        cannot = [row for row in rows if _kind(row) == "not_replayed"]
        output.document({"replayed": [], **listed, "not_replayed": cannot, **sums.document()})
    else:
        _tell(rows, sums)
    return DONE


class _Sums:
    """What the listed tasks come to; a part that is unknown leaves its sum unknown, with the known part beside it."""

    def __init__(self) -> None:
        self.counts = {"would_replay": 0, "existing": 0, "not_replayed": 0}
        self.known = {"did_cost_nano_usd": 0, "at_most_nano_usd": 0}
        self.unknown = {"did_cost_nano_usd": 0, "at_most_nano_usd": 0}
        self.replays = 0
        self._chains: set[str] = set()
        """The ends of those that have more than one task: one replay answers for all of these, and costs once."""

    def add(self, row: dict[str, Any], plan: Plan | None) -> None:
        kind = _kind(row)
        self.counts[kind] += 1
        if plan is None or kind != "would_replay":
            return
        self._sum("did_cost_nano_usd", row)
        if plan.follows in self._chains:
            return
        if plan.newest is not None or plan.old.task.submitted.replay_of is not None:
            self._chains.add(plan.follows)
        self.replays += 1
        self._sum("at_most_nano_usd", row)

    def _sum(self, name: str, row: dict[str, Any]) -> None:
        self.known[name] += row[name] or 0
        self.unknown[name] += row[name] is None

    def document(self) -> dict[str, Any]:
        sums: dict[str, Any] = {"tasks": self.counts["would_replay"], "replays": self.replays}
        for name, known in self.known.items():
            plain = name.removesuffix("_nano_usd")
            sums[name] = None if self.unknown[name] else known
            sums[f"{plain}_known_nano_usd"] = known
            sums[f"{plain}_unknown_tasks"] = self.unknown[name]
        return sums

    def said(self, name: str) -> str:
        known = f"{self.known[name] / output.NANO:.6f} USD"
        unknown = self.unknown[name]
        if not unknown:
            return known
        return f"unknown for {plural(unknown, 'task')}" + (f", {known} for the others" if self.known[name] else "")


def _kind(row: dict[str, Any]) -> str:
    if "why" in row:
        return "not_replayed"
    return "existing" if row["stands"] else "would_replay"


def _row(plan: Plan, how: Replay) -> dict[str, Any]:
    end, newest = plan.old.state, plan.newest
    return {
        "task_id": plan.old.task_id,
        "tier": plan.pinned.tier,
        "state": plan.old.state_name,
        "error_type": getattr(getattr(end, "end", None), "error_type", None),
        "did_cost_nano_usd": plan.old.money().cost_nano_usd,
        "at_most_nano_usd": _at_most(plan, how),
        "newest_replay": None if newest is None else {"task_id": newest.task_id, "state": newest.state_name},
        "stands": plan.stands,
    }


def _at_most(plan: Plan, how: Replay) -> int | None:
    """Return what every try of every step costs together at the most; None where a price is missing, or an answer.

    What a judge is sent holds an answer that is still to come, so nothing bounds it.
    """
    pinned = plan.pinned
    if pinned.route and pinned.judge:
        return None
    texts = {slot: payload.content for slot, payload in plan.texts.items()}
    sizes = len(texts["prompt"]), len(texts.get("system", b""))
    if not pinned.route:
        sent = Sent.to_judge(texts["prompt"].decode(), texts["output"].decode())
        sizes = len(sent.prompt.encode()), len((sent.system or "").encode())
    now_ms, total = time.time_ns() // 1_000_000, 0
    for step in pinned.route or pinned.judge:
        book = _book(step.provider, how)
        if book is None:
            return None
        bound = upper_bound(book, step.provider, step.model, *sizes, pinned.max_tokens, now_ms)
        if bound is None:
            return None
        total += step.tries * bound
    return total


def _book(provider: str, how: Replay) -> PriceBook | None:
    own = how.today.config.prices
    return built(own) if has_prices(provider, own) else None


def _tell(rows: list[dict[str, Any]], sums: _Sums) -> None:
    listed = [row for row in rows if "why" not in row]
    if listed:
        output.table(COLUMNS, [_cells(row) for row in listed])
    for row in rows:
        if "why" in row:
            output.note(row["why"])
    total = sum(sums.counts.values())
    if total > len(rows):
        output.note(f"… and {total - len(rows):,} more; --json has them all")
    if not total:
        output.note("no such tasks")
    would = f"{plural(sums.counts['would_replay'], 'task')} would be replayed"
    if sums.replays < sums.counts["would_replay"]:
        would += f" by {plural(sums.replays, 'replay')}"
    output.write(f"{would}, {sums.counts['existing']:,} have a replay that stands; nothing was begun\n")
    output.write(f"did cost {sums.said('did_cost_nano_usd')}; can cost at most {sums.said('at_most_nano_usd')}\n")


def _cells(row: dict[str, Any]) -> list[str]:
    newest = row["newest_replay"]
    replay = "would be made" if newest is None else f"{newest['task_id']} {newest['state']}"
    if newest is not None and not row["stands"]:
        replay = f"would be made anew after {replay}"
    money = [row[name] for name in ("did_cost_nano_usd", "at_most_nano_usd")]
    shown = ["unknown" if each is None else f"{each / output.NANO:.6f}" for each in money]
    return [row["task_id"], row["tier"], row["error_type"] or "", *shown, replay]
