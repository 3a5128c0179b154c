"""``verify`` against people who change a ledger by hand: whatever they do behind the guards is found."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger
from ledger import commands as c
from ledger.audit import Report, verify
from ledger.audit.decisions import misplaced
from ledger.envelope import Append, NewEvent, Recorded, Stream, event_hash
from ledger.events import Event, ValidationErrored, ValidationFailed, ValidationPassed
from ledger.evolve import evolve
from ledger.parts import Decision, Judgement
from ledger.state import INITIAL, State
from ledger.store.memory import MemoryStore
from ledger.store.protocol import Projected, Store
from ledger.system_events import BreakerClosed, BreakerOpened
from ledger.upcasting import decode
from tests.histories import START_MS, History, brake, failed, request, step, validation
from tests.world import World, answer, fail

FIELDS: Final = ("event_id", "task_id", "version", "type", "schema_version", "recorded_at_ms", "actor", "fence")
KEYED: Final = "(SELECT task_id FROM tasks WHERE idempotency_key = 'key')"
"""A task of flash: overloaded, tried again, a timeout, handed over to haiku, answered."""
FUZZED: Final = 60

Change = Callable[[sqlite3.Connection], object]


async def write(folder: Path) -> Path:
    """Make a ledger that holds a bit of everything."""
    world = World(folder)
    judged = json.dumps({"pass": False, "issues": ["short"], "confidence": 0.5, "escalate": True})
    async with world.executor() as executor:
        world.scripts = {"gemini-2.5-flash": [fail("overloaded"), fail("timeout"), fail("overloaded")]}
        world.script = [answer("by haiku")]
        labels = {"team": "a", "subject": "somebody"}
        await executor.execute("flash", "prompt", system="system", labels=labels, idempotency_key="key")
        world.script = [fail("invalid_request", status_code=400)]
        await executor.execute("opus", "refused", idempotency_key="other")
        world.script = [answer(judged)]
        await executor.validate_output("task", "output")
        world.script = [answer("prose")]
        await executor.validate_output("task", "another output")
    with closing(sqlite3.connect(world.path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return world.path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a ledger that nobody changes."""
    return asyncio.run(write(tmp_path_factory.mktemp("verify")))


@pytest.fixture
def ledger(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "dispatch.db"))


def behind_the_guards(path: Path, change: Change) -> None:
    """Change a ledger by hand, and put the guards back so that only the change is left to find."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        guards = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for guard in guards:
            database.execute(f'DROP TRIGGER "{guard["name"]}"')
        change(database)
        for guard in guards:
            database.execute(guard["sql"])
        database.commit()


async def looked_at(path: Path) -> Report:
    async with Ledger.open(path, create=False, guarded=False) as ledger:
        return await verify(await ledger.store())


def sql(*statements: str) -> Change:
    def change(database: sqlite3.Connection) -> None:
        for statement in statements:
            assert database.execute(statement).rowcount > 0, statement

    return change


def event(where: str, edit: Callable[[dict[str, Any]], object], *, rehash: bool = True) -> Change:
    """Edit the data of one event of the keyed task; with ``rehash`` as one who knows how a hash is made."""

    def change(database: sqlite3.Connection) -> None:
        stream = [dict(row) for row in database.execute(f"SELECT * FROM events WHERE task_id = {KEYED} ORDER BY 1")]
        (chosen,) = database.execute(f"SELECT event_id FROM events WHERE task_id = {KEYED} AND {where} LIMIT 1")
        prev_hash = bytes(32)
        for row in stream:
            if row["event_id"] == chosen["event_id"]:
                data = json.loads(row["data"])
                edit(data)
                row["data"] = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            if rehash:
                row["prev_hash"] = prev_hash
                row["hash"] = event_hash(prev_hash, [row[name] for name in FIELDS], row["data"].encode())
            prev_hash = row["hash"]
            database.execute(
                "UPDATE events SET data = ?, prev_hash = ?, hash = ? WHERE event_id = ?",
                (row["data"], row["prev_hash"], row["hash"], row["event_id"]),
            )

    return change


def flip(column: str) -> Change:
    """Flip one bit of a BLOB of the keyed task's third event."""

    def change(database: sqlite3.Connection) -> None:
        where = f"task_id = {KEYED} AND version = 3"
        (stored,) = database.execute(f"SELECT {column} FROM events WHERE {where}").fetchone()
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        database.execute(f"UPDATE events SET {column} = ? WHERE {where}", (flipped,))

    return change


