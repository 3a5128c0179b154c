"""Migrations: a new ledger is what the tables say, an old one is brought up to date whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from sqlalchemy import create_engine

from ledger.errors import LedgerCorrupt, LedgerError, LedgerFull, LedgerMissing, LedgerVersion
from ledger.store.opening import open_sqlite
from ledger.store.projection import project_stream
from ledger.store.protocol import TaskQuery
from ledger.store.sqlite_schema import FINGERPRINT, REVISIONS, Found, inspect, problems
from ledger.store.tables import METADATA
from ledger.store.upgrade import SHIPPED, Migrations, Upgraded, create, upgrade
from ledger.store.views import VIEWS
from tests.command_line import CONFIG, CommandLine
from tests.contracts.appends import Clock, submission, transactions
from tests.histories import START_MS, History, request, step
from tests.ledgers import fresh_ledger
from tests.walks import Walk, histories

GOLDEN = Path(__file__).parent / "golden" / "ledgers"
"""Ledgers as older programs left them, dumped as SQL: of each revision one, never written again."""

NEXT = """
revision = "0004"
down_revision = "0003"

from alembic import op
import sqlalchemy as sa


def upgrade():
    {body}
"""

ADDS = 'op.add_column("tasks", sa.Column("note", sa.Text))'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a fresh ledger's file."""
    return fresh_ledger(tmp_path)


def newer(tmp_path: Path, body: str = ADDS) -> Migrations:
    """Make the migrations of a program that is one revision ahead."""
    folder = tmp_path / "migrations of 100%"
    shutil.copytree(SHIPPED.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "0004_next.py").write_text(NEXT.format(body=body))
    return Migrations(folder, (*REVISIONS, "0004"))


def by_hand(path: Path) -> contextlib.closing[sqlite3.Connection]:
    """Open the file as anybody would."""
    return contextlib.closing(sqlite3.connect(path, isolation_level=None))


def scripted(path: Path, statements: str) -> None:
    """Make a database of one's own."""
    with by_hand(path) as database:
        database.executescript(statements)


def old_ledger(folder: Path, revision: str = "0001") -> Path:
    """Make the ledger that a program of an older revision had left."""
    path = folder / "old.db"
    scripted(path, (GOLDEN / f"{revision}.sql").read_text())
    return path


def made_old(path: Path) -> Path:
    """Give a ledger's rows to a program of revision 0001: columns that it did not know are left out."""
    older = path.with_name(f"{path.name}.old")
    lines = (GOLDEN / "0001.sql").read_text().split(";\n")
    scripted(older, ";\n".join(line for line in lines if "INSERT INTO" not in line or "alembic_version" in line))
    with by_hand(older) as database:
        database.execute("ATTACH ? AS new", (str(path),))
        for (table,) in database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if table in METADATA.tables:
                columns = ", ".join(f'"{row[1]}"' for row in database.execute(f"PRAGMA main.table_info({table})"))
                database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")
        database.execute("UPDATE main.tasks SET waiting_for = 'backoff' WHERE waiting_for = 'breaker'")
    return older


async def assert_as_folded(path: Path) -> None:
    """Compare all rows with a new fold of the events."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    for task_id in await store.projected_task_ids("", 1000):
        assert project_stream(await store.read(task_id)) == await store.projected(task_id)
    assert await store.check() == ()
    await store.aclose()


def schema(database: sqlite3.Connection, table: str) -> Any:
    """Describe a table as SQLite sees it: columns, strictness, indexes with their columns."""
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    kind = database.execute("SELECT wr, strict FROM pragma_table_list WHERE name = ?", (table,)).fetchall()
    indexes = {
        name: (unique, origin, database.execute(f"PRAGMA index_info({name})").fetchall())
        for _, name, unique, origin, _ in database.execute(f"PRAGMA index_list({table})")
    }
    sql = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return columns, kind, indexes, "".join(sql[0].split())


async def appended(path: Path, task_id: str = "t") -> None:
    """Put a task into the ledger."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await store.append(submission(task_id))
    await store.aclose()


@pytest.mark.parametrize("table", [table.name for table in METADATA.sorted_tables])
def test_migrated_is_what_the_tables_say(path: Path, tmp_path: Path, table: str) -> None:
    """Every table, made by the migrations, is the one that the program believes in: STRICT, with rowid, indexed."""
    declared = tmp_path / "declared.db"
    engine = create_engine(f"sqlite:///{declared}")
    METADATA.create_all(engine)
    engine.dispose()
    with by_hand(path) as migrated, by_hand(declared) as believed:
        assert schema(believed, table) == schema(migrated, table)
        assert schema(migrated, table)[1] == [(0, 1)]


def test_nothing_else_is_made(path: Path) -> None:
    """Beside our tables and views there are SQLite's and Alembic's."""
    with by_hand(path) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    assert names == {*METADATA.tables, *VIEWS, "sqlite_sequence", "alembic_version"}


