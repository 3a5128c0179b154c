"""What every store knows of money: what stands against a cap, and that no attempt begins that does not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ledger import events as e
from ledger.envelope import Append, Cap, NewEvent
from ledger.errors import VersionConflict
from ledger.store.protocol import CapReached, Spent, Store
from tests.contracts.appends import Clock, whole
from tests.histories import START_MS, History, failed, orphaned, request, settled, started, step, succeeded

__all__ = ["CapsContract"]

DAY_MS = 86_400_000
DAY = Cap("max_usd_per_day", 100)
TEAM = Cap("per_label.team=a", 100, label=("team", "a"))
OPUS = Cap("per_tier.opus", 100, tier="opus")
TASK = Cap("max_usd_per_task", 100, of_task=True)
HUGE = 2**63 - 1


def begun(
    task_id: str, bound: int | None, *caps: Cap, tier: Any = "flash", labels: dict[str, str] | None = None
) -> Append:
    """Make the append of a task that is submitted and starts an attempt that may cost so much."""
    at = step(tier)
    asked = request(tier=tier, route=(at,), labels=labels or {})
    history = History(asked).add(started(at=at, upper_bound_nano_usd=bound))
    return replace(whole(task_id, history), caps=caps)


def then(task_id: str, after: int, *events: e.Event, caps: Sequence[Cap] = ()) -> Append:
    """Make the append of further events."""
    news = tuple(NewEvent(f"{task_id}/{version}", event, "system") for version, event in enumerate(events, after + 1))
    return Append(task_id, after, news, caps=tuple(caps))


async def refusal(store: Store, append: Append) -> tuple[str, int, int | None, int, int | None, int]:
    """Return what one cap said of an append, of which nothing may be left."""
    before = await store.newest()
    with pytest.raises(CapReached) as reached:
        await store.append(append)
    (seen,) = reached.value.budgets
    assert (seen.position, await store.newest()) == (before, before)
    return seen.cap, seen.settled, seen.unknown, seen.reserved, seen.asked, seen.limit


class CapsContract:
    """The suite."""

    async def test_what_stands_against_a_cap(self, store: Store, clock: Clock) -> None:
        """A known cost as settled, a bound as reserved while the attempt runs and as unknown after it."""
        ends: dict[str, list[e.Event]] = {
            "runs": [],
            "paid": [succeeded(cost_nano_usd=7, exposure_nano_usd=None)],
            "lost": [failed(cost_nano_usd=None, exposure_nano_usd=20)],
            "orphan": [orphaned(exposure_nano_usd=300)],
            "late": [orphaned(exposure_nano_usd=300), settled(cost_nano_usd=11, exposure_nano_usd=None)],
            "free": [failed(cost_nano_usd=0)],
            "unpriced": [succeeded()],
        }
        for task_id, events in ends.items():
            await store.append(begun(task_id, 4_000, labels={"team": "a"}))
            if events:
                await store.append(then(task_id, 2, *events))
        await store.append(begun("another label", 5, labels={"team": "b"}, tier="opus"))
        clock.now_ms += DAY_MS
        await store.append(begun("tomorrow", 9, labels={"team": "a"}))
        assert await store.spent(DAY, "", START_MS) == Spent(18, 320, 4_005, 1)
        assert await store.spent(TEAM, "", START_MS) == Spent(18, 320, 4_000, 1)
        assert await store.spent(OPUS, "", START_MS) == Spent(0, 0, 5, 0)
        assert await store.spent(TASK, "lost", START_MS) == Spent(0, 20, 0, 0)
        assert await store.spent(DAY, "", START_MS + DAY_MS) == Spent(0, 0, 9, 0)
        assert await store.spent(DAY, "", START_MS - DAY_MS) == Spent()

    @pytest.mark.parametrize(
        ("cap", "counts"),
        [(DAY, True), (TEAM, True), (replace(TEAM, label=("team", "b")), False), (OPUS, True), (TASK, False)],
        ids=["day", "label", "another label", "tier", "another task"],
    )
    async def test_what_does_not_fit_is_not_begun(self, store: Store, cap: Cap, *, counts: bool) -> None:
        """Up to the last nano-dollar; of what is refused nothing is left but what was seen."""
        await store.append(begun("t", 60, tier="opus", labels={"team": "a"}))
        await store.append(then("t", 2, succeeded(cost_nano_usd=60)))
        more = begun("u", 41, cap, tier="opus", labels={"team": "a"})
        if counts:
            assert await refusal(store, more) == (cap.name, 60, 0, 0, 41, 100)
            more = begun("u", 40, cap, tier="opus", labels={"team": "a"})
        await store.append(more)
        assert len(await store.read("u")) == 2

    async def test_a_tasks_own_attempts_add_up(self, store: Store) -> None:
        """Settled, unknown and running ones of the same stream; an end in the start's own append counts, too."""
        await store.append(begun("t", 30, TASK))
        await store.append(then("t", 2, failed(cost_nano_usd=None, exposure_nano_usd=30)))
        for cap in (TASK, DAY):
            more = then("t", 3, started(2, upper_bound_nano_usd=71), caps=[cap])
            assert await refusal(store, more) == (cap.name, 0, 30, 0, 71, 100)
        await store.append(then("t", 3, started(2, upper_bound_nano_usd=70), caps=[TASK, DAY]))
        both = succeeded(2, cost_nano_usd=5), started(3, upper_bound_nano_usd=66)
        for cap in (TASK, DAY):
            assert await refusal(store, then("t", 4, *both, caps=[cap])) == (cap.name, 5, 30, 0, 66, 100)
        await store.append(then("t", 4, both[0], started(3, upper_bound_nano_usd=65), caps=[TASK, DAY]))

    async def test_a_day_is_that_of_the_start(self, store: Store, clock: Clock) -> None:
        """In UTC; yesterday's spending is no reason to refuse, and its late outcome is still yesterday's."""
        clock.now_ms = (START_MS // DAY_MS + 1) * DAY_MS - 1
        await store.append(begun("t", 100, DAY))
        assert (await refusal(store, begun("u", 1, DAY)))[3] == 100
        clock.now_ms += 1
        await store.append(begun("u", 100, DAY))
        await store.append(then("t", 2, succeeded(cost_nano_usd=100)))
        assert (await store.spent(DAY, "", clock.now_ms)).settled == 0

    async def test_what_has_no_price(self, store: Store) -> None:
        """It is refused, and so is everything beside it; unless it is allowed, which counts it as nothing."""
        allowed = replace(DAY, refuses_unpriced=False)
        assert await refusal(store, begun("t", None, DAY)) == (DAY.name, 0, 0, 0, None, 100)
        await store.append(begun("t", None, allowed))
        assert await refusal(store, begun("u", 1, DAY)) == (DAY.name, 0, None, 0, 1, 100)
        await store.append(begun("u", 100, allowed))
        assert await refusal(store, begun("v", 1, allowed)) == (DAY.name, 0, 0, 100, 1, 100)

    @pytest.mark.parametrize(("many", "fit"), [(1, 0), (5, 2), (40, 7), (60, 60), (12, 12)])
    async def test_of_many_at_once_as_many_begin_as_fit(self, store: Store, many: int, fit: int) -> None:
        """Within one group of appends as between them; the others tell what stood in their way."""
        cap = replace(DAY, limit_nano_usd=10 * fit + 9)
        appends = [begun(f"t{number}", 10, cap, TASK) for number in range(many)]
        outcomes = await asyncio.gather(*(store.append(append) for append in appends), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert {type(error) for error in refused} <= {CapReached}
        assert (many - fit, 10 * fit) == (len(refused), (await store.spent(DAY, "", START_MS)).reserved)
        for error in refused:
            (seen,) = error.budgets if isinstance(error, CapReached) else ()
            starts = [r for r in await store.page(0, seen.position) if r.type == "attempt.started"]
            assert seen.reserved == 10 * len(starts)

    async def test_a_cap_says_nothing_where_nothing_starts(self, store: Store) -> None:
        """An end, a start that ended in the same append, a submission; and a conflict is told before it."""
        full = replace(DAY, limit_nano_usd=0)
        await store.append(begun("t", 10))
        await store.append(then("t", 2, failed(cost_nano_usd=0), caps=[full]))
        await store.append(then("t", 3, started(2, upper_bound_nano_usd=9), failed(2, cost_nano_usd=0), caps=[full]))
        await store.append(replace(whole("u", History()), caps=(full,)))
        with pytest.raises(VersionConflict):
            await store.append(replace(begun("new", 9, full), task_id="t", expected_version=1))
        again = begun("t", 10, full)
        assert await store.append(again) == await store.read("t")

    async def test_sums_beyond_64_bits_are_no_overflow(self, store: Store) -> None:
        """They are more than any cap, and are said to be as much as can be written."""
        for number in range(3):
            await store.append(begun(f"t{number}", HUGE))
        assert (await store.spent(DAY, "", START_MS)).reserved == 3 * HUGE
        assert (await refusal(store, begun("u", 1, DAY)))[3] == HUGE
