"""SQLite's own disasters: other hands on the file, locks, full disks, forks, and what happens to a caller meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.envelope import Append, Payload
from ledger.errors import (
    ConfigurationError,
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerMissing,
    LedgerVersion,
)
from ledger.store import sqlite_writer
from ledger.store.opening import open_sqlite, open_store, parse_url
from ledger.store.sqlite import SqliteStore
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_errors import as_ledger_error, is_busy
from tests.contracts.store_contract import Clock, submission, task, tick
from tests.ledgers import fresh_ledger

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a fresh ledger's file."""
    return fresh_ledger(tmp_path)


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open it."""
    store = await open_sqlite(path, create=False, now_ms=Clock(), busy_deadline_s=0.3)
    yield store
    await store.aclose()


@contextlib.contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as a stranger would, with none of our pragmas."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        yield database


def dump(database: sqlite3.Connection) -> list[Any]:
    """Read all events."""
    return database.execute("SELECT * FROM events ORDER BY position").fetchall()


async def filled(path: Path) -> None:
    """Put a task's ten events into the ledger, and two of another stream."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await store.append(task("t"))
    await store.append(Append("s", 0, (tick("s", 1), tick("s", 2))))
    await store.aclose()


COLUMNS = "task_id, version, event_id, type, schema_version, recorded_at_ms, actor, fence, data, prev_hash, hash"
LINK = "(SELECT hash FROM events WHERE task_id = 's' ORDER BY version DESC LIMIT 1)"
REST = f"'x', 1, 1, 'system', 0, '{{}}', {LINK}, zeroblob(32)"


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE events SET data = '{}'", id="update"),
        pytest.param("UPDATE events SET fence = fence WHERE position = 1", id="update to the same"),
        pytest.param("UPDATE OR REPLACE events SET event_id = 's/1' WHERE event_id = 's/2'", id="update or replace"),
        pytest.param("UPDATE OR IGNORE events SET data = '{}'", id="update or ignore"),
        pytest.param("DELETE FROM events", id="delete all"),
        pytest.param("DELETE FROM events WHERE position = 12", id="delete the last"),
        pytest.param(
            f"INSERT OR REPLACE INTO events ({COLUMNS}) VALUES ('s', 2, 'new', {REST})", id="replace a version"
        ),
        pytest.param(
            f"INSERT OR REPLACE INTO events ({COLUMNS}) VALUES ('s', 3, 's/1', {REST})", id="replace an event id"
        ),
        pytest.param(
            f"INSERT OR REPLACE INTO events (position, {COLUMNS}) VALUES (12, 's', 3, 'new', {REST})",
            id="replace a position",
        ),
        pytest.param(f"REPLACE INTO events ({COLUMNS}) VALUES ('s', 1, 's/1', {REST})", id="replace"),
        pytest.param(
            f"INSERT INTO events ({COLUMNS}) VALUES ('s', 2, 's/2', {REST}) ON CONFLICT DO UPDATE SET data = '{{}}'",
            id="upsert",
        ),
        pytest.param(f"INSERT OR IGNORE INTO events ({COLUMNS}) VALUES ('s', 4, 'new', {REST})", id="a gap, ignored"),
        pytest.param(f"INSERT INTO events ({COLUMNS}) VALUES ('s', 4, 'new', {REST})", id="a gap"),
        pytest.param(f"INSERT INTO events ({COLUMNS}) VALUES ('s', NULL, 'new', {REST})", id="no version"),
        pytest.param(
            f"INSERT INTO events (position, {COLUMNS}) VALUES (3, 's', 3, 'new', {REST})", id="a position taken"
        ),
        pytest.param(f"INSERT INTO events (position, {COLUMNS}) VALUES (0, 's', 3, 'new', {REST})", id="position 0"),
        pytest.param(f"INSERT INTO events (position, {COLUMNS}) VALUES (-1, 's', 3, 'new', {REST})", id="position -1"),
        pytest.param(
            f"INSERT INTO events ({COLUMNS}) VALUES ('s', 3, 'new', {REST.replace(LINK, 'zeroblob(32)')})",
            id="not linked",
        ),
        pytest.param(
            f"INSERT INTO events ({COLUMNS}) VALUES ('s', 3, 'new', {REST.replace('zeroblob(32)', 'zeroblob(31)')})",
            id="a short hash",
        ),
        pytest.param(
            f"INSERT INTO events ({COLUMNS}) VALUES ('s', 3, 'new', {REST.replace('1, 1', '1, 1.5')})", id="no integer"
        ),
    ],
)
async def test_events_cannot_be_changed_by_hand(path: Path, statement: str) -> None:
    """A stranger with plain SQL changes nothing: refused by the file itself, whatever the connection's settings."""
    await filled(path)
    with by_hand(path) as database:
        before = dump(database)
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)
        assert len(before) == 12
        assert before == dump(database)