def rowids_swapped(table: str, columns: str, where: str) -> Change:
    """Let the first two rows change places."""

    def change(database: sqlite3.Connection) -> None:
        chosen = f"SELECT rowid AS place, {columns} FROM {table} WHERE {where} LIMIT 2"
        first, second = database.execute(chosen).fetchall()
        names = columns.split(", ")
        assigned = ", ".join(f"{name} = ?" for name in names)
        for target, source in ((first, second), (second, first)):
            values = [source[name] for name in names]
            database.execute(f"UPDATE {table} SET {assigned} WHERE rowid = ?", (*values, target["place"]))

    return change


TAMPERING: Final[dict[str, tuple[str, Change]]] = {
    "a bit of a hash": ("hash", flip("hash")),
    "a bit of a link": ("link", flip("prev_hash")),
    "an edited time": ("hash", sql(f"UPDATE events SET recorded_at_ms = 1 WHERE task_id = {KEYED} AND version = 1")),
    "an actor": ("hash", sql(f"UPDATE events SET actor = 'person' WHERE task_id = {KEYED} AND version = 2")),
    "a fence": ("hash", sql(f"UPDATE events SET fence = 9 WHERE task_id = {KEYED} AND version = 2")),
    "a type": ("hash", sql(f"UPDATE events SET type = 'task.held' WHERE task_id = {KEYED} AND version = 3")),
    "an unknown type": ("schema", sql(f"UPDATE events SET type = 'x' WHERE task_id = {KEYED} AND version = 3")),
    "a newer schema": ("schema", sql(f"UPDATE events SET schema_version = 99 WHERE task_id = {KEYED} AND version = 3")),
    "an older schema": ("schema", sql(f"UPDATE events SET schema_version = 0 WHERE task_id = {KEYED} AND version = 3")),
    "an event id": ("hash", sql(f"UPDATE events SET event_id = 'x' WHERE task_id = {KEYED} AND version = 3")),
    "garbage for data": ("schema", sql(f"UPDATE events SET data = '{{' WHERE task_id = {KEYED} AND version = 3")),
    "data that is no object": ("schema", sql(f"UPDATE events SET data = '[]' WHERE task_id = {KEYED} AND version = 1")),
    "a huge integer": (
        "hash",
        sql(
            "UPDATE events SET data = replace(data, '\"latency_ms\":', '\"latency_ms\":999999999999999999999') "
            f"WHERE task_id = {KEYED} AND type = 'attempt.succeeded'"
        ),
    ),
    "a row of bytes that are no text": (
        "projection",
        sql(f"UPDATE tasks SET model_final = CAST(x'ff41' AS TEXT) WHERE task_id = {KEYED}"),
    ),
    "data of bytes that are no text": (
        "hash",
        sql(f"UPDATE events SET data = CAST(x'ff41' AS TEXT) WHERE task_id = {KEYED} AND version = 3"),
    ),
    "a position": ("position", sql(f"UPDATE events SET position = 99999 WHERE task_id = {KEYED} AND version = 2")),
    "a version": ("version", sql(f"UPDATE events SET version = 50 WHERE task_id = {KEYED} AND version = 3")),
    "a row dropped inside": ("version", sql(f"DELETE FROM events WHERE task_id = {KEYED} AND version = 3")),
    "a row dropped at the end": (
        "projection",
        sql(f"DELETE FROM events WHERE task_id = {KEYED} AND type = 'task.succeeded'"),
    ),
    "the first row dropped": ("version", sql(f"DELETE FROM events WHERE task_id = {KEYED} AND version = 1")),
    "a whole stream dropped": ("projection", sql(f"DELETE FROM events WHERE task_id = {KEYED}")),
    "two rows swapped": ("hash", rowids_swapped("events", "type, data", f"task_id = {KEYED} AND version > 2")),
    "an event after the end": (
        "terminal",
        sql(
            "INSERT INTO events (event_id, task_id, version, type, schema_version, recorded_at_ms, actor, fence, data, "
            "prev_hash, hash) SELECT 'late', task_id, version + 1, type, schema_version, recorded_at_ms, actor, fence, "
            f"data, hash, hash FROM events WHERE task_id = {KEYED} ORDER BY version DESC LIMIT 1"
        ),
    ),
    "a cost in the tables": ("projection", sql(f"UPDATE attempts SET cost_nano_usd = 7 WHERE task_id = {KEYED}")),
    "a task's state": ("projection", sql(f"UPDATE tasks SET state = 'failed' WHERE task_id = {KEYED}")),
    "a projected row dropped": ("projection", sql(f"DELETE FROM attempts WHERE task_id = {KEYED} AND attempt = 2")),
    "a decision dropped": ("projection", sql(f"DELETE FROM decisions WHERE task_id = {KEYED} AND version > 1")),
    "a label": ("projection", sql("UPDATE task_labels SET value = 'b'")),
    "a label added": ("projection", sql("INSERT INTO task_labels SELECT task_id, 'x', 'y', 1 FROM tasks LIMIT 1")),
    "a verdict": ("projection", sql("UPDATE validations SET pass = 1 WHERE pass = 0")),
    "a task that never was": (
        "projection",
        sql("INSERT INTO task_labels (task_id, key, value, created_at_ms) VALUES ('nobody', 'a', 'b', 1)"),
    ),
    "a text": ("payload", sql(f"UPDATE payloads SET bytes = x'41' WHERE task_id = {KEYED} AND slot = 'prompt'")),
    "a salt": ("payload", sql(f"UPDATE payloads SET salt = zeroblob(16) WHERE task_id = {KEYED} AND slot = 'prompt'")),
    "a text dropped": ("payload", sql(f"DELETE FROM payloads WHERE task_id = {KEYED} AND slot LIKE 'response/%'")),
    "a text added": ("payload", sql("INSERT INTO payloads SELECT task_id, 'x', salt, bytes FROM payloads LIMIT 1")),
    "texts swapped": ("payload", rowids_swapped("payloads", "salt, bytes", f"task_id = {KEYED} AND slot > 'p'")),
    "a key dropped": ("key", sql(f"DELETE FROM keys WHERE task_id = {KEYED}")),
    "a key turned": ("key", sql(f"UPDATE keys SET task_id = 'nobody' WHERE task_id = {KEYED}")),
    "keys swapped": ("key", rowids_swapped("keys", "task_id", "1")),
    "a key added": ("key", sql("INSERT INTO keys SELECT zeroblob(32), task_id FROM keys LIMIT 1")),
    "the salt of the keys": ("key", sql("UPDATE salts SET salt = zeroblob(32)")),
    "data changed": ("hash", event("version = 2", lambda data: data.update(worker="x"), rehash=False)),
    "a cost, rehashed": (
        "projection",
        event("type = 'attempt.failed'", lambda data: data.update(cost_nano_usd=5)),
    ),
    "a wait, rehashed": (
        "decision",
        event("type = 'retry.scheduled'", lambda data: data.update(wait_ms=1)),
    ),
    "an instant, rehashed": (
        "decision",
        event("type = 'retry.scheduled'", lambda data: data["inputs"].update(decided_at_ms=1)),
    ),
    "an instant at the end of time, rehashed": (
        "decision",
        event("type = 'retry.scheduled'", lambda data: data["inputs"].update(decided_at_ms=2**63 - 1)),
    ),
    "a reason, rehashed": (
        "decision",
        event("type = 'fallback.selected'", lambda data: data.update(reason="timeout")),
    ),
    "a target, rehashed": (
        "decision",
        event("type = 'fallback.selected'", lambda data: data.update(to_step=9, to_tier="opus")),
    ),
    "an error type, rehashed": (
        "decision",
        event("type = 'attempt.failed'", lambda data: data.update(error_type="authentication", retryable=False)),
    ),
    "a retry count, rehashed": (
        "decision",
        event("version = 1", lambda data: data["route"][0].update(tries=9)),
    ),
    "a policy, rehashed": (
        "decision",
        event("version = 1", lambda data: data["policy"].update(jitter_ppm=0)),
    ),
    "a provider of the route, rehashed": (
        "attempt",
        event("version = 1", lambda data: data["route"][0].update(provider="simulated")),
    ),
    "an attempt's number, rehashed": (
        "attempt",
        event("type = 'attempt.started' AND version > 2", lambda data: data.update(attempt=7)),
    ),
    "an older fence, rehashed": (
        "attempt",
        event("type = 'attempt.started' AND version > 2", lambda data: data.update(worker="worker:x")),
    ),
    "a digest, rehashed": (
        "payload",
        event("type = 'attempt.succeeded'", lambda data: data.update(response_digest="0" * 64)),
    ),
    "an unknown field, rehashed": ("schema", event("version = 2", lambda data: data.update(extra=1))),
}