def test_the_guards_stand(path: Path) -> None:
    """A new ledger has no finding, and every guard is one that the fingerprint knows."""
    with by_hand(path) as database:
        assert problems(database) == []
        triggers = {
            f"trigger {name}" for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        }
    assert FINGERPRINT.keys() - {"table events"} == triggers


def test_revisions_are_the_folder(path: Path) -> None:
    """The list of revisions names the files that are there, and a new ledger is at the last."""
    files = sorted(file.name[:4] for file in (SHIPPED.folder / "versions").glob("[0-9]*.py"))
    assert list(REVISIONS) == files
    with by_hand(path) as database:
        assert (Found.CURRENT, REVISIONS[-1]) == inspect(database)


def test_each_ledger_has_its_own_salt(tmp_path: Path) -> None:
    """Keys of two ledgers cannot be compared."""
    salts = []
    for name in ("a.db", "b.db"):
        create(tmp_path / name)
        with by_hand(tmp_path / name) as database:
            salts += database.execute("SELECT name, length(salt), salt FROM salts").fetchall()
    assert [("keys", 32), ("keys", 32)] == [(name, length) for name, length, _ in salts]
    assert salts[0] != salts[1]


def test_many_create_at_once(tmp_path: Path) -> None:
    """Whoever comes second finds the ledger made; all come back without an error."""
    failures: list[BaseException] = []

    def make() -> None:
        try:
            create(tmp_path / "d.db")
        except BaseException as error:  # noqa: BLE001 - told to the test, in its own thread
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with by_hand(tmp_path / "d.db") as database:
        assert database.execute("SELECT count(*) FROM salts").fetchone() == (1,)


async def test_an_older_ledger_is_upgraded(path: Path, tmp_path: Path) -> None:
    """The schema moves on, events and guards stay, and a copy of before lies beside it, for our eyes only."""
    await appended(path)
    with by_hand(path) as database:
        before = database.execute("SELECT * FROM events").fetchall()
    done = upgrade(path, newer(tmp_path))
    assert done == Upgraded("0003", "0004", path.with_name(path.name + ".0003.backup"))
    with by_hand(path) as database:
        assert database.execute("SELECT note FROM tasks").fetchall() == [(None,)]
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0004",)]
        assert before == database.execute("SELECT * FROM events").fetchall()
        assert problems(database) == []
    assert done.backup is not None
    assert stat.S_IMODE(done.backup.stat().st_mode) == 0o600
    with by_hand(done.backup) as copy:
        assert before == copy.execute("SELECT * FROM events").fetchall()
        assert (Found.CURRENT, "0003") == inspect(copy)


@pytest.mark.parametrize("revision", [file.stem for file in sorted(GOLDEN.glob("*.sql"))])
async def test_a_real_old_ledger_is_upgraded(tmp_path: Path, revision: str) -> None:
    """What an older program had written is, column for column, what this program would have."""
    path = old_ledger(tmp_path, revision)
    with by_hand(path) as database:
        assert (Found.OLDER, revision) == inspect(database)
        before = database.execute("SELECT * FROM events").fetchall()
    assert (revision, REVISIONS[-1]) == (upgrade(path).from_revision, REVISIONS[-1])
    await assert_as_folded(path)
    with by_hand(path) as database:
        assert before == database.execute("SELECT * FROM events").fetchall()


async def test_old_tasks_get_their_workers(tmp_path: Path) -> None:
    """The owner, whoever started last, or nobody since a person let it go; and since when it waits."""
    path = old_ledger(tmp_path)
    upgrade(path)
    store = await open_sqlite(path, create=False, now_ms=Clock())
    workers = {row["task_id"]: row["worker"] for row in await store.tasks(TaskQuery())}
    waits = {row["task_id"]: row["waiting_since_ms"] for row in await store.tasks(TaskQuery(state="waiting"))}
    await store.aclose()
    shown = ("nobodys", "owned", "running", "taken-over", "held", "released", "released-and-started")
    assert [None, "1", "2", "3", "1", None, "4"] == [(workers[task_id] or "")[-1:] or None for task_id in shown]
    assert {"held": None, "waits": START_MS, "waits-again": START_MS + 1000, "released-and-waits": START_MS} == waits