def without_schema_guard(statement: str) -> str:
    """Write into the schema itself."""
    return f"PRAGMA writable_schema = ON; {statement}; PRAGMA writable_schema = RESET"


TAMPERED = [
    pytest.param("DROP TRIGGER events_no_update", "events_no_update is missing", id="no guard against update"),
    pytest.param("DROP TRIGGER events_no_delete", "events_no_delete is missing", id="no guard against delete"),
    pytest.param("DROP TRIGGER events_only_append", "events_only_append is missing", id="no guard against replace"),
    pytest.param(
        "DROP TRIGGER events_no_update; CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT 1; END",
        "events_no_update is not as it was made",
        id="a guard that lets through",
    ),
    pytest.param(
        "CREATE TRIGGER swallow BEFORE INSERT ON events BEGIN SELECT RAISE(IGNORE); END",
        "swallow was not made by the ledger",
        id="a trigger that swallows events",
    ),
    pytest.param("ALTER TABLE events ADD COLUMN note TEXT", "table events is not as it was made", id="a column more"),
    pytest.param("ALTER TABLE events RENAME TO old", "table events is missing", id="the table renamed"),
    pytest.param(
        without_schema_guard("DELETE FROM sqlite_master WHERE name = 'events_no_delete'"),
        "events_no_delete is missing",
        id="the schema written by hand",
    ),
    pytest.param(
        "DROP VIEW attempts_iso; ALTER TABLE attempts DROP COLUMN worker",
        "table attempts lacks worker",
        id="a column less",
    ),
    pytest.param("DROP TABLE task_labels", "table task_labels lacks", id="a table less"),
]


@pytest.mark.parametrize(("statements", "found"), TAMPERED)
async def test_fallen_guards_are_found_at_open(path: Path, statements: str, found: str) -> None:
    """A ledger whose guards do not stand is not opened, and the message names what is wrong."""
    with by_hand(path) as database:
        database.executescript(statements)
    with pytest.raises(LedgerCorrupt, match=found):
        await open_sqlite(path, create=False, now_ms=Clock())


@pytest.mark.parametrize(("statements", "found"), TAMPERED)
async def test_fallen_guards_are_found_by_a_check(path: Path, store: SqliteStore, statements: str, found: str) -> None:
    """Guards that fall while the ledger is open are findings of ``check``."""
    with by_hand(path) as database:
        database.executescript(statements)
    assert [problem for problem in await store.check() if found in problem.detail]


async def test_views_and_indexes_of_users_are_welcome(path: Path, store: SqliteStore) -> None:
    """What only reads is nobody's harm."""
    with by_hand(path) as database:
        database.executescript("CREATE VIEW mine AS SELECT * FROM tasks; CREATE INDEX mine_too ON tasks (tier_final)")
    assert await store.check() == ()


async def test_damage_is_found(path: Path) -> None:
    """Pages overwritten on the disk are a finding, or an error that says so."""
    await filled(path)
    overwrite(path)
    with pytest.raises(LedgerCorrupt):
        await damage_in(path)