async def test_untouched(ledger: Path) -> None:
    """A ledger that nobody changed is found whole, also when its guards were taken down and put back."""
    behind_the_guards(ledger, lambda _: None)
    report = await looked_at(ledger)
    assert (report.ok, report.problems, report.tasks, report.unanchored) == (True, (), 4, report.events)


@pytest.mark.parametrize(("kind", "change"), TAMPERING.values(), ids=TAMPERING)
async def test_tampering_is_found(ledger: Path, kind: str, change: Change) -> None:
    """Each change is found, and told as what it is."""
    behind_the_guards(ledger, change)
    report = await looked_at(ledger)
    assert not report.ok
    assert kind in {problem.kind for problem in report.problems}


async def test_fallen_guard_is_found(ledger: Path) -> None:
    """A guard that is gone is a finding by itself."""
    with closing(sqlite3.connect(ledger)) as database:
        (name,) = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' LIMIT 1").fetchone()
        database.execute(f'DROP TRIGGER "{name}"')
    report = await looked_at(ledger)
    assert not report.ok


async def test_many_findings_are_bounded(ledger: Path) -> None:
    """A ledger that is wrong everywhere is told in at most a thousand findings."""
    behind_the_guards(ledger, sql("UPDATE events SET hash = zeroblob(32)", "DELETE FROM attempts", "DELETE FROM tasks"))
    report = await looked_at(ledger)
    assert 10 < len(report.problems) <= 1000


