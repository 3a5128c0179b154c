"""What every store does, wherever it keeps things.

A store joins by a subclass of ``StoreContract`` with a fixture ``store``, whose clock is the fixture ``clock``; see
``test_stores.py``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ledger.envelope import FIRST_PREV_HASH, Append, Payload
from ledger.errors import EventInvalid, LedgerError, VersionConflict
from ledger.store.projection import project_stream
from ledger.store.protocol import KeyTaken, Projected, Store, TaskQuery
from tests.contracts.appends import Clock, submission, task, tick, ticks, whole
from tests.contracts.caps_contract import CapsContract
from tests.contracts.workers_contract import WorkersContract
from tests.histories import START_MS, History, request, step

__all__ = ["Clock", "StoreContract", "submission", "task", "tick", "whole"]


class StoreContract(WorkersContract, CapsContract):
    """The suite."""

    async def test_a_new_ledger_is_empty(self, store: Store) -> None:
        """Nothing there is (), None or nothing found, and never an error."""
        assert await store.read("t") == ()
        assert await store.payload("t", "prompt") is None
        assert await store.payloads("t") == ()
        assert await store.task_of_key(b"k" * 32) is None
        assert await store.page(0, 10) == ()
        assert await store.streams(("", 0), 10) == ()
        assert await store.find("t") == ()
        assert await store.tasks(TaskQuery()) == ()
        assert await store.projected("t") == Projected()
        assert await store.projected_task_ids("", 10) == ()
        assert await store.check() == ()

    async def test_append_returns_the_stream(self, store: Store) -> None:
        """The whole stream as it stands, old events and new, linked and hashed."""
        first = await store.append(ticks("s", 0, 2))
        both = await store.append(ticks("s", 2))
        assert both[:2] == first
        assert both == await store.read("s")
        assert [1, 2, 3] == [recorded.version for recorded in both] == [recorded.position for recorded in both]
        assert [FIRST_PREV_HASH, both[0].hash, both[1].hash] == [recorded.prev_hash for recorded in both]
        assert all(recorded.hash == recorded.computed_hash() for recorded in both)
        assert both[2].event() == tick("s", 3).event

    async def test_a_stale_version_is_a_conflict(self, store: Store) -> None:
        """Too low and too high alike, and nothing is written."""
        stream = await store.append(ticks("s", 0, 2))
        for expected in (0, 1, 3):
            stale = Append("s", expected, (tick("other", expected),))
            with pytest.raises(VersionConflict):
                await store.append(stale)
        assert stream == await store.read("s") == await store.page(0, 10)

    async def test_what_a_caller_claims_to_know_changes_nothing(self, store: Store) -> None:
        """The right stream, an older one, another one, one that never was: what is stored is told, side by side too."""
        first = await store.append(ticks("s", 0))
        other = await store.append(ticks("other", 0))
        both = await store.append(replace(ticks("s", 1), known=first))
        forged = (first[0], first[0]._replace(version=2, event_id="s/2", hash=bytes(32)))
        for claim in (both, first, other, forged):
            assert both == await store.append(replace(ticks("s", 1), known=claim))
            with pytest.raises(VersionConflict):
                await store.append(replace(ticks("s", 1, mark="late"), known=claim))
        claims = {"a": (), "b": first, "c": forged, "other": other}
        goes_on = [ticks("s", 2), *(ticks(name, int(name == "other")) for name in claims)]
        claiming = [replace(append, known=claims.get(append.task_id, both)) for append in goes_on]
        told = await asyncio.gather(*(store.append(append) for append in claiming))
        assert told == [await store.read(append.task_id) for append in goes_on]
        assert [3, 1, 1, 1, 2] == [len(stream) for stream in told]

    async def test_a_repeated_append_succeeds_once(self, store: Store) -> None:
        """After a lost acknowledgement the same append gives the stream and writes nothing, even behind others."""
        payload = Payload("prompt", b"salt", b"text")
        append = replace(submission("t"), payloads=(payload,), key_digest=b"k" * 32)
        first = await store.append(append)
        assert first == await store.append(append)
        longer = await store.append(Append("t", 1, (tick("t", 2),)))
        assert longer == await store.append(append)
        assert longer == await store.page(0, 10)
        assert (payload,) == await store.payloads("t")

    async def test_a_repeated_append_keeps_its_time(self, store: Store, clock: Clock) -> None:
        """The clock of the repetition is nobody's business."""
        first = await store.append(ticks("s", 0))
        clock.now_ms += 60_000
        assert first == await store.append(ticks("s", 0))

    async def test_another_event_under_the_same_id_is_no_repetition(self, store: Store) -> None:
        """Same ids, other content: a conflict."""
        await store.append(ticks("s", 0, mark="one"))
        with pytest.raises(VersionConflict):
            await store.append(ticks("s", 0, mark="two"))

    async def test_a_longer_append_is_no_repetition(self, store: Store) -> None:
        """The same beginning with more behind it is a conflict, so that the caller reads again."""
        await store.append(ticks("s", 0, 1))
        with pytest.raises(VersionConflict):
            await store.append(ticks("s", 0, 2))

    async def test_an_event_id_is_used_once(self, store: Store) -> None:
        """An id of another stream, or twice in one append, is refused; nothing is written."""
        await store.append(ticks("s", 0))
        with pytest.raises(EventInvalid):
            await store.append(Append("t", 0, (tick("t", 1), tick("s", 1))))
        with pytest.raises(EventInvalid):
            await store.append(Append("t", 0, (tick("t", 1), tick("t", 1))))
        assert await store.read("t") == ()

    async def test_a_slot_is_written_once(self, store: Store) -> None:
        """A text is never replaced, and what would replace it is not written either."""
        payload = Payload("prompt", b"salt", b"text")
        await store.append(replace(ticks("s", 0), payloads=(payload,)))
        with pytest.raises(EventInvalid):
            await store.append(replace(ticks("s", 1), payloads=(Payload("prompt", b"salt", b"other"),)))
        assert (1, payload) == (len(await store.read("s")), await store.payload("s", "prompt"))

    @pytest.mark.parametrize(
        "append",
        [
            pytest.param(Append("t", 0, ()), id="no event"),
            pytest.param(Append("", 0, (tick("t", 1),)), id="no task"),
            pytest.param(Append("t", -1, (tick("t", 1),)), id="a version before the first"),
            pytest.param(Append("\ud800", 0, (tick("t", 1),)), id="half a character in the task's id"),
            pytest.param(Append("t", 0, (replace(tick("t", 1), actor="\udfff"),)), id="half a character in the actor"),
            pytest.param(ticks("t", 0, mark="\ud800"), id="half a character in the event"),
        ],
    )
    async def test_what_cannot_be_kept_is_refused(self, store: Store, append: Append) -> None:
        """Refused before anything is written."""
        with pytest.raises(EventInvalid):
            await store.append(append)
        assert await store.page(0, 10) == ()

    async def test_a_key_names_one_task(self, store: Store) -> None:
        """A second task under the key is told whose it is, and leaves nothing behind."""
        key = b"k" * 32
        await store.append(replace(submission("t"), key_digest=key))
        with pytest.raises(KeyTaken) as taken:
            await store.append(replace(submission("u"), key_digest=key, payloads=(Payload("p", b"", b""),)))
        assert taken.value.task_id == "t" == await store.task_of_key(key)
        assert ((), ()) == (await store.read("u"), await store.payloads("u"))

    async def test_a_taken_key_matters_more_than_a_stale_version(self, store: Store) -> None:
        """With both wrong, the task that the key names is the answer."""
        key = b"k" * 32
        await store.append(replace(submission("t"), key_digest=key))
        await store.append(ticks("s", 0))
        with pytest.raises(KeyTaken):
            await store.append(Append("s", 0, (tick("s", 2),), key_digest=key))

    async def test_a_key_may_come_again_to_its_own_task(self, store: Store) -> None:
        """The same key with a later append of the same task changes nothing about the key."""
        key = b"k" * 32
        await store.append(replace(ticks("s", 0), key_digest=key))
        await store.append(replace(ticks("s", 1), key_digest=key))
        assert await store.task_of_key(key) == "s"

    async def test_the_salt_of_the_keys_stays(self, store: Store) -> None:
        """Long enough, and the same whenever it is asked for."""
        salt = await store.key_salt()
        assert len(salt) >= 16
        assert salt == await store.key_salt()

    async def test_payloads_are_byte_exact(self, store: Store) -> None:
        """Whatever they contain, and by slot."""
        texts = (Payload("b", bytes(range(256)), "é\0😀\n".encode()), Payload("a", b"", b""))
        await store.append(replace(ticks("s", 0), payloads=texts))
        assert (texts[1], texts[0]) == await store.payloads("s")
        assert texts[0] == await store.payload("s", "b")

    async def test_time_never_runs_backwards_in_a_stream(self, store: Store, clock: Clock) -> None:
        """A clock that is set back is held at the stream's last event; other streams take it as it is."""
        await store.append(ticks("s", 0))
        clock.now_ms -= 5000
        await store.append(ticks("s", 1))
        clock.now_ms += 6000
        times = [recorded.recorded_at_ms for recorded in await store.append(ticks("s", 2))]
        assert [START_MS, START_MS, START_MS + 1000] == times
        clock.now_ms = 5
        (recorded,) = await store.append(ticks("other", 0))
        assert recorded.recorded_at_ms == 5

    async def test_pages_follow_positions(self, store: Store) -> None:
        """Page by page in the order of appending, whatever the streams; past the end there is nothing."""
        assert await store.newest() == 0
        for number in range(3):
            await store.append(ticks("b", number))
            await store.append(ticks("a", number))
        assert await store.newest() == 6
        first = await store.page(0, 4)
        rest = await store.page(first[-1].position, 4)
        assert [1, 2, 3, 4, 5, 6] == [recorded.position for recorded in (*first, *rest)]
        assert ["b", "a"] * 3 == [recorded.task_id for recorded in (*first, *rest)]
        assert await store.page(6, 4) == ()

    async def test_streams_follow_tasks(self, store: Store) -> None:
        """Page by page in the order of task and version."""
        for number in range(3):
            await store.append(ticks("b", number))
            await store.append(ticks("a", number))
        first = await store.streams(("", 0), 4)
        rest = await store.streams((first[-1].task_id, first[-1].version), 4)
        expected = [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3)]
        assert expected == [(recorded.task_id, recorded.version) for recorded in (*first, *rest)]

    async def test_rows_are_what_the_events_say(self, store: Store) -> None:
        """The projections of a task are those of its folded stream, whether it grew at once or step by step."""
        at_once = await store.append(task("t"))
        assert project_stream(at_once) == await store.projected("t")
        append = task("u")
        for number, event in enumerate(append.events):
            await store.append(Append("u", number, (event,)))
            assert project_stream(await store.read("u")) == await store.projected("u")
        assert ("t", "u") == await store.projected_task_ids("", 10)
        assert ("u",) == await store.projected_task_ids("t", 10) == (await store.projected_task_ids("", 2))[1:]

    async def test_a_late_answer_is_judged(self, store: Store) -> None:
        """An answer that comes while the task waits for a person ends the wait, in the rows as in the fold."""
        judged = request(judge=(step("sonnet", 1),), policy=request().policy.model_copy(update={"on_unknown": "hold"}))
        history = History(judged).start().orphan()
        await store.append(whole("t", history))
        held = (await store.projected("t")).tasks[0]
        await store.append(whole("t", history.settle(1), after=4))
        pending = (await store.projected("t")).tasks[0]
        assert [("waiting", "person"), ("pending", None)] == [
            (row["state"], row["waiting_for"]) for row in (held, pending)
        ]

    async def test_other_streams_are_no_tasks(self, store: Store) -> None:
        """Breakers, price books and anchors are in no projection and not found as tasks."""
        await store.append(ticks("breaker:p/m", 0))
        assert ((), ()) == (await store.projected_task_ids("", 10), await store.find("breaker"))

    @pytest.mark.parametrize(
        ("part", "expected"),
        [
            pytest.param("ab", ("abcd", "abxd"), id="begin so: at most two"),
            pytest.param("abc", ("abcd",), id="one begins so"),
            pytest.param("xd", ("abxd",), id="one ends so"),
            pytest.param("%", (), id="no wildcard"),
            pytest.param("q%", ("q%_r",), id="a wildcard's sign as it is"),
            pytest.param("AB", (), id="case matters"),
            pytest.param("zz", ("zz",), id="a whole id is alone, though another begins so"),
            pytest.param("abcdabcd", (), id="longer than any"),
        ],
    )
    async def test_a_part_finds_its_task(self, store: Store, part: str, expected: tuple[str, ...]) -> None:
        """By the beginning or the end, two where there are more than one."""
        for task_id in ("abcd", "abxd", "abyd", "q%_r", "zz", "zzz"):
            await store.append(submission(task_id))
        assert expected == await store.find(part)

    @pytest.mark.parametrize("text", ["a\0b", "\ud800", "'; DROP TABLE events; --", "%"])
    async def test_nothing_has_a_name_that_none_can_have(self, store: Store, text: str) -> None:
        """What no store can hold is found nowhere, and that is no failure of the store."""
        await store.append(submission("a", labels={"team": "b"}))
        assert () == tuple(await store.find(text))
        assert () == tuple(await store.read(text))
        for labels in ({"team": text}, {text: "b"}, {"subject": text}):
            assert () == tuple(await store.tasks(TaskQuery(labels=labels)))

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            pytest.param(TaskQuery(), ["e", "d", "c", "b", "a"], id="all, newest first"),
            pytest.param(TaskQuery(limit=2), ["e", "d"], id="a page"),
            pytest.param(TaskQuery(limit=2, after=(START_MS + 2, "d")), ["c", "b"], id="the next page"),
            pytest.param(TaskQuery(after=(START_MS + 1, "c")), ["b", "a"], id="ties go by id"),
            pytest.param(TaskQuery(limit=0), [], id="none"),
            pytest.param(TaskQuery(state="succeeded"), ["e"], id="by state"),
            pytest.param(TaskQuery(state="pending", limit=3), ["d", "c", "b"], id="by state, over all tiers"),
            pytest.param(TaskQuery(state="pending", after=(START_MS + 1, "c")), ["b", "a"], id="by state, a next page"),
            pytest.param(TaskQuery(state="pending", tier="opus"), ["b"], id="by state and tier"),
            pytest.param(TaskQuery(labels={"team": "x"}, after=(START_MS + 1, "c")), ["a"], id="by label, a next page"),
            pytest.param(TaskQuery(labels={"team": "x"}, tier="opus"), [], id="by label and tier"),
            pytest.param(TaskQuery(labels={"team": "x"}, since_ms=START_MS + 1), ["c"], id="by label and time"),
            pytest.param(TaskQuery(labels={"subject": "Ada", "team": "x"}), [], id="by both kinds of label"),
            pytest.param(TaskQuery(tier="opus"), ["b"], id="by the tier asked for"),
            pytest.param(TaskQuery(since_ms=START_MS + 2), ["e", "d"], id="by time"),
            pytest.param(TaskQuery(labels={"team": "x"}), ["c", "a"], id="by label"),
            pytest.param(TaskQuery(labels={"team": "x", "app": "y"}), ["c"], id="by two labels"),
            pytest.param(TaskQuery(labels={"subject": "Ada"}), ["d"], id="by the label that can be erased"),
            pytest.param(TaskQuery(labels={"team": "x"}, state="pending", tier="flash", limit=1), ["c"], id="by all"),
        ],
    )
    async def test_tasks_are_listed(self, store: Store, clock: Clock, query: TaskQuery, expected: list[str]) -> None:
        """Newest first, filtered, page by page."""
        await store.append(submission("a", labels={"team": "x"}))
        await store.append(submission("b", route=(step("opus"),), labels={"team": "y"}))
        clock.now_ms += 1
        await store.append(submission("c", labels={"team": "x", "app": "y"}))
        clock.now_ms += 1
        await store.append(replace(submission("d"), payloads=(Payload("subject", b"", b"Ada"),)))
        clock.now_ms += 1
        await store.append(whole("e", History().start().succeed()))
        assert expected == [row["task_id"] for row in await store.tasks(query)]

    async def test_rows_of_tasks_are_whole(self, store: Store) -> None:
        """A listed row is the task's projected row."""
        await store.append(task("t"))
        assert (await store.projected("t")).tasks == await store.tasks(TaskQuery())

    async def test_many_append_at_once(self, store: Store) -> None:
        """Two hundred callers, each on its own stream: every event lands, every answer is its own."""
        streams = await asyncio.gather(*(store.append(ticks(f"s{number}", 0)) for number in range(200)))
        assert [(f"s{number}/1",) for number in range(200)] == [
            tuple(recorded.event_id for recorded in stream) for stream in streams
        ]
        assert list(range(1, 201)) == [recorded.position for recorded in await store.page(0, 300)]

    async def test_rivals_on_one_stream(self, store: Store) -> None:
        """Of many that expect the same version one wins; the others are told, and win when they have read again."""

        async def persist(name: str) -> None:
            while True:
                version = len(await store.read("s"))
                try:
                    await store.append(Append("s", version, (tick(name, 1),)))
                except VersionConflict:
                    continue
                return

        await asyncio.gather(*(persist(f"rival-{number}") for number in range(12)))
        stream = await store.read("s")
        assert {f"rival-{number}/1" for number in range(12)} == {recorded.event_id for recorded in stream}
        assert list(range(1, 13)) == [recorded.version for recorded in stream]

    async def test_a_loser_costs_its_neighbours_nothing(self, store: Store) -> None:
        """Stale versions, taken keys and used ids among a hundred appends at the same instant: only they fail."""
        key = b"k" * 32
        await store.append(replace(ticks("old", 0), key_digest=key))
        await store.append(ticks("older", 0))
        appends = [ticks(f"s{number}", 0) for number in range(100)]
        appends[10] = Append("old", 0, (tick("s10", 1),))
        appends[20] = replace(appends[20], key_digest=key)
        appends[30] = Append("s30", 0, (tick("old", 1),))
        appends[40] = replace(appends[40], payloads=(Payload("p", b"", b""), Payload("p", b"", b"")))
        appends[50] = ticks("s50", 0, mark="\ud800")
        appends[60] = ticks("older", 0, mark="\ud800")
        outcomes = await asyncio.gather(*(store.append(append) for append in appends), return_exceptions=True)
        failed = {number: type(outcome) for number, outcome in enumerate(outcomes) if isinstance(outcome, Exception)}
        assert failed == {
            10: VersionConflict,
            20: KeyTaken,
            **dict.fromkeys((30, 40, 50, 60), EventInvalid),
        }
        assert len(await store.page(0, 200)) == 96

    async def test_one_key_wanted_by_many_at_once(self, store: Store) -> None:
        """The first gets it, the others are told whose it is."""
        wanting = [replace(submission(f"t{number}"), key_digest=b"k" * 32) for number in range(10)]
        outcomes = await asyncio.gather(*(store.append(append) for append in wanting), return_exceptions=True)
        losers = [outcome.task_id for outcome in outcomes if isinstance(outcome, KeyTaken)]
        assert [await store.task_of_key(b"k" * 32)] * 9 == losers
        assert len(await store.page(0, 100)) == 1

    async def test_one_stream_in_order(self, store: Store) -> None:
        """Appends to one stream that are handed over at once, in order, all succeed."""
        streams = await asyncio.gather(*(store.append(ticks("s", number)) for number in range(20)))
        assert list(range(1, 21)) == [len(stream) for stream in streams]

    async def test_a_cancelled_caller(self, store: Store) -> None:
        """Whether its append landed or not, the same append again succeeds, and it is there once."""
        for turns in range(8):
            append = ticks(f"s{turns}", 0)
            caller = asyncio.create_task(store.append(append))
            for _ in range(turns):
                await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait((caller,))
            assert len(await store.append(append)) == 1
        assert len(await store.page(0, 100)) == 8

    async def test_a_closed_store_refuses(self, store: Store) -> None:
        """After closing nothing is read or written, and closing again does nothing."""
        await store.aclose()
        with pytest.raises(LedgerError):
            await store.append(ticks("s", 0))
        with pytest.raises(LedgerError):
            await store.read("s")
        await store.aclose()
