"""``db rebuild``: all projections again from the events, whole or not at all, and not beside workers."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from ledger import Ledger
from ledger.errors import EventInvalid, LedgerBusy, LedgerMissing
from ledger.store import tables as t
from ledger.store.opening import open_sqlite, open_store
from ledger.store.rebuilding import NAMES, Rebuilt, rebuild
from tests.command_line import CommandLine
from tests.contracts.appends import Clock, submission
from tests.ledgers import fresh_ledger
from tests.postgres_server import database, sql

SPOIL: Final = (
    "UPDATE tasks SET state = 'lost'",
    "DELETE FROM decisions",
    "INSERT INTO task_labels VALUES ('x', 'k', 'v', 1)",
)
KILLED: Final = """
import asyncio, os, signal, sys
from ledger.store.rebuilding import rebuild
read = 0
def told(events):
    global read
    read += events
    if read >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(rebuild(sys.argv[1], now_ms=lambda: 10**13, progress=told))
"""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """Give a ledger of five tasks."""
    path = fresh_ledger(tmp_path)
    await submit(str(path))
    return path


async def submit(name: str) -> None:
    """Put five tasks into a ledger."""
    store = await open_store(name, create=False, now_ms=Clock())
    for number in range(5):
        await store.append(submission(f"task-{number}"))
    await store.aclose()


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all projections."""
    with closing(sqlite3.connect(path)) as ledger:
        return {name: sorted(ledger.execute(f"SELECT * FROM {name}"), key=repr) for name in NAMES}


def spoil(path: Path) -> None:
    """Make projections say what the events do not."""
    with closing(sqlite3.connect(path)) as ledger, ledger:
        for statement in SPOIL:
            ledger.execute(statement)


async def test_the_projections_are_made_again(path: Path) -> None:
    """Whatever stood in them, they are what they were."""
    before = rows(path)
    told: list[int] = []
    spoil(path)
    assert Rebuilt(5, 5) == await rebuild(str(path), now_ms=Clock(), progress=told.append)
    assert (before, [1] * 5) == (rows(path), told)


async def test_a_rebuild_that_is_killed_leaves_the_old_rows(path: Path) -> None:
    """In the midst of it, with no time to tidy up."""
    spoil(path)
    before = rows(path)
    command = [sys.executable, "-c", KILLED, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, check=False, timeout=60)
    assert (-signal.SIGKILL, before) == (done.returncode, rows(path))
    await rebuild(str(path), now_ms=Clock())
    assert before != rows(path)


async def test_workers_keep_it_from_being_rebuilt(path: Path) -> None:
    """Whose heart beat lately is at work; whose does not any more is not."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await store.beat("worker:1")
    await store.aclose()
    with closing(sqlite3.connect(path)) as ledger:
        (beat_at_ms,) = ledger.execute("SELECT beat_at_ms FROM workers").fetchone()
    spoil(path)
    before = rows(path)
    with pytest.raises(LedgerBusy, match="stop the workers"):
        await rebuild(str(path), now_ms=lambda: beat_at_ms + 19_999)
    assert before == rows(path)
    await rebuild(str(path), now_ms=lambda: beat_at_ms + 20_000)
    assert before != rows(path)


async def test_an_event_that_cannot_be_read_changes_nothing(path: Path) -> None:
    """The rows of before are more than none."""
    with closing(sqlite3.connect(path)) as ledger, ledger:
        (guard,) = ledger.execute("SELECT sql FROM sqlite_master WHERE name = 'events_no_update'").fetchone()
        ledger.execute("DROP TRIGGER events_no_update")
        ledger.execute("UPDATE events SET data = '{}' WHERE task_id = 'task-3'")
        ledger.execute(guard)
    before = rows(path)
    with pytest.raises(EventInvalid):
        await rebuild(str(path), now_ms=Clock())
    assert before == rows(path)


async def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """There is nothing to rebuild."""
    ledger = Ledger.open(tmp_path / "none.db")
    with pytest.raises(LedgerMissing):
        await ledger.rebuild()
    with pytest.raises(LedgerMissing):
        await ledger.rebuild()


async def test_a_ledger_on_a_server_is_rebuilt() -> None:
    """The same there."""
    async with database() as url:
        await submit(url)
        wanted = [f"SELECT * FROM {table.name} ORDER BY 1, 2" for table in t.PROJECTIONS]
        before = [await sql(url, text) for text in wanted]
        for statement in SPOIL:
            await sql(url, statement)
        assert Rebuilt(5, 5) == await Ledger.open(url).rebuild()
        assert before == [await sql(url, text) for text in wanted]


def test_as_a_user_does_it(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says from how much, and `verify` finds nothing afterwards."""
    path = fresh_ledger(empty_folder)
    cli = CommandLine(capsys)
    done = cli("db", "rebuild", "--json", "--ledger", str(path))
    assert (0, '{"events": 0, "tasks": 0}') == (done.code, done.out.strip())
    assert "made again from 0 events of 0 tasks" in cli("db", "rebuild", "--ledger", str(path)).out
    assert cli("verify", "--ledger", str(path)).code == 0