def cells(database: sqlite3.Connection) -> Iterator[tuple[str, str, int, Any]]:
    """Give every cell that a change of must be found: all but rows' places and the salts' own names."""
    for table in ("events", "tasks", "attempts", "decisions", "validations", "task_labels", "payloads", "keys"):
        for row in database.execute(f"SELECT rowid AS place, * FROM {table}"):
            for column in row.keys():  # noqa: SIM118 - a row of sqlite3 is no mapping
                if column not in {"place", "position"}:
                    yield table, column, row["place"], row[column]


def another(value: Any, draw: random.Random) -> Any:
    match value:
        case None:
            return draw.choice([0, 1, "x", -1, 2**62])
        case int() | float():
            return draw.choice([value + 1, value - 1, -value - 1, 2**63 - 1, None])
        case bytes():
            return draw.choice([value + b"x", value[1:], b"\xff" * 32, None])
        case _:
            return draw.choice([value + "x", value[1:], "", "\x00", "[]", None])


@pytest.mark.parametrize("seed", range(FUZZED))
async def test_any_cell_changed_is_found(ledger: Path, seed: int) -> None:
    """Whatever single cell is changed to whatever the table takes, verify finds it and never falls over."""
    draw = random.Random(seed)  # noqa: S311 - the same changes every time

    def change(database: sqlite3.Connection) -> None:
        all_cells = list(cells(database))
        while True:
            table, column, place, value = draw.choice(all_cells)
            new = another(value, draw)
            with suppress(sqlite3.IntegrityError, OverflowError):
                if new != value:
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (new, place))
                    return

    behind_the_guards(ledger, change)
    report = await looked_at(ledger)
    assert not report.ok


class Restless(MemoryStore):
    """A ledger whose rows lag behind, and whose stream is another one at each look."""

    looks = 0
    gone = False
    end_hash: bytes | None = None

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        return self._changed(tuple(await super().streams(after, limit)))

    async def projected(self, task_id: str) -> Projected:
        return Projected()

    async def read(self, task_id: str) -> Stream:
        if task_id != "t":
            return await super().read(task_id)
        self.looks += 1
        whole = self._changed(await super().read(task_id))
        return () if self.gone else whole[: len(whole) - self.looks % 2]

    def _changed(self, stream: Stream) -> Stream:
        if self.end_hash is None or not stream:
            return stream
        return (*stream[:-1], stream[-1]._replace(hash=self.end_hash))


async def restless() -> Restless:
    store = Restless(now_ms=lambda: 1)
    events = History().start().events
    await store.append(Append("t", 0, tuple(NewEvent(f"id-{n}", event, "system") for n, event in enumerate(events))))
    return store


