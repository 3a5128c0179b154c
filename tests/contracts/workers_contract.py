"""What every store knows of workers: who lives, who is about to start what, and how much may be in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Append, Limit, NewEvent
from ledger.errors import VersionConflict
from ledger.store.protocol import KeyTaken, LimitReached, Store, TaskQuery, Worker
from tests.contracts.appends import Clock, start, ticks, whole
from tests.histories import START_MS, History, failed, orphaned, policy, request, settled, started, step, succeeded

__all__ = ["WorkersContract"]

DAY_MS = 86_400_000
FOR_MS = 30_000
HOLDS = policy(on_unknown="hold")
LIMIT = Limit("simulated", 1)


def released() -> History:
    """Make a task that a person has let go on."""
    history = History(request(policy=HOLDS, owner="dead")).start("dead").orphan()
    history.do(c.Release(history.seen()))
    return history


TASKS: dict[str, Callable[[], History]] = {
    "nobody's": History,
    "ready": lambda: History(request(owner="dead")),
    "running": lambda: History(request(owner="another")).start("dead"),
    "retries": lambda: History(request(owner="dead")).start("dead").fail(),
    "braked": lambda: History(request(owner="dead", route=(step(),))).brake(),
    "fell back": lambda: History().start("dead").fail("authentication"),
    "held": lambda: History(request(policy=HOLDS, owner="dead")).start("dead").orphan(),
    "released": released,
    "ended": lambda: History(request(owner="dead")).start("dead").succeed(),
    "another's": lambda: History().start("dead").fail("authentication").start("living"),
}
"""Tasks in all states. ``retries`` does so a second after START_MS, ``braked`` waits for five."""


async def put(store: Store, task_id: str, history: History) -> None:
    """Append a whole history."""
    await store.append(whole(task_id, history))


async def put_all(store: Store) -> None:
    """Append all of ``TASKS``."""
    for task_id, build in TASKS.items():
        await put(store, task_id, build())


def more(task_id: str, after: int, *events: e.Event, limits: Iterable[Limit] = ()) -> Append:
    """Make the append of further events."""
    news = tuple(NewEvent(f"{task_id}/{version}", event, "system") for version, event in enumerate(events, after + 1))
    return Append(task_id, after, news, limits=tuple(limits))


async def refused(store: Store, appends: Sequence[Append]) -> list[int]:
    """Append all at the same instant and return the numbers of those for which there was no place."""
    outcomes = await asyncio.gather(*(store.append(append) for append in appends), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {tuple, LimitReached}
    return [number for number, outcome in enumerate(outcomes) if isinstance(outcome, LimitReached)]


class WorkersContract:
    """The suite."""

    async def test_a_worker_lives_while_it_beats(self, store: Store, clock: Clock) -> None:
        """Its beats are counted and its silence measured, by the store's clock; who leaves was never there."""
        assert await store.workers() == ()
        await store.beat("b")
        await store.beat("a")
        clock.now_ms += 4000
        await store.beat("b")
        clock.now_ms += 1000
        assert await store.workers() == (Worker("a", 1, 5000), Worker("b", 2, 1000))
        await store.leave("a")
        await store.leave("nobody")
        clock.now_ms -= 3000
        assert await store.workers() == (Worker("b", 2, -2000),)
        await store.leave("b")
        await store.beat("b")
        assert await store.workers() == (Worker("b", 1, 0),)

    async def test_leases_have_a_clock(self, store: Store, clock: Clock) -> None:
        """The instant by which claims end."""
        assert await store.now_ms() == clock.now_ms
        clock.now_ms -= DAY_MS
        assert await store.now_ms() == clock.now_ms

    async def test_open_tasks_have_owners(self, store: Store) -> None:
        """Everybody who has an open task that waits for no person, once; nobody comes first."""
        assert await store.owners() == ()
        for task_id in ("ended", "held"):
            await put(store, task_id, TASKS[task_id]())
        assert await store.owners() == ()
        for task_id in ("ready", "running", "another's"):
            await put(store, task_id, TASKS[task_id]())
        assert await store.owners() == ("dead", "living")
        await put(store, "released", released())
        assert await store.owners() == (None, "dead", "living")

    @pytest.mark.parametrize(
        ("later_ms", "owners", "expected"),
        [
            pytest.param(0, ["dead"], {"ready", "running", "fell back"}, id="what may go on"),
            pytest.param(999, ["dead"], {"ready", "running", "fell back"}, id="not yet"),
            pytest.param(1000, ["dead"], {"ready", "running", "fell back", "retries"}, id="a wait is over"),
            pytest.param(5000, ["dead"], {"ready", "running", "fell back", "retries", "braked"}, id="both are"),
            pytest.param(-60_000, ["dead"], {"ready", "running", "fell back"}, id="the clock was set right"),
            pytest.param(
                -DAY_MS, ["dead"], {"ready", "running", "fell back", "retries", "braked"}, id="the clock was set back"
            ),
            pytest.param(0, [None], {"nobody's", "released"}, id="nobody's"),
            pytest.param(0, ["living", None], {"nobody's", "released", "another's"}, id="of several"),
            pytest.param(0, ["living", "living"], {"another's"}, id="an owner twice"),
            pytest.param(0, ["a stranger"], set(), id="of a stranger"),
            pytest.param(DAY_MS, [], set(), id="of no owner"),
        ],
    )
    async def test_what_is_due_is_claimed(
        self, store: Store, clock: Clock, later_ms: int, owners: list[str | None], expected: set[str]
    ) -> None:
        """Open, of these owners, waiting neither for a person nor for a later instant."""
        await put_all(store)
        clock.now_ms += later_ms
        claimed = await store.claim("w", owners, 100, FOR_MS)
        assert (len(expected), expected) == (len(claimed), set(claimed))

    @pytest.mark.parametrize("limit", [-1, 0, 1, 2, 3, 4, 5, 6, 7])
    async def test_the_oldest_come_first(self, store: Store, clock: Clock, limit: int) -> None:
        """Waits by their instant, ready tasks since they were submitted; whatever their owner, a few of them too."""
        await put(store, "b", TASKS["ready"]())
        await put(store, "c", TASKS["retries"]())
        clock.now_ms += 500
        await put(store, "d", TASKS["nobody's"]())
        await put(store, "a", TASKS["braked"]())
        clock.now_ms += 1000
        await put(store, "e", TASKS["ready"]())
        clock.now_ms = START_MS + 9000
        await put(store, "f", TASKS["ready"]())
        expected = ["b", "d", "c", "e", "a", "f"]
        assert expected[: max(limit, 0)] == list(await store.claim("w", ["dead", None], limit, FOR_MS))

    async def test_a_claim_keeps_others_off(self, store: Store, clock: Clock) -> None:
        """Until it is over, given back, or its worker leaves; the worker itself may have it again."""
        for task_id in "abcd":
            await put(store, task_id, History())
        assert await store.claim("w", [None], 2, FOR_MS) == ("a", "b")
        assert await store.claim("v", [None], 9, FOR_MS) == ("c", "d")
        assert await store.claim("w", [None], 9, FOR_MS) == ("a", "b")
        await store.unclaim("v", ["b", "c", "none"])
        assert await store.claim("u", [None], 9, FOR_MS) == ("c",)
        await store.leave("w")
        assert await store.claim("t", [None], 9, 1) == ("a", "b")
        clock.now_ms += FOR_MS - 1
        assert await store.claim("s", [None], 9, FOR_MS) == ("a", "b")
        clock.now_ms += 1
        assert await store.claim("r", [None], 9, FOR_MS) == ("c", "d")

    async def test_a_claim_from_the_future_is_void(self, store: Store, clock: Clock) -> None:
        """A clock that is set back by a day makes nobody wait for a day, one that is set right changes nothing."""
        await put(store, "t", History())
        await store.claim("w", [None], 1, FOR_MS)
        clock.now_ms -= 60_000
        assert await store.claim("v", [None], 1, FOR_MS) == ()
        clock.now_ms -= 1
        assert await store.claim("v", [None], 1, FOR_MS) == ("t",)

    async def test_claimers_at_once(self, store: Store) -> None:
        """No task is given to two; what all of them passed over is there for the next."""
        for number in range(30):
            await put(store, f"t{number:02}", History())
        claimed = await asyncio.gather(*(store.claim(f"w{number}", [None], 4, FOR_MS) for number in range(8)))
        claimed.append(await store.claim("the next", [None], 30, FOR_MS))
        assert [f"t{number:02}" for number in range(30)] == sorted(task_id for mine in claimed for task_id in mine)

    async def test_attempts_that_ended(self, store: Store, clock: Clock) -> None:
        """Of one provider's model, the last to end first: what a breaker looks at."""
        for number, task_id in enumerate("bac"):
            clock.now_ms = START_MS + number // 2
            await store.append(start(task_id))
            await store.append(more(task_id, 2, failed()))
        await store.append(start("other model", model="opus"))
        await store.append(more("other model", 2, failed()))
        await store.append(start("other provider", provider="other"))
        await store.append(more("other provider", 2, failed()))
        await store.append(start("running"))
        await store.append(more("c", 3, started(2), succeeded(2), started(3), orphaned(3), settled(3)))
        ended = await store.ended_attempts("simulated", "flash", 9)
        expected = [
            ("c", 3, "settled"),
            ("c", 2, "succeeded"),
            ("c", 1, "failed"),
            ("b", 1, "failed"),
            ("a", 1, "failed"),
        ]
        assert expected == [(row["task_id"], row["attempt"], row["state"]) for row in ended]
        assert (await store.projected("b")).attempts[0] == ended[3]
        assert ended[:2] == await store.ended_attempts("simulated", "flash", 2)
        assert await store.ended_attempts("simulated", "flash", 0) == ()
        assert await store.ended_attempts("nobody", "flash", 9) == ()

    @pytest.mark.parametrize(("many", "most"), [(1, 0), (1, 1), (5, 2), (40, 7), (60, 48), (60, 49), (12, 12), (3, 20)])
    async def test_exactly_as_many_start(self, store: Store, many: int, most: int) -> None:
        """Of many starts at one instant as many get in as may be in flight; of the others nothing is left."""
        limit = Limit("simulated", most)
        losers = await refused(store, [start(f"t{number}", limit) for number in range(many)])
        assert len(losers) == max(many - most, 0)
        assert [1] * min(many, most) == [row["attempts"] for row in await store.tasks(TaskQuery())]
        with pytest.raises(LimitReached) as told:
            await store.append(start("late", Limit("simulated", min(many, most), grace_ms=9)))
        assert told.value.limit == Limit("simulated", min(many, most), grace_ms=9)

    @pytest.mark.parametrize(
        "events",
        [
            pytest.param([succeeded()], id="answered"),
            pytest.param([failed()], id="failed"),
            pytest.param([orphaned()], id="orphaned"),
            pytest.param([orphaned(), settled()], id="settled"),
        ],
    )
    async def test_an_end_frees_a_place(self, store: Store, events: list[e.Event]) -> None:
        """Whatever the end, at once, and also for a start that comes at the same instant but behind it."""
        await store.append(start("t", LIMIT))
        assert await refused(store, [start("u", LIMIT)]) == [0]
        assert await refused(store, [start("u", LIMIT), more("t", 2, *events), start("v", LIMIT)]) == [0]
        assert await refused(store, [start("w", LIMIT)]) == [0]

    async def test_an_attempt_beyond_its_deadline_takes_no_place(self, store: Store, clock: Clock) -> None:
        """Its lease is over: whoever called has died, or ends the call by itself."""
        await store.append(start("t", deadline_ms=START_MS + 1000))
        generous = replace(LIMIT, grace_ms=500)
        clock.now_ms += 999
        assert await refused(store, [start("a", LIMIT), start("b", generous)]) == [0, 1]
        clock.now_ms += 1
        assert await refused(store, [start("b", generous)]) == [0]
        assert await refused(store, [start("a", LIMIT, deadline_ms=START_MS + 1001)]) == []
        clock.now_ms += 499
        assert await refused(store, [start("b", generous)]) == [0]
        clock.now_ms += 2
        assert await refused(store, [start("b", generous, deadline_ms=1)]) == []

    async def test_a_limit_is_a_providers_or_a_models(self, store: Store) -> None:
        """Others do not count, and the first limit that is reached is told."""
        of_model, of_provider = Limit("simulated", 1, "flash"), Limit("simulated", 2)
        await store.append(start("a", of_model, of_provider))
        await store.append(start("b", Limit("other", 1), provider="other"))
        assert await refused(store, [start("c", of_model, of_provider)]) == [0]
        await store.append(start("d", Limit("simulated", 1, "opus"), of_provider, model="opus"))
        with pytest.raises(LimitReached) as told:
            await store.append(start("e", Limit("simulated", 1, "haiku"), of_provider, model="haiku"))
        assert told.value.limit == of_provider
        await store.append(start("f", of_model, of_provider, provider="third"))

    async def test_a_repeated_start_is_no_new_one(self, store: Store) -> None:
        """After a lost acknowledgement the limit may be reached by the very attempt."""
        first = await store.append(start("t", LIMIT))
        assert first == await store.append(start("t", LIMIT))
        await store.append(more("t", 2, failed()))
        again = more("t", 3, started(2), limits=[LIMIT])
        assert await store.append(again) == await store.append(again)

    async def test_a_repeated_start_among_others(self, store: Store) -> None:
        """It takes one place and not two, also for those that come at the same instant."""
        limit = replace(LIMIT, most=2)
        await store.append(start("t", limit))
        assert await refused(store, [start("t", limit), start("u", limit), start("v", limit)]) == [2]
        assert await refused(store, [start("v", limit), start("t", limit), start("u", limit)]) == [0]

    async def test_limits_say_nothing_where_nothing_starts(self, store: Store) -> None:
        """Outcomes and submissions get in when all places are taken, and so does a start that has failed already."""
        full = replace(LIMIT, most=0)
        await store.append(start("t"))
        await store.append(replace(whole("u", History()), limits=(full,)))
        await store.append(more("u", 1, started(), failed(), limits=[full]))
        await store.append(more("t", 2, failed(), limits=[full]))
        await store.append(replace(ticks("s", 0), limits=(full,)))
        assert ["failed", "failed"] == [(await store.projected(task)).attempts[0]["state"] for task in "tu"]

    async def test_an_attempt_follows_in_its_own_place(self, store: Store) -> None:
        """An append that ends an attempt and starts the next needs no second place."""
        await store.append(start("t", LIMIT))
        await store.append(more("t", 2, failed(), started(2), limits=[LIMIT]))
        assert await refused(store, [start("u", LIMIT), more("t", 4, started(3), limits=[LIMIT])]) == [0, 1]

    async def test_a_limit_is_told_last(self, store: Store) -> None:
        """A key that names another task, or a stream that has moved on, is the better answer."""
        await store.append(replace(start("t", LIMIT), key_digest=b"k" * 32))
        with pytest.raises(KeyTaken):
            await store.append(replace(start("u", LIMIT), key_digest=b"k" * 32))
        with pytest.raises(VersionConflict):
            await store.append(replace(start("t", LIMIT), events=start("v").events))
        with pytest.raises(VersionConflict):
            await store.append(more("t", 1, started(2), limits=[LIMIT]))

    async def test_a_limit_costs_its_neighbours_nothing(self, store: Store) -> None:
        """Of many appends at one instant only the starts too many are refused; key and texts of theirs are free."""
        limit = Limit("simulated", 3)
        appends = [start(f"t{number}", limit) if number % 5 == 0 else ticks(f"s{number}", 0) for number in range(40)]
        appends[15] = replace(appends[15], key_digest=b"k" * 32)
        assert await refused(store, appends) == [15, 20, 25, 30, 35]
        assert len(await store.page(0, 100)) == 3 * 2 + 32
        assert await store.task_of_key(b"k" * 32) is None
        await store.append(replace(start("t15"), key_digest=b"k" * 32))
