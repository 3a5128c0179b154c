"""The work of ``replay``: which tasks, the dry run, the progress, what came of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.batch.replays import run_replays
from ledger.batch.tally import Tally, count_of
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.advice import outcome
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.progress import progress
from ledger.cli.work.replay_list import list_plans
from ledger.cli.work.words import plural
from ledger.config import load_config
from ledger.errors import RequestRefused
from ledger.executor.api import Executor
from ledger.executor.replay_plans import Replay, how_to_replay, planned
from ledger.executor.replaying import Replayed
from ledger.replay.selection import Selection, selected
from ledger.store.protocol import Store

__all__ = ["Wanted", "replay_tasks"]

SHOWN_MAX: Final = 20
CURRENT: Final = "current"
INTERRUPTED: Final = "what is done is done: the same command goes on with what is left"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    parts: Sequence[str]
    """Beginnings or ends of ids."""
    selection: Selection | None
    tier: str | None
    policy: str | None
    again: bool
    dry_run: bool
    concurrency: int | None


def replay_tasks(common: Common, wanted: Wanted) -> int:
    """Replay tasks, or list them, and return the exit code."""

    async def work() -> int:
        create = not wanted.dry_run
        async with opened(common, create=False, calls=create) as executor:
            how = _how(executor, wanted)
            store = await executor.ledger.store()
            named = list(dict.fromkeys([await one_task(store, part) for part in wanted.parts]))
            for task_id in named:  # nothing is begun if one of them cannot be replayed
                await planned(store, task_id, how)
            if wanted.dry_run:
                return await list_plans(store, _chosen(store, named, wanted.selection), how, as_json=common.as_json)
            return await _run(executor, named, wanted, how, as_json=common.as_json)

    return perform(work, interrupted=INTERRUPTED)


def _how(executor: Executor, wanted: Wanted) -> Replay:
    """Return how to replay.

    Raises:
        ConfigurationError: the policy's file cannot be used.
    """
    policy = None
    if wanted.policy is not None:
        policy = executor.config if wanted.policy == CURRENT else load_config(wanted.policy)
    now_ms = time.time_ns() // 1_000_000
    return how_to_replay(executor.registry, wanted.tier, policy, again=wanted.again, at_ms=now_ms)


async def _chosen(store: Store, named: Sequence[str], selection: Selection | None) -> AsyncIterator[str]:
    if selection is None:
        for task_id in named:
            yield task_id
        return
    async for row in selected(store, selection):
        yield row["task_id"]


async def _run(executor: Executor, named: Sequence[str], wanted: Wanted, how: Replay, *, as_json: bool) -> int:
    store = await executor.ledger.store()
    total = 0
    async for _ in _chosen(store, named, wanted.selection):
        total += 1
    told = _Told(as_json=as_json)
    with progress(max(total, 1), "tasks") as report:

        def finished(replay: Replayed) -> None:
            told.finished(replay)
            report(count_of(replay.done), 1)

        def refused(task_id: str, why: RequestRefused) -> None:
            told.refused(task_id, why)
            report("refused", 1)

        tally = await run_replays(
            executor,
            _chosen(store, named, wanted.selection),
            how,
            concurrency=wanted.concurrency,
            on_finished=finished,
            on_refused=refused,
        )
    told.sums(tally)
    return DONE if tally.all_well else FOUND


@dataclass(slots=True)
class _Told:
    """What is said of each replay: all of it where a document is wanted, else the first of the bad ones."""

    as_json: bool
    new: list[dict[str, Any]] = field(default_factory=list)
    existing: list[dict[str, Any]] = field(default_factory=list)
    cannot: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"new": 0, "existing": 0, "refused": 0})

    def finished(self, replay: Replayed) -> None:
        """Keep what a replay came to."""
        self.counts["new" if replay.new else "existing"] += 1
        story = replay.done.story
        if self.as_json:
            row = {"task_id": story.task_id, "replay_of": replay.replay_of, "state": story.state_name}
            (self.new if replay.new else self.existing).append(row)
            return
        said = outcome(story.state_name, replay.done.result)
        line = f"{replay.replay_of} → {story.task_id}{'' if replay.new else ' (there already)'}: {said}"
        if replay.done.result.success:
            if self.counts["new"] + self.counts["existing"] <= SHOWN_MAX:
                output.write(f"{line}\n")
        elif len(self.bad) < SHOWN_MAX:
            self.bad.append(line)

    def refused(self, task_id: str, why: RequestRefused) -> None:
        """Keep why a task cannot be replayed."""
        self.counts["refused"] += 1
        if self.as_json:
            self.cannot.append({"task_id": task_id, "why": str(why)})
        elif self.counts["refused"] <= SHOWN_MAX:
            output.note(str(why))

    def sums(self, tally: Tally) -> None:
        """Say what the whole came to."""
        if self.as_json:
            sums = tally.summary() | {"reused": len(self.existing), "refused": len(self.cannot)}
            del sums["lines"]
            lists = {"replayed": self.new, "existing": self.existing, "not_replayed": self.cannot}
            output.document(lists | sums)
            return
        for line in self.bad:
            output.note(line)
        if not any(self.counts.values()):
            output.note("no such tasks")
        new, existing, refused = self.counts.values()
        parts = [plural(new, "replay")]
        parts += [f"{existing:,} there already"] if existing else []
        parts += [f"{refused:,} cannot be replayed"] if refused else []
        reused = tally.lines["reused"]
        ends = ", ".join(f"{tally.lines[word]:,} {word}" for word in ("succeeded", "failed", "held"))
        ends += f", {reused:,} had succeeded before" if reused else ""
        output.write(f"{', '.join(parts)}: {ends}; {plural(tally.attempts, 'attempt')}, ")
        output.write(f"{output.money(tally.cost_known_nano_usd, tally.cost_unknown_attempts)}\n")
        if existing and not new:
            output.note("--again replays also those whose newest replay has succeeded")
