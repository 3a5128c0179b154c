"""Reconcile a ledger with a provider's export, from the file to the list of what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from ledger import events as e
from ledger.executor.transact import Desk
from ledger.prices.book import PriceBook
from ledger.prices.shelf import current, published
from ledger.prices.tables import PriceTable
from ledger.reconciling.billed import COUNTS, DAY_MS
from ledger.reconciling.exports import Export, Group, Same, Theirs, opened_export, summed
from ledger.reconciling.matching import Day, Match, by_day, by_request, days_of
from ledger.reconciling.ours import Known, Unknown, known_of, unknown_attempts
from ledger.reconciling.settling import Shelf, account_of, settle
from ledger.reports.reading import Snapshot, reading

__all__ = ["Left", "Reconciled", "Settled", "reconcile"]

NAMES: Final = 4_096
LISTED_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Settled:
    """An attempt that the export settled, or would have."""

    match: Match
    event: e.AttemptSettled


@dataclass(frozen=True, slots=True)
class Left:
    """An attempt that the export names and that stays unknown."""

    unknown: Unknown
    why: str


@dataclass(slots=True)
class Reconciled:
    """What became of an export."""

    form: str
    rows: int
    requests: int
    is_cut: bool
    settled: list[Settled] = field(default_factory=list)
    left: dict[tuple[str, int], Left] = field(default_factory=dict)
    """By task and attempt."""
    days: list[Day] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Say whether nothing is left to explain."""
        return not self.left and all(day.agrees for day in self.days)


@dataclass(slots=True)
class _Found:
    """What the ledger holds that the export may be about."""

    known: dict[Group, Known]
    of_requests: dict[str, Unknown]
    of_groups: dict[Group, dict[tuple[str, int], Unknown]]
    """Some of each, which is enough: where many are unknown nothing can be said of one."""


async def reconcile(desk: Desk, path: Path, own: Mapping[str, PriceTable], *, dry_run: bool = False) -> Reconciled:
    """Settle what an export settles, and return that and what is left; the same file again changes nothing.

    Args:
        desk: the ledger, and who reconciles.
        path: the export.
        own: ``[prices]`` of the configuration, which may name models.
        dry_run: only say what would be settled.

    Raises:
        RequestRefused: the file cannot be used; nothing was appended.
        LedgerError: the ledger cannot be used; what was settled stays, and the same file goes on from there.
    """
    same = _same(await current(own))
    export = opened_export(path)
    theirs = await summed(export, same)
    done = Reconciled(export.form, theirs.rows, theirs.requests, export.is_cut)
    shelf = Shelf(await published(desk.store))
    found = await _found(desk, theirs, same)
    settling = _Settling(desk, shelf, found.known, same, done, export, dry_run)
    if theirs.requests and found.of_requests:
        async for match in by_request(export, found.of_requests):
            await settling.settle(match)
    for group, day in days_of(theirs, found.known).items():
        open_still = [one for key, one in found.of_groups.get(group, {}).items() if key not in settling.closed]
        done.days.append(await settling.rest(day, open_still[0], theirs) if open_still else day)
    return done


def _same(book: PriceBook) -> Same:
    """Tell models apart as a price book does, which knows dated names, and by their names where it has none."""

    @lru_cache(NAMES)
    def same(provider: str, name: str) -> str:
        model = book.model(provider, name)
        return name.lower() if model is None else model.id

    return same


async def _found(desk: Desk, theirs: Theirs, same: Same) -> _Found:
    if not theirs.covered:
        return _Found({}, {}, {})
    since_ms, until_ms = theirs.covered[0].from_ms, theirs.covered[-1].until_ms

    async def work(snapshot: Snapshot) -> _Found:
        found = _Found(await known_of(snapshot, theirs.covered, theirs.providers, same), {}, {})
        twice: set[str] = set()
        # A provider may put a call that began before midnight into the next day.
        wide = max(0, since_ms - DAY_MS), until_ms + DAY_MS
        async for one in unknown_attempts(snapshot, *wide, theirs.providers):
            if (
                one.request_id is not None
                and theirs.requests
                and found.of_requests.setdefault(one.request_id, one) != one
            ):
                twice.add(one.request_id)
            if any(span.from_ms <= one.started_at_ms < span.until_ms for span in theirs.covered):
                listed = found.of_groups.setdefault(_group(one, same), {})
                if len(listed) < LISTED_MAX:
                    listed[one.task_id, one.attempt] = one
        for request_id in twice:
            del found.of_requests[request_id]  # one row cannot be about two calls
        return found

    return await reading(desk.store, work)


def _group(one: Unknown, same: Same) -> Group:
    return one.started_at_ms // DAY_MS, one.provider, same(one.provider, one.model)


@dataclass(slots=True)
class _Settling:
    """Settles one attempt after another, and keeps our sums up with it."""

    desk: Desk
    shelf: Shelf
    known: dict[Group, Known]
    same: Same
    done: Reconciled
    export: Export
    dry_run: bool
    closed: set[tuple[str, int]] = field(default_factory=set)

    async def settle(self, match: Match) -> str | None:
        """Settle an attempt; return why it could not be."""
        unknown = match.unknown
        stream = await self.desk.store.read(unknown.task_id)
        event = account_of(stream, match, self.shelf)
        if isinstance(event, e.AttemptSettled) and not self.dry_run:
            self.desk.ports.passing("before reconcile")
            if not await settle(self.desk, unknown.task_id, stream, event):
                event = "it has been settled meanwhile"
        if isinstance(event, str):
            if match.by == "request_id":
                self.done.left[unknown.task_id, unknown.attempt] = Left(unknown, event)
            return event
        self.closed.add((unknown.task_id, unknown.attempt))
        self.done.left.pop((unknown.task_id, unknown.attempt), None)
        self.done.settled.append(Settled(match, event))
        self._count(unknown, event)
        return None

    async def rest(self, day: Day, unknown: Unknown, theirs: Theirs) -> Day:
        """Settle a day's one unknown attempt with the rest of the day, or say why not."""
        now_ms = self.desk.ports.now_ms()
        match = by_day(day, unknown, now_ms, self.export, theirs.covered)
        why = match if isinstance(match, str) else await self.settle(match)
        return replace(day, why=why)

    def _count(self, unknown: Unknown, event: e.AttemptSettled) -> None:
        known = self.known.get(_group(unknown, self.same))
        if known is None:
            return
        known.unknown -= 1
        known.cost_nano_usd += event.cost_nano_usd or 0
        known.exposure_nano_usd -= unknown.exposure_nano_usd or 0
        known.exposure_unknown -= unknown.exposure_nano_usd is None
        if event.usage and not unknown.counted:
            known.uncounted -= 1
            for name in COUNTS:
                known.counts[name] += sum(getattr(row, name) or 0 for row in event.usage)