async def test_a_stream_that_never_rests_is_still_checked() -> None:
    """Its rows cannot be compared, so they are no finding; what its events say for themselves is."""
    sound, changed = await restless(), await restless()
    assert (await verify(sound)).problems == ()
    changed.end_hash = bytes(32)
    assert [(problem.kind, problem.version) for problem in (await verify(changed)).problems] == [("hash", 2)]
    assert changed.looks > 100


async def test_a_stream_that_goes_away_is_a_finding() -> None:
    """What was seen of it is told; its absence is no reason to forget it."""
    store = await restless()
    store.gone = True
    found = {problem.kind for problem in (await verify(store)).problems}
    assert "projection" in found


BREAKER: Final = "breaker:simulated/flash"
OPENED: Final = BreakerOpened(
    provider="simulated",
    model="flash",
    cause="failures",
    until_ms=START_MS + 5000,
    open_ms=5000,
    failures=("some", "failures"),
)
CLOSED: Final = BreakerClosed(provider="simulated", model="flash", trial_event_id="some trial")


async def kept(store: Store, *streams: tuple[str, Sequence[Event]]) -> Store:
    """Append streams one after the other, as one who knows how a hash is made would."""
    for number, (name, events) in enumerate(streams):
        version = len(await store.read(name))
        news = [NewEvent(f"id-{number}-{at}", event, "system") for at, event in enumerate(events)]
        await store.append(Append(name, version, tuple(news)))
    return store


async def found_in(store: Store) -> set[tuple[str, str | None]]:
    """Verify, and pass over the texts that these tasks never had."""
    return {(found.kind, found.task_id) for found in (await verify(store)).problems if found.kind != "payload"}


def kept_off(position: int = 1, until_ms: int = START_MS + 5000) -> History:
    """Keep a task off flash, with haiku behind it, by what was seen at a position."""
    return History().brake(brake(step("flash"), until_ms, position))


def waiting(position: int = 1, until_ms: int = START_MS + 5000) -> History:
    """Keep a task off flash, with nothing behind it."""
    return History(request(route=(step("flash"),))).brake(brake(step("flash"), until_ms, position))


def told_otherwise(history: History, **changes: Any) -> list[Event]:
    """Change what the newest decision says."""
    return [*history.events[:-1], history.events[-1].model_copy(update=changes)]


def seen_otherwise(history: History, **changes: Any) -> list[Event]:
    """Change what the newest decision saw."""
    decided = history.events[-1]
    assert isinstance(decided, Decision)
    return told_otherwise(history, inputs=decided.inputs.model_copy(update=changes))


@pytest.mark.parametrize("make", [kept_off, waiting], ids=["handed over", "waits"])
async def test_a_brake_that_was_seen_is_no_finding(make: Callable[..., History]) -> None:
    """Decided again from what was seen, and what was seen was so: at its position, or by any up to the next."""
    again = (OPENED.model_copy(update={"until_ms": START_MS + 9000}), CLOSED)
    store = await kept(
        MemoryStore(now_ms=lambda: START_MS),
        (BREAKER, [OPENED]),
        ("task", make().events),
        ("later", make(position=2).events),
        (BREAKER, again),
        ("at last", make(position=6, until_ms=START_MS + 9000).events),
    )
    assert await found_in(store) == set()


RETRIED: Final = History().start().fail()
FORGED: Final[dict[str, tuple[str, list[Event]]]] = {
    "no breaker seen": ("decision", seen_otherwise(kept_off(), brakes=())),
    "one that was over": ("decision", seen_otherwise(kept_off(), decided_at_ms=START_MS + 5000)),
    "another model's": (
        "brake",
        History(request(route=(step("haiku"),))).brake(brake(step("haiku"), position=1)).events,
    ),
    "a wait until later": ("decision", told_otherwise(waiting(), not_before_ms=START_MS + 6000)),
    "a longer wait": ("decision", told_otherwise(waiting(), wait_ms=6000)),
    "another target": ("decision", told_otherwise(kept_off(), to_step=1, to_tier="flash")),
    "told as a failure's": ("decision", told_otherwise(kept_off(), rule="straight_to_the_fallback")),
    "a retry told as a brake's": ("decision", told_otherwise(RETRIED, rule="breaker_open", reason="breaker_open")),
    "a task that had begun the step": (
        "decision",
        [*History().start().fail().events[:-1], kept_off().events[-1]],
    ),
    "one with a retry behind it": ("decision", [*RETRIED.events, waiting().events[-1]]),
    "open for longer than it was": ("brake", waiting(until_ms=START_MS + 9000).events),
    "seen before it opened": ("brake", waiting(position=0).events),
    "seen after it closed": ("brake", waiting(position=2).events),
    "seen after the decision": ("brake", waiting(position=4).events),
    "seen in a breaker that never was": ("brake", History(validation()).brake().events),
}


