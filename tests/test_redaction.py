"""Redaction: the texts are gone from every file, everything else stands as it did."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.audit.redaction import chosen, erase, erase_files, labelled
from ledger.envelope import Append, NewEvent, Payload
from ledger.errors import RequestRefused
from ledger.events import PayloadErased
from ledger.executor.requests import Judged
from ledger.executor.spill import bring_in, places
from ledger.executor.transact import Desk
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_store
from ledger.store.protocol import Store
from ledger.store.scrubbing import scrub
from tests.command_line import CONFIG, CommandLine, sql
from tests.contracts.appends import Clock, task
from tests.ledgers import fresh_ledger
from tests.postgres_server import database
from tests.test_spill import spilled
from tests.world import World, answer, fail, rows

CANARY = "canary-5d1f"
REASON = "asked for"
KEY = b"k" * 32


@pytest.fixture
def world(tmp_path: Path) -> World:
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    return World(tmp_path)


@pytest.fixture
def command(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    return CommandLine(capsys)


def holding(folder: Path, word: str = CANARY) -> list[str]:
    """Name every file that holds a word."""
    found = [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    return [path.name for path in found]


async def redacted(world: World, *task_ids: str) -> None:
    """Erase tasks with what hangs on them, from the ledger and its files."""
    async with Ledger.open(world.path, ports=world.ports()) as ledger:
        store = await ledger.store()
        found = await chosen(store, task_ids)
        for task_id in (*found.task_ids, *found.linked):
            await erase(store, world.ports(), task_id, REASON)
    assert await scrub(str(world.path)) == (True, None)


async def test_no_file_holds_a_text(world: World) -> None:
    """Prompt, system, answer, message, subject, issues and a judged output; costs and the rest stay to the byte."""
    verdict = '{"pass": false, "issues": ["canary-5d1f is odd"], "confidence": 0.5, "escalate": false}'
    world.scripts = {"claude-haiku-5-5": [fail("rate_limited", error=f"no {CANARY}"), answer(f"yes {CANARY}")]}
    world.scripts["claude-sonnet-5-5"] = [answer(verdict)]
    async with world.executor() as executor:
        done = await executor.execute(
            "haiku", f"say {CANARY}", system=f"be {CANARY}", labels={"subject": CANARY}, idempotency_key="k"
        )
        other = await executor.execute("opus", "something else")
        await executor.judge(f"say {CANARY}", Judged(done.response, done.task_id, 2))
    assert done.task_id is not None
    assert holding(world.folder)
    figures = "SELECT * FROM attempts ORDER BY task_id, attempt", "SELECT * FROM tasks ORDER BY task_id"
    before = [rows(world.path, query) for query in figures]
    await redacted(world, done.task_id)
    assert holding(world.folder) == []
    assert [rows(world.path, query) for query in figures] == before
    async with world.executor() as executor:
        gone, kept = await executor.result(done.task_id), await executor.result(other.task_id or "")
        again = await executor.execute("haiku", f"say {CANARY}", idempotency_key="k")
    assert (gone.success, gone.response, gone.error) == (True, "", "the answer was erased")
    assert (kept.response, again.task_id != done.task_id) == (other.response, True)
    assert {row["actor"] for row in rows(world.path, "SELECT actor FROM events WHERE type = 'payload.erased'")} == {
        "person"
    }


async def test_a_second_time_changes_nothing(world: World) -> None:
    async with world.executor() as executor:
        done = await executor.execute("haiku", CANARY)
    await redacted(world, done.task_id or "")
    before = world.types()
    await redacted(world, done.task_id or "")
    assert world.types() == before


async def test_a_late_answer_brings_no_text_back(world: World) -> None:
    """Of a task called off while its call was under way, by whatever way the answer comes; its money is kept."""
    world.script = [answer(f"late {CANARY}")]
    path = await spilled(world)
    content = path.read_bytes()
    path.unlink()
    (row,) = rows(world.path, "SELECT task_id FROM tasks")
    async with Ledger.open(world.path) as ledger, Executor(ledger) as person:
        assert await person.cancel(row["task_id"]) == "cancelled"
    await redacted(world, row["task_id"])
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    async with world.executor() as executor:
        await executor.execute("haiku", "the next start")
    assert [name for name in holding(world.folder, "late canary") if name.endswith(".spill")] == []
    assert world.types(row["task_id"])[-2:] == ["attempt.settled", "payload.erased"]
    assert rows(world.path, f"SELECT slot FROM payloads WHERE task_id = '{row['task_id']}'") == []
    assert (await scrub(str(world.path))).done
    assert rows(world.path, "SELECT tokens_input FROM attempts ORDER BY started_at_ms LIMIT 1")[0]["tokens_input"] == 10


async def test_spilled_answers_are_taken_in_and_torn_ones_removed(world: World) -> None:
    """What lies beside the ledger is recorded first; what cannot be is removed, that of other tasks is left."""
    path = await spilled(world)
    task_id = path.name.split(".")[0]
    unnamed, other = path.parent / ".tmp1", path.parent / "x.1.spill"
    path.with_name(f"{task_id}.9.spill").write_bytes(CANARY.encode())
    unnamed.write_bytes(f"{task_id} {CANARY}".encode())
    other.write_bytes(b"other")
    async with world.executor() as executor:
        store = await executor.ledger.store()
        desk = Desk(store, world.ports(), "person")
        removed = await erase_files(places(path.parent), [task_id], lambda: bring_in(desk, path.parent))
    assert sorted(each.name for each in removed) == sorted([".tmp1", f"{task_id}.9.spill"])
    assert (holding(path.parent), other.exists()) == ([], True)


async def test_a_task_that_has_not_ended_is_refused(world: World) -> None:
    async with world.executor() as executor:
        task_id = await executor.submit("haiku", CANARY)
        store = await executor.ledger.store()
        with pytest.raises(RequestRefused, match="has not ended"):
            await erase(store, world.ports(), task_id, REASON)
    assert world.types() == ["task.submitted"]


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "a\nb", "\x1b[31m"])
async def test_a_reason_that_cannot_be_kept(world: World, reason: str) -> None:
    async with world.executor() as executor:
        done = await executor.execute("haiku", CANARY)
        with pytest.raises(RequestRefused, match="--reason"):
            await erase(await executor.ledger.store(), world.ports(), done.task_id or "", reason)


async def test_free_pages_hold_nothing(tmp_path: Path) -> None:
    """Also after many deletions, whose neighbours SQLite moves from page to page and leaves copies of."""
    path = fresh_ledger(tmp_path)
    async with _store(str(path)) as store:
        for number in range(120):
            size = (5, 60, 900, 3000)[number % 4]
            text = Payload("prompt", b"s", (f"{CANARY}-{number:03}-" * (1 + size // 20)).encode())
            await store.append(replace(task(f"t{number:03}"), payloads=(text,)))
        ended = [f"t{number * 37 % 120:03}" for number in range(100)]
        for task_id in ended:
            stream = await store.read(task_id)
            gone = PayloadErased(slot="prompt", digest="0" * 64, reason=REASON)
            await store.append(Append(task_id, len(stream), (NewEvent(f"{task_id}/gone", gone, "person"),)))
    assert (await scrub(str(path))).done
    content = path.read_bytes()
    assert [one for one in ended if f"{CANARY}-{one[1:]}-".encode() in content] == []
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT count(*) FROM payloads").fetchone() == (20,)


async def test_a_reader_that_holds_the_log_is_told_of(tmp_path: Path) -> None:
    """The texts are erased; what is left and what to do is said, and the second time nothing is left."""
    path = fresh_ledger(tmp_path)
    async with _store(str(path)) as store:
        await store.append(replace(task("t"), payloads=(Payload("prompt", b"s", CANARY.encode()),)))
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            found = await scrub(str(path), reader_within_s=0.01)
        assert (found.done, f"{path}-wal" in (found.remark or "")) == (False, True)
    assert await scrub(str(path)) == (True, None)


class _store:  # noqa: N801 - used as a function
    """Open a ledger for a while."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __aenter__(self) -> Store:
        self._store = await open_store(self._name, create=True, now_ms=Clock())
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()