def overwrite(path: Path) -> None:
    """Put noise in the place of a few pages."""
    damaged = bytearray(path.read_bytes())
    damaged[8192:20480] = bytes(number * 37 % 251 for number in range(12288))
    path.write_bytes(damaged)


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def damage_in(path: Path) -> None:
    """Raise what is found."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    try:
        for problem in await store.check():
            raise LedgerCorrupt(problem.detail)
    finally:
        await store.aclose()


async def test_a_missing_ledger(tmp_path: Path) -> None:
    """Who only reads does not create; nothing is left behind."""
    with pytest.raises(LedgerMissing):
        await open_sqlite(tmp_path / "none.db", create=False, now_ms=Clock())
    with pytest.raises(LedgerMissing, match="folder"):
        await open_sqlite(tmp_path / "no" / "folder.db", create=True, now_ms=Clock())
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda path: path.mkdir(), LedgerCorrupt, id="a folder"),
        pytest.param(lambda path: path.write_text("a shopping list " * 100), LedgerCorrupt, id="a text"),
        pytest.param(lambda path: scripted(path, "CREATE TABLE mine (a)"), LedgerCorrupt, id="somebody else's"),
        pytest.param(
            lambda path: scripted(path, "CREATE TABLE alembic_version (version_num); CREATE TABLE events (a)"),
            LedgerCorrupt,
            id="another program's migrations",
        ),
    ],
)
async def test_what_is_no_ledger_is_left_alone(
    tmp_path: Path,
    make: Callable[[Path], Any],
    error: type[LedgerError],
    create: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """It is refused in clear words and not one byte of it changes."""
    path = tmp_path / "other"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error):
        await open_sqlite(path, create=create, now_ms=Clock())
    assert before == (path.read_bytes() if path.is_file() else None)


def scripted(path: Path, statements: str) -> None:
    """Make a database of one's own."""
    with by_hand(path) as database:
        database.executescript(statements)


@pytest.mark.parametrize(
    ("revision", "hint"),
    [pytest.param("0000", "newer", id="unknown: newer"), pytest.param("9999", "upgrade the program", id="newer")],
)
async def test_a_newer_schema_is_refused(path: Path, revision: str, hint: str) -> None:
    """A revision that this program does not know was written by a newer one."""
    scripted(path, f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(LedgerVersion, match=hint):
        await open_sqlite(path, create=True, now_ms=Clock())


async def test_a_ledger_that_was_begun_is_finished(tmp_path: Path) -> None:
    """A creation that was killed leaves a file without tables: the next one makes them."""
    path = tmp_path / "begun.db"
    scripted(path, "PRAGMA journal_mode = WAL")
    with pytest.raises(LedgerMissing):
        await open_sqlite(path, create=False, now_ms=Clock())
    store = await open_sqlite(path, create=True, now_ms=Clock())
    assert await store.check() == ()
    await store.aclose()


async def test_an_empty_file_becomes_a_ledger_for_who_writes(tmp_path: Path) -> None:
    """An empty file is none for a reader; a writer makes it one, for our eyes only."""
    path = tmp_path / "empty.db"
    path.touch(0o644)
    with pytest.raises(LedgerMissing):
        await open_sqlite(path, create=False, now_ms=Clock())
    store = await open_sqlite(path, create=True, now_ms=Clock())
    await store.aclose()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["with space.db", "100%.db", "what?.db", "a#b.db", "ünï.db", "-dash", "a'b.db"])
async def test_names_of_files_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    """Whatever a file is called, that is the file."""
    store = await open_store(str(tmp_path / name), create=True, now_ms=Clock())
    await store.append(submission("t"))
    await store.aclose()
    assert [name] == names_in(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dispatch.db", Path("dispatch.db")),
        ("./a/b.db", Path("a/b.db")),
        ("sqlite:///dispatch.db", Path("dispatch.db")),
        ("sqlite:////srv/ledgers/d.db", Path("/srv/ledgers/d.db")),
        ("~/d.db", Path.home() / "d.db"),
    ],
)
def test_a_ledger_is_named(text: str, expected: Path) -> None:
    """A plain path or an URL of SQLite."""
    assert expected == parse_url(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://localhost/ledger", "expected a path"),
        ("sqlite://d.db", "expected a path"),
        ("sqlite:///", "names no file"),
        ("", "names no file"),
        (":memory:", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("file:d.db?mode=ro", "names no file"),
        ("sqlite:///d.db?mode=ro", "options"),
        ("a\0b", "names no file"),
        ("x" * 300, "cannot be the name"),
        ("~nobody-of-this-name/d.db", "cannot be the name"),
    ],
    ids=lambda text: repr(text)[:40],
)
def test_what_names_no_ledger(text: str, words: str) -> None:
    """Other schemes, and names that stand for no file."""
    with pytest.raises(ConfigurationError, match=words):
        parse_url(text)