def test_an_upgraded_ledger_is_clean(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user does it: the upgrade, then the verifier."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    cli = CommandLine(capsys)
    for tier in ("flash", "haiku", "opus"):
        cli("run", "-t", tier, "hello", "--ledger", "new.db")
    older = str(made_old(empty_folder / "new.db"))
    assert [0, 0] == [cli(*line, "--ledger", older).code for line in (["db", "upgrade"], ["verify"])]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@example(walk=Walk((tuple(History(request(route=(step(),))).brake().events),)))
@given(walk=histories())
def test_any_old_history_is_upgraded(tmp_path: Path, walk: Walk) -> None:
    """Whatever a task had come to, its rows are those of a new fold afterwards."""

    async def compare() -> None:
        path = fresh_ledger(tmp_path)
        store = await open_sqlite(path, create=False, now_ms=Clock())
        for append in transactions("t", walk):
            await store.append(append)
        await store.aclose()
        older = made_old(path)
        upgrade(older)
        await assert_as_folded(older)

    asyncio.run(compare())


async def test_damaged_events_do_not_keep_from_upgrading(tmp_path: Path) -> None:
    """What they said stays unknown; the verifier tells of the damage."""
    path = old_ledger(tmp_path)
    with by_hand(path) as database:
        guards = database.execute("SELECT sql FROM sqlite_master WHERE name = 'events_no_update'").fetchall()
        database.execute("DROP TRIGGER events_no_update")
        database.execute("UPDATE events SET data = 'no JSON' WHERE task_id IN ('running', 'waits')")
        database.execute(*guards[0])
    upgrade(path)
    with by_hand(path) as database:
        found = database.execute(
            "SELECT task_id, worker, waiting_since_ms FROM tasks WHERE task_id IN ('running', 'waits')"
        )
        assert found.fetchall() == [("running", None, None), ("waits", None, None)]


async def test_an_older_ledger_is_not_opened(path: Path, tmp_path: Path) -> None:
    """It says which command helps; the program that is behind says that it is."""
    migrations = newer(tmp_path)
    with by_hand(path) as database:
        assert (Found.OLDER, "0003") == inspect(database, migrations.revisions)
    with pytest.raises(LedgerVersion, match="dispatch-ledger db upgrade"):
        create(path, migrations)
    upgrade(path, migrations)
    with pytest.raises(LedgerVersion, match="newer than this program"):
        await open_sqlite(path, create=True, now_ms=Clock())
    with pytest.raises(LedgerVersion, match="newer than this program"):
        upgrade(path)


def test_nothing_to_upgrade(path: Path) -> None:
    """A ledger that is up to date is left alone, without a backup."""
    before = path.read_bytes()
    assert upgrade(path) == Upgraded(REVISIONS[-1], REVISIONS[-1], None)
    assert before == path.read_bytes()
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param('op.execute("DROP TRIGGER events_no_delete")', LedgerCorrupt, id="drops a guard"),
        pytest.param(
            'with op.batch_alter_table("events") as batch: batch.add_column(sa.Column("note", sa.Text))',
            LedgerCorrupt,
            id="alters events in batch mode",
        ),
        pytest.param('op.execute("DELETE FROM events")', LedgerError, id="deletes events"),
        pytest.param('op.execute("no SQL at all")', LedgerCorrupt, id="is wrong"),
        pytest.param(f'{ADDS}\n    raise ZeroDivisionError("half way")', ZeroDivisionError, id="fails half way"),
    ],
)
async def test_a_bad_migration_changes_nothing(path: Path, tmp_path: Path, body: str, error: type[Exception]) -> None:
    """Guards are looked at before the commit: what fails leaves the ledger as it was, and the copy beside it."""
    await appended(path)
    with pytest.raises(error):
        upgrade(path, newer(tmp_path, body))
    store = await open_sqlite(path, create=False, now_ms=Clock())
    assert (1, ()) == (len(await store.read("t")), await store.check())
    await store.aclose()
    with by_hand(path.with_name(path.name + ".0003.backup")) as copy:
        assert (Found.CURRENT, "0003") == inspect(copy)


async def test_backups_do_not_replace_each_other(path: Path, tmp_path: Path) -> None:
    """An older backup of the same name stays."""
    first = path.with_name(path.name + ".0003.backup")
    first.write_text("precious")
    done = upgrade(path, newer(tmp_path))
    assert (done.backup, first.read_text()) == (path.with_name(path.name + ".0003.backup-2"), "precious")


async def test_a_backup_holds_the_log_as_well(path: Path, tmp_path: Path) -> None:
    """What is only in the write-ahead log of a ledger in use is in the backup; the user of the ledger goes on."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    await store.append(submission("t"))
    done = await asyncio.to_thread(upgrade, path, newer(tmp_path))
    await store.append(submission("u"))
    await store.aclose()
    assert done.backup is not None
    with by_hand(done.backup) as copy:
        assert copy.execute("SELECT task_id FROM tasks").fetchall() == [("t",)]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda _: None, LedgerMissing, id="nothing"),
        pytest.param(lambda path: path.touch(), LedgerMissing, id="an empty file"),
        pytest.param(lambda path: path.write_text("a text " * 1000), LedgerCorrupt, id="a text"),
        pytest.param(lambda path: path.mkdir(), LedgerMissing, id="a folder"),
        pytest.param(lambda path: scripted(path, "CREATE TABLE mine (a)"), LedgerCorrupt, id="somebody else's"),
    ],
)
def test_what_cannot_be_upgraded(tmp_path: Path, make: Any, error: type[LedgerError]) -> None:
    """Clear words for what is no ledger."""
    path = tmp_path / "other"
    make(path)
    with pytest.raises(error):
        upgrade(path)


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    """A folder that is not there, told as what it is."""
    with pytest.raises(LedgerFull):
        create(tmp_path / "none" / "d.db")