@pytest.mark.parametrize("kind", ["memory", "file", "server"])
async def test_every_store_erases_in_the_transaction_that_says_so(kind: str, tmp_path: Path) -> None:
    """The slot that is named and the task's key; nothing if the append is refused."""
    async with database() as url:
        name = {"memory": "", "file": str(fresh_ledger(tmp_path)), "server": url}[kind]
        store: Store = MemoryStore(now_ms=Clock()) if kind == "memory" else await _store(name).__aenter__()
        texts = (Payload("prompt", b"s", b"one"), Payload("system", b"s", b"two"))
        stream = await store.append(replace(task("t"), payloads=texts, key_digest=KEY))
        gone = PayloadErased(slot="prompt", digest="0" * 64, reason=REASON)
        late = Append("t", len(stream) - 1, (NewEvent("gone", gone, "person"),))
        with pytest.raises(Exception, match="version"):
            await store.append(late)
        assert (len(await store.payloads("t")), await store.task_of_key(KEY)) == (2, "t")
        await store.append(replace(late, expected_version=len(stream)))
        assert ([text.slot for text in await store.payloads("t")], await store.task_of_key(KEY)) == (["system"], None)
        await store.aclose()


async def test_a_server_says_what_stays(tmp_path: Path) -> None:
    """Rows are gone; files, logs and backups of a server are for who runs it."""
    async with database() as url:
        world = World(tmp_path)
        async with (
            Ledger.open(url, ports=world.ports()) as ledger,
            Executor(
                ledger, Config.model_validate({"tiers": {"haiku": {"provider": "simulated", "model": "m"}}})
            ) as executor,
        ):
            done = await executor.execute("haiku", CANARY, labels={"subject": "Ada"})
            store = await ledger.store()
            assert await labelled(store, {"subject": "Ada"}) == [done.task_id]
            assert (await chosen(store, [done.task_id or ""])).linked == ()
            assert len(await erase(store, world.ports(), done.task_id or "", REASON)) == 4
            assert (await store.payloads(done.task_id or ""), (await verify(store)).problems) == ((), ())
        said = await scrub(url)
    assert (said.done, "VACUUM FULL" in (said.remark or "")) == (True, True)