async def test_a_work_that_fails_leaves_nothing(store: SqliteStore) -> None:
    """What it had written is rolled back, its caller is told, and the writer goes on."""

    def work(database: sqlite3.Connection, now_ms: int) -> None:
        database.execute("INSERT INTO workers VALUES ('w', 1, ?, ?)", (now_ms, now_ms))
        raise ZeroDivisionError

    with pytest.raises(LedgerError, match="ZeroDivisionError"):
        await store.write(work)
    assert await store.workers() == ()
    await store.beat("w")
    assert len(await store.workers()) == 1


async def test_beats_and_appends_take_turns(store: SqliteStore) -> None:
    """Neither keeps the other from being written."""
    beats = (store.beat(f"w{number % 3}") for number in range(30))
    appends = (store.append(Append(f"s{number}", 0, (tick(f"s{number}", 1),))) for number in range(200))
    await asyncio.gather(*beats, *appends)
    assert [10, 10, 10] == [worker.beats for worker in await store.workers()]
    assert await store.newest() == 200


async def test_only_we_may_read_it(tmp_path: Path) -> None:
    """Database, log and shared memory are 0600 whatever the umask."""
    before = os.umask(0)
    try:
        store = await open_sqlite(tmp_path / "d.db", create=True, now_ms=Clock())
        await store.append(submission("t"))
        modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names_in(tmp_path)}
        await store.aclose()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("d.db", "d.db-wal", "d.db-shm"), 0o600)
    assert names_in(tmp_path) == ["d.db"]


@pytest.mark.parametrize(
    ("writer", "expected"),
    [
        (True, {"journal_mode": "wal", "synchronous": 2, "query_only": 0}),
        (False, {"query_only": 1, "recursive_triggers": 1, "foreign_keys": 1}),
        (True, {"trusted_schema": 0, "secure_delete": 1, "recursive_triggers": 1, "foreign_keys": 1}),
    ],
)
async def test_the_settings_took(path: Path, writer: bool, expected: dict[str, Any]) -> None:  # noqa: FBT001 - a column
    """Durable at COMMIT, and readers that cannot write."""
    with contextlib.closing(connect(path, writer=writer)) as database:
        actual = {name: database.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
    assert expected == actual


async def test_a_reader_cannot_write(store: SqliteStore) -> None:
    """A function that is given to a reader changes nothing."""
    with pytest.raises(LedgerFull, match="readonly"):
        await store.run(lambda database: database.execute("DELETE FROM tasks"))


async def test_a_lock_that_is_let_go_is_waited_for(path: Path, store: SqliteStore) -> None:
    """An append waits while an outsider holds the file, and lands when it is free."""
    with by_hand(path) as database:
        database.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(submission("t")))
        done, _ = await asyncio.wait((append,), timeout=0.05)
        assert not done
        assert await store.read("t") == ()
        database.execute("COMMIT")
        assert len(await append) == 1


async def test_a_lock_that_is_kept_is_told(path: Path, store: SqliteStore) -> None:
    """Past the deadline the append is refused, nothing was written, and the same append succeeds later."""
    with by_hand(path) as database:
        database.execute("BEGIN IMMEDIATE")
        outcomes = await asyncio.gather(
            store.append(submission("t")), store.append(submission("u")), return_exceptions=True
        )
        assert [LedgerBusy, LedgerBusy] == [type(outcome) for outcome in outcomes]
    assert len(await store.append(submission("t"))) == 1
    assert len(await store.page(0, 9)) == 1


async def test_a_file_that_nobody_may_read(path: Path) -> None:
    """Somebody keeps the whole file for himself: opening it waits, then says so."""
    with by_hand(path) as database:
        database.executescript("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT")
        with pytest.raises(LedgerBusy):
            await open_sqlite(path, create=False, now_ms=Clock(), busy_deadline_s=0.05)
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await store.aclose()


async def test_a_caller_that_leaves_a_locked_ledger(path: Path, store: SqliteStore) -> None:
    """It is cancelled at once; what it had handed over is written when the lock is free."""
    with by_hand(path) as database:
        database.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(submission("t")))
        await asyncio.sleep(0.01)
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
    assert len(await store.append(submission("t"))) == 1


async def test_a_full_disk(store: SqliteStore) -> None:
    """The append is refused, the ledger stays whole and readable, and goes on when there is room."""
    await store.append(submission("t"))
    (pages,) = await on_writer(store, "PRAGMA page_count")
    await on_writer(store, f"PRAGMA max_page_count = {pages}")
    large = Append("s", 0, (tick("s", 1, mark="x" * 100_000),))
    with pytest.raises(LedgerFull):
        await store.append(large)
    assert (len(await store.read("t")), await store.read("s")) == (1, ())
    await on_writer(store, "PRAGMA max_page_count = 1000000")
    assert len(await store.append(large)) == 1
    assert await store.check() == ()


