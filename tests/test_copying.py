"""``db copy``: a whole ledger into an empty one, from a file to a server, back, and between two of a kind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.audit import verify
from ledger.envelope import Append, Payload
from ledger.errors import ConfigurationError, DispatchError, EventInvalid, LedgerCorrupt, LedgerError, LedgerMissing
from ledger.store.copying import Copied, copy_ledger
from ledger.store.opening import open_store
from ledger.store.protocol import Store, TaskQuery
from tests.command_line import CommandLine
from tests.contracts.appends import Clock, submission, task, tick, ticks
from tests.ledgers import fresh_ledger
from tests.postgres_server import database, sql

KEY = b"k" * 32
MADE_UP = {"brake", "cost", "key", "payload"}
"""Findings about what no executor would have written: a text that no event knows, a breaker that nobody opened."""


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Store]:
    """Open a ledger for a while."""
    store = await open_store(name, create=True, now_ms=Clock())
    try:
        yield store
    finally:
        await store.aclose()


async def filled(name: str) -> None:
    """Put tasks with texts, a key and a label into a ledger, and leave a gap in its positions where it can have one."""
    async with opened(name) as store:
        await store.append(replace(task("t"), payloads=(Payload("prompt", b"s", "é\0".encode()),), key_digest=KEY))
        await store.append(ticks("breaker:p/m", 0, 2))
        with pytest.raises(EventInvalid):
            await store.append(Append("x", 0, (tick("breaker:p/m", 1),)))
        await store.append(submission("u", labels={"team": "a"}))


async def contents(name: str) -> list[Any]:
    """Read all that a copy has to keep."""
    async with opened(name) as store:
        ids = await store.projected_task_ids("", 100)
        report = await verify(store)
        assert not {problem.kind for problem in report.problems} - MADE_UP
        return [
            await store.page(0, 100),
            await store.newest(),
            await store.tasks(TaskQuery()),
            [await store.projected(task_id) for task_id in ids],
            [await store.payloads(task_id) for task_id in ids],
            await store.task_of_key(KEY),
            await store.key_salt(),
            report,
        ]


@pytest.fixture(params=["file to file", "file to server", "server to file", "server to server"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """Give two empty ledgers."""
    source, _, target = request.param.partition(" to ")
    async with database() as one, database() as two:
        yield (
            str(fresh_ledger(tmp_path)) if source == "file" else one,
            str(tmp_path / "new.db") if target == "file" else two,
        )


async def test_a_copy_is_the_same(ends: tuple[str, str]) -> None:
    """Positions with their gaps, bytes, hashes, rows, texts, keys and salt; and it goes on from there."""
    source, target = ends
    await filled(source)
    told: list[int] = []
    copied = await copy_ledger(source, target, now_ms=Clock(), progress=told.append)
    before = await contents(source)
    assert before == await contents(target)
    assert (copied, told) == (Copied(len(before[0]), before[1], 2, 1), [len(before[0])])
    async with opened(target) as store:
        stream = await store.append(ticks("breaker:p/m", 2))
        assert stream[-1].position > before[1]
        assert (stream[-1].prev_hash, ()) == (stream[-2].hash, await store.check())


async def test_there_and_back(tmp_path: Path) -> None:
    """More than a page, from a file to a server and into another file: the same bytes."""
    source, back = str(fresh_ledger(tmp_path)), str(tmp_path / "back.db")
    async with opened(source) as store:
        await asyncio.gather(*(store.append(ticks(f"s{number % 50}", number // 50)) for number in range(2100)))
    async with database() as server:
        told: list[int] = []
        await copy_ledger(source, server, now_ms=Clock(), progress=told.append)
        await copy_ledger(server, back, now_ms=Clock())
    assert told == [1000, 2000, 2100]
    query = "SELECT * FROM events ORDER BY position"
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(back)) as two:
        assert one.execute(query).fetchall() == two.execute(query).fetchall()


async def test_a_source_in_use(ends: tuple[str, str]) -> None:
    """What is appended meanwhile stays behind, and the copy is that of one instant."""
    source, target = ends
    await filled(source)
    async with opened(source) as store:

        async def go_on() -> None:
            for number in range(20):
                await store.append(task(f"late-{number}"))

        await asyncio.gather(copy_ledger(source, target, now_ms=Clock()), go_on())
    async with opened(target) as store:
        report = await verify(store)
        assert not {problem.kind for problem in report.problems} - MADE_UP


@pytest.mark.parametrize("kind", ["file", "server"])
async def test_only_into_an_empty_ledger(tmp_path: Path, kind: str) -> None:
    """What is there stays as it was."""
    source = str(fresh_ledger(tmp_path))
    await filled(source)
    async with database() as server:
        target = str(tmp_path / "other.db") if kind == "file" else server
        async with opened(target) as store:
            await store.append(ticks("mine", 0))
        with pytest.raises(LedgerError, match="is not empty"):
            await copy_ledger(source, target, now_ms=Clock())
        async with opened(target) as store:
            assert ["mine"] == [recorded.task_id for recorded in await store.page(0, 10)]


async def test_a_damaged_source(tmp_path: Path) -> None:
    """Guards of the new ledger refuse what is not linked, and nothing is kept."""
    source = str(fresh_ledger(tmp_path))
    await filled(source)
    with closing(sqlite3.connect(source)) as damaged:
        guard = damaged.execute("SELECT sql FROM sqlite_master WHERE name = 'events_no_update'").fetchone()[0]
        damaged.executescript(
            f"DROP TRIGGER events_no_update; UPDATE events SET prev_hash = zeroblob(32) WHERE version = 2; {guard}"
        )
    async with database() as server:
        for target in (server, str(tmp_path / "new.db")):
            with pytest.raises(LedgerError, match="verify` looks at its source"):
                await copy_ledger(source, target, now_ms=Clock())
            async with opened(target) as store:
                assert (0, ()) == (await store.newest(), await store.check())


async def test_a_target_that_changes_rows(tmp_path: Path) -> None:
    """A trigger of somebody's is found by what was read back; nothing is kept."""
    source = str(fresh_ledger(tmp_path))
    await filled(source)
    async with database() as server:
        swallow = "BEGIN NEW.bytes := ''; RETURN NEW; END"
        await sql(server, f"CREATE FUNCTION shorten() RETURNS trigger LANGUAGE plpgsql AS $$ {swallow} $$")
        await sql(server, "CREATE TRIGGER s BEFORE INSERT ON payloads FOR EACH ROW EXECUTE FUNCTION shorten()")
        with pytest.raises(LedgerCorrupt, match="payloads holds something else"):
            await copy_ledger(source, server, now_ms=Clock())
        assert [(0,)] == await sql(server, "SELECT count(*) FROM events")
        await sql(server, "DROP FUNCTION shorten CASCADE")


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("none.db", "new.db", LedgerMissing),
        ("old.db", "old.db", ConfigurationError),
        ("old.db", "sqlite:///old.db", ConfigurationError),
        ("old.db", "link.db", ConfigurationError),
        ("old.db", "no/folder.db", LedgerMissing),
        ("old.db", "mysql://host/name", ConfigurationError),
    ],
)
def test_what_cannot_be_copied(empty_folder: Path, source: str, target: str, error: type[DispatchError]) -> None:
    """Refused before anything is made."""
    fresh_ledger(empty_folder).rename("old.db")
    Path("link.db").symlink_to("old.db")
    with pytest.raises(error):
        asyncio.run(copy_ledger(source, target, now_ms=Clock()))
    assert not Path("new.db").exists()


def test_the_command(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It copies, verifies the copy, and says both."""
    (empty_folder / "dispatch.toml").write_text("[tiers.haiku]\nprovider = 'simulated'\nmodel = 'plain'\n")
    cli = CommandLine(capsys)
    cli("run", "-t", "haiku", "hello", "--ledger", "old.db")
    ended = cli("db", "copy", "old.db", "new.db")
    assert (ended.code, ended.out.splitlines()[0]) == (
        0,
        "new.db: 4 events of 1 tasks and 3 texts, up to position 4, as they are in old.db",
    )
    assert "ok: 4 events of 1 tasks" in ended.out or "ok: 4 events of 1 task" in ended.out
    again = cli("db", "copy", "old.db", "new.db", "--json")
    assert (again.code, "is not empty" in again.err) == (3, True)
    document = cli("db", "copy", "old.db", "newer.db", "--json").json
    assert ([4, 4, 1, 3], True) == (
        [document[name] for name in ("events", "newest", "tasks", "texts")],
        document["verify"]["ok"],
    )