def test_the_command(empty_folder: Path, command: CommandLine) -> None:
    """By label, with what judged it; refused while something runs; the same again is harmless."""
    assert command("run", f"say {CANARY}", "--tier", "haiku", "--label", "subject=Ada").code == 0
    (task_id,) = sql("dispatch.db", "SELECT task_id FROM tasks")[0]
    assert command("validate", "--task", CANARY, "--output", CANARY).code == 0
    queued = command("submit", CANARY, "--tier", "haiku", "--label", "subject=Ada", "--json").json["task_id"]
    refused = command("redact", "--label", "subject=Ada", "--reason", REASON)
    assert (refused.code, "1 task not ended" in refused.err, queued in refused.err) == (2, True, True)
    assert command("cancel", queued).code == 0
    told = command("redact", "--label", "subject=Ada", "--reason", REASON, "--json")
    assert told.code == 0
    assert {each["task_id"] for each in told.json["erased"]} == {task_id, queued}
    assert command("redact", task_id, "--reason", REASON).code == 0
    assert command("verify").code == 0
    shown = command("show", task_id).out
    assert ("(erased)" in shown, CANARY in shown) == (True, False)
    assert command("redact", "--reason", REASON).code == 2
    assert holding(empty_folder) == ["dispatch.db"]  # the judgement of a free text is no task of Ada's


def test_a_free_text_is_judged_for_a_subject(empty_folder: Path, command: CommandLine) -> None:
    """With the label it is erased with all that is theirs; a verdict on a task has no label of its own."""
    hers = ("--label", "subject=Ada")
    assert command("validate", "--task", CANARY, "--output", CANARY, *hers).code == 0
    assert command("validate", "--task-id", "any", *hers).code == 2
    assert command("redact", *hers, "--reason", REASON).code == 0
    assert (holding(empty_folder), command("verify").code) == ([], 0)