async def on_writer(store: SqliteStore, pragma: str) -> Any:
    """Set something on the connection that writes."""
    driver = await store._writer._driver()  # noqa: SLF001 - a fault has to be put where nobody else can reach
    return await driver.run(lambda database: database.execute(pragma).fetchone())


def failure(name: str) -> sqlite3.OperationalError:
    """Make an error as SQLite raises it."""
    error = sqlite3.OperationalError("words that mean nothing")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "expected", "busy"),
    [
        ("SQLITE_BUSY", LedgerBusy, True),
        ("SQLITE_BUSY_SNAPSHOT", LedgerBusy, True),
        ("SQLITE_LOCKED", LedgerBusy, True),
        ("SQLITE_FULL", LedgerFull, False),
        ("SQLITE_IOERR_FSYNC", LedgerFull, False),
        ("SQLITE_READONLY_DBMOVED", LedgerFull, False),
        ("SQLITE_CANTOPEN", LedgerFull, False),
        ("SQLITE_CORRUPT_VTAB", LedgerCorrupt, False),
        ("SQLITE_NOTADB", LedgerCorrupt, False),
        ("SQLITE_ERROR", LedgerCorrupt, False),
        ("SQLITE_MISUSE", LedgerError, False),
    ],
)
def test_failures_are_told_by_their_codes(name: str, expected: type[LedgerError], busy: bool) -> None:  # noqa: FBT001 - a column
    """What to do next follows from SQLite's result code; the message names code and file."""
    error = as_ledger_error(failure(name), "d.db")
    assert (expected, busy) == (type(error), is_busy(failure(name)))
    assert "d.db" in str(error)
    assert name in str(error)


async def test_appends_share_a_transaction(path: Path) -> None:
    """Callers at the same instant are written together: far fewer transactions than appends."""
    asked = 0

    def clock() -> int:
        nonlocal asked
        asked += 1
        return asked

    store = await open_sqlite(path, create=False, now_ms=clock)
    await asyncio.gather(*(store.append(Append(f"s{n}", 0, (tick(f"s{n}", 1),))) for n in range(200)))
    await store.aclose()
    assert asked <= 10


async def test_closing_finishes_what_was_handed_over(path: Path) -> None:
    """Appends under way are written before the ledger is let go; no thread and no task is left."""
    threads = set(threading.enumerate())
    store = await open_sqlite(path, create=False, now_ms=Clock())
    appends = [asyncio.create_task(store.append(submission(f"t{number}"))) for number in range(100)]
    reads = [asyncio.create_task(store.page(0, 10)) for _ in range(10)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [1] * 100 == [len(await append) for append in appends]
    await asyncio.wait(reads)
    for read in reads:
        assert read.exception() is None or isinstance(read.exception(), LedgerError)
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)
    assert threads >= set(threading.enumerate())
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_a_locked_ledger(path: Path, store: SqliteStore) -> None:
    """An append that never got the lock is refused, and closing does not wait for ever."""
    with by_hand(path) as database:
        database.execute("BEGIN IMMEDIATE")
        append = asyncio.create_task(store.append(submission("t")))
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await store.aclose()
        with pytest.raises(LedgerBusy):
            await append


def log_in(path: Path) -> int:
    """Return the bytes of the write-ahead log."""
    return path.with_name(path.name + "-wal").stat().st_size


def mark_in(path: Path) -> int:
    """Return the mark as the file alone bears it."""
    return int.from_bytes(path.read_bytes()[60:64])