@pytest.mark.parametrize(("kind", "events"), FORGED.values(), ids=FORGED)
async def test_a_forged_brake_is_found(kind: str, events: list[Event]) -> None:
    """Whether the rules would not have decided so, or what was seen was not so, with every hash in its place."""
    store = await kept(MemoryStore(now_ms=lambda: START_MS), (BREAKER, [OPENED, CLOSED]), ("task", events))
    assert await found_in(store) == {(kind, "task")}


async def test_other_decisions_cannot_claim_to_have_seen_a_brake() -> None:
    """Whatever they decided by it."""
    history = History().start()
    history.do(c.Record(failed(), 1, c.Seen(START_MS, brakes=(brake(position=1),))))
    honest = await kept(MemoryStore(now_ms=lambda: START_MS), (BREAKER, [OPENED]), ("task", history.events))
    forged = await kept(MemoryStore(now_ms=lambda: START_MS), (BREAKER, [CLOSED]), ("task", history.events))
    assert await found_in(honest) == set()
    assert ("brake", "task") in await found_in(forged)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([OPENED.model_copy(update={"model": "haiku"})], id="another model's"),
        pytest.param([OPENED, CLOSED.model_copy(update={"provider": "gemini"})], id="another provider's"),
        pytest.param([CLOSED], id="a trial of what was never opened"),
        pytest.param([OPENED, CLOSED, CLOSED], id="closed twice"),
        pytest.param([OPENED, CLOSED, OPENED.model_copy(update={"cause": "trial_failed"})], id="a trial while closed"),
    ],
)
async def test_a_breaker_that_makes_no_sense_is_found(events: list[Event]) -> None:
    """By itself, without a task that saw it."""
    store = await kept(MemoryStore(now_ms=lambda: START_MS), (BREAKER, events))
    assert [("brake", BREAKER, len(events))] == [
        (problem.kind, problem.task_id, problem.version) for problem in (await verify(store)).problems
    ]


async def test_a_breaker_changed_by_hand_is_found_twice(tmp_path: Path) -> None:
    """By its hash, and by the task that had seen it as it was."""
    path = tmp_path / "dispatch.db"
    async with Ledger.open(path) as ledger:
        await kept(await ledger.store(), (BREAKER, [OPENED]), ("task", waiting().events))
    later = (
        f"""UPDATE events SET data = replace(data, '"until_ms":{START_MS + 5000}', '"until_ms":{START_MS + 9000}')"""
    )
    behind_the_guards(path, sql(f"{later} WHERE task_id = '{BREAKER}'"))
    found = [(problem.kind, problem.task_id) for problem in (await looked_at(path)).problems]
    assert [("hash", BREAKER), ("brake", "task")] == [one for one in found if one[0] in {"hash", "brake"}]


HISTORIES: Final = sorted((Path(__file__).parent / "golden" / "histories").glob("*.jsonl"))


def judgements() -> Iterator[tuple[State, Judgement]]:
    """Give the judgements of the golden histories, each with the state that it was made in."""
    for path in HISTORIES:
        state: State = INITIAL
        for row in map(json.loads, path.read_bytes().splitlines()):
            event = decode(row["type"], row["schema_version"], json.dumps(row["data"]))
            if isinstance(event, Judgement):
                yield state, event
            state = evolve(state, event)


@pytest.mark.parametrize("field", ["judge_attempt", "judged_task_id", "judged_attempt"])
def test_a_verdict_on_something_else_is_found(field: str) -> None:
    """An honest one fits the state before it; with another call, task or attempt in it, none does."""
    found = {}
    for state, honest in judgements():
        value: Any = "another" if field == "judged_task_id" else 9
        forged = honest.model_copy(update={field: value})
        found[type(honest)] = (misplaced(state, honest), misplaced(state, forged) is not None)
        assert (None, True) == found[type(honest)]
    assert {ValidationPassed, ValidationFailed, ValidationErrored} == set(found)


def test_a_verdict_where_none_was_asked_for_is_found() -> None:
    """Nothing is judged before there is an answer."""
    assert {misplaced(INITIAL, event) for _, event in judgements()} == {
        "a judgement stands where nothing was to be judged"
    }