async def test_the_log_stays_small(path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading page by page holds no snapshot in between, so the write-ahead log is folded back again and again."""
    monkeypatch.setattr(sqlite_writer, "MARK_AFTER", 1000)
    mark = "x" * 2000
    position = 0
    for number in range(60):
        streams = [f"{number}-{n}" for n in range(47)]
        await asyncio.gather(*(store.append(Append(name, 0, (tick(name, 1, mark=mark),))) for name in streams))
        page = await store.page(position, 100)
        position = page[-1].position
    assert log_in(path) < 8_000_000


async def test_long_texts_are_marked_too(path: Path, store: SqliteStore) -> None:
    """A few appends fill the log with their texts: it is written back with the mark before SQLite does it without."""
    text = b"x" * 2**20
    for number in range(40):
        await store.append(Append(f"s{number}", 0, (tick(f"s{number}", 1),), (Payload("p", b"", text),)))
    assert mark_in(path) == 1
    assert log_in(path) < 30 * 2**20


def program(text: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program of ours in another process."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", text, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


WRITING = """
import asyncio, sys
from pathlib import Path
from ledger.envelope import Append
from ledger.errors import VersionConflict
from ledger.store.opening import open_sqlite
from tests.contracts.store_contract import Clock, tick

async def shared(store, name):
    while True:
        version = len(await store.read("shared"))
        try:
            return await store.append(Append("shared", version, (tick(name, 1),)))
        except VersionConflict:
            continue

async def main(path, me):
    print("ready", flush=True)
    sys.stdin.readline()
    store = await open_sqlite(Path(path), create=True, now_ms=Clock())
    for number in range(50):
        name = f"{me}-{number}"
        await store.append(Append(name, 0, (tick(name, 1),)))
        if number % 5 == 0:
            await shared(store, f"{me}-shared-{number}")
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def test_two_processes_make_and_fill_one_ledger(tmp_path: Path) -> None:
    """Both create it at the same instant and succeed, none loses an event, and a stream they share stays in order."""
    path = tmp_path / "shared.db"
    writers = [program(WRITING, str(path), me) for me in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [(0, ""), (0, "")] == [(writer.returncode, text) for writer, text in zip(writers, said, strict=True)]
    with by_hand(path) as database:
        events = database.execute("SELECT position, task_id, version FROM events ORDER BY position").fetchall()
    assert list(range(1, 121)) == [position for position, _, _ in events]
    assert list(range(1, 21)) == [version for _, task_id, version in events if task_id == "shared"]


FORKING = """
import asyncio, os, sys
from pathlib import Path
from ledger.errors import LedgerError
from ledger.store.opening import open_sqlite
from tests.contracts.store_contract import Clock, submission

async def main(path):
    store = await open_sqlite(Path(path), create=False, now_ms=Clock())
    assert "alembic" not in sys.modules, "a ledger that is up to date needs no migrations"
    await store.append(submission("t"))
    pid = os.fork()
    if pid == 0:
        told = []
        for use in (store.append(submission("u")), store.read("t")):
            try:
                await use
            except LedgerError as error:
                told.append("forked" in str(error))
        await store.aclose()
        os._exit(0 if told == [True, True] else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(len(await store.append(submission("v"))))
    await store.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def test_a_forked_child_is_refused(path: Path) -> None:
    """A connection does not survive a fork: the child is told so, the parent goes on."""
    forking = program(FORKING, str(path))
    said, _ = forking.communicate(timeout=60)
    assert (0, ["0", "1"]) == (forking.returncode, said.split())


async def test_a_text_that_is_no_utf8_can_still_be_read(path: Path, store: SqliteStore) -> None:
    """A byte changed by hand shows in the text, and the hash tells; other events are as they were."""
    await store.append(submission("t"))
    with by_hand(path) as database:
        database.execute("DROP TRIGGER events_no_update")
        database.execute("UPDATE events SET data = CAST(data || x'ff' AS TEXT)")
    (changed,) = await store.read("t")
    assert changed.data.endswith("\ufffd")
    assert changed.computed_hash() != changed.hash


async def test_a_lost_salt_is_named(path: Path, store: SqliteStore) -> None:
    """Without the salt no key can be found; that is damage, and said so."""
    with by_hand(path) as database:
        database.execute("DELETE FROM salts")
    with pytest.raises(LedgerCorrupt, match="salt of the keys"):
        await store.key_salt()


async def test_texts_and_keys_without_a_task_are_named(path: Path, store: SqliteStore) -> None:
    """What stands under a task that has no events is found, in whichever table it is."""
    with by_hand(path) as database:
        database.execute("INSERT INTO payloads VALUES ('ghost-text', 'prompt', x'00', x'00')")
        database.execute("INSERT INTO keys VALUES (x'01', 'ghost-key')")
    assert ("ghost-key", "ghost-text") == tuple(await store.projected_task_ids("", 10))
