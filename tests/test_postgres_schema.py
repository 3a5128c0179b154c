"""Ledgers in PostgreSQL: made once, brought up to date whole or not at all, read by index, shared by roles."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from ledger.errors import LedgerCorrupt, LedgerFull, LedgerMissing, LedgerVersion
from ledger.store import postgres_guards as guards
from ledger.store import postgres_statements as statements
from ledger.store import postgres_workers as workers
from ledger.store.opening import upgrade_store
from ledger.store.postgres_lists import page_of_tasks
from ledger.store.postgres_migrations import create, upgrade
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import TaskQuery
from ledger.store.sqlite_schema import REVISIONS
from ledger.store.tables import METADATA
from ledger.store.upgrade import SHIPPED, Migrations, Upgraded
from tests.contracts.appends import submission, ticks
from tests.postgres_server import OURS, own_database, server, sql, with_option

DOCS: Final = Path(__file__).parent.parent / "docs" / "postgresql.md"
NEXT: Final = """
revision = "9999"
down_revision = "{last}"

from alembic import op
import sqlalchemy as sa


def upgrade():
    {body}
"""
ADDS: Final = 'op.add_column("tasks", sa.Column("note", sa.Text))'


@pytest.fixture
async def empty() -> AsyncIterator[str]:
    """Give a database with nothing in it."""
    async with own_database(migrated=False) as url:
        yield url


@pytest.fixture
async def made() -> AsyncIterator[str]:
    """Give a database with an empty ledger."""
    async with own_database() as url:
        yield url


def newer(folder: Path, body: str = ADDS) -> Migrations:
    """Make the migrations of a program that is one revision ahead."""
    copy = folder / "migrations"
    shutil.copytree(SHIPPED.folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "versions" / "9999_next.py").write_text(NEXT.format(last=REVISIONS[-1], body=body))
    return Migrations(copy, (*REVISIONS, "9999"))


async def test_many_create_at_once(empty: str) -> None:
    """Whoever comes first makes it, the others find it."""
    url = PostgresUrl.parse(empty)
    stores = await asyncio.gather(*(open_postgres(url, create=True) for _ in range(4)))
    await asyncio.gather(*(store.append(ticks(f"s{number}", 0)) for number, store in enumerate(stores)))
    assert await stores[0].newest() == 4
    for store in stores:
        await store.aclose()


def test_guards_are_frozen() -> None:
    """Ledgers have been made by these very words, and are compared with them."""
    text = "\n".join(guards.statements("s"))
    frozen = hashlib.sha256(text.encode()).hexdigest()
    assert frozen == "a3f0ed43afe651ff0b9f4d3ab551634dfa78cab17727352a33eaf43ef1e50139"


async def test_migrated_is_what_the_tables_say(made: str) -> None:
    """Columns with their types, NULLs and collation, indexes with their conditions: nothing more, nothing less."""
    columns = await sql(
        made,
        "SELECT table_name, column_name, is_nullable = 'YES', data_type, collation_name "
        "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version' "
        "AND table_name NOT IN (SELECT viewname FROM pg_views WHERE schemaname = 'public')",
    )
    kinds = {
        "TEXT": ("text", "C"),
        "BIGINT": ("bigint", None),
        "BLOB": ("bytea", None),
        "DOUBLE": ("double precision", None),
    }
    believed = {
        (table.name, column.name, bool(column.nullable), *kinds[str(column.type)])
        for table in METADATA.sorted_tables
        for column in table.c
    }
    assert believed == set(columns)
    indexes = {
        name for (name,) in await sql(made, "SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public'")
    }
    named = {str(index.name) for table in METADATA.sorted_tables for index in table.indexes}
    keys = {"events_pk", "events_event_id", "events_stream", "keys_digest", "alembic_version_pkc"}
    assert indexes == named | keys | {f"{name}_pk" for name in METADATA.tables if name not in {"events", "keys"}}


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("SELECT 1", LedgerMissing, "there is no ledger"),
        ("CREATE TABLE events (id int)", LedgerCorrupt, "tables of another program"),
        ("CREATE TABLE alembic_version (version_num text)", LedgerCorrupt, "tables of another program"),
        ("CREATE TABLE customers (id int)", LedgerMissing, "there is no ledger"),
    ],
)
async def test_what_holds_no_ledger(empty: str, statement: str, error: type[Exception], words: str) -> None:
    """Somebody else's tables are left alone; beside tables of other names there is room."""
    await sql(empty, statement)
    with pytest.raises(error, match=words):
        await open_postgres(PostgresUrl.parse(empty), create=False)


async def test_a_schema_of_its_own(empty: str) -> None:
    """Beside another program's tables a ledger lives in the schema that the URL names."""
    await sql(empty, 'CREATE TABLE events (id int); CREATE SCHEMA "My Ledger"')
    store = await open_postgres(PostgresUrl.parse(with_option(empty, "search_path=%22My%20Ledger%22")), create=True)
    await store.append(ticks("s", 0))
    assert (1, ()) == (await store.newest(), await store.check())
    await store.aclose()
    assert await sql(empty, "SELECT count(*) FROM events") == [(0,)]


@pytest.mark.parametrize(("revision", "words"), [("0001", "db upgrade"), ("9999", "upgrade the program")])
async def test_another_programs_schema(made: str, revision: str, words: str) -> None:
    """Older and newer ledgers are not touched."""
    await sql(made, f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(LedgerVersion, match=words):
        await open_postgres(PostgresUrl.parse(made), create=True)


async def test_an_upgrade_keeps_everything(made: str, tmp_path: Path) -> None:
    """While a store is open: it waits, and goes on."""
    url = PostgresUrl.parse(made)
    store = await open_postgres(url, create=False)
    await store.append(submission("t"))
    assert await upgrade(url, newer(tmp_path)) == Upgraded(REVISIONS[-1], "9999", None)
    assert len(await store.append(ticks("s", 0))) == 1
    assert (2, ()) == (await store.newest(), await store.check())
    await store.aclose()
    assert await sql(made, "SELECT task_id, note FROM tasks") == [("t", None)]


async def test_nothing_to_upgrade(made: str, empty: str) -> None:
    """What is up to date is left alone, and what is no ledger is told."""
    assert await upgrade_store(made) == Upgraded(REVISIONS[-1], REVISIONS[-1], None)
    with pytest.raises(LedgerMissing, match="nothing to upgrade"):
        await upgrade_store(empty)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param('op.execute("DROP TRIGGER events_no_update ON events")', LedgerCorrupt, id="drops a guard"),
        pytest.param('op.execute("DELETE FROM events")', Exception, id="deletes events"),
        pytest.param(f'{ADDS}\n    raise ZeroDivisionError("half way")', ZeroDivisionError, id="fails half way"),
    ],
)
async def test_a_bad_migration_changes_nothing(made: str, tmp_path: Path, body: str, error: type[Exception]) -> None:
    """Guards are looked at before the commit: what fails leaves the ledger as it was."""
    store = await open_postgres(PostgresUrl.parse(made), create=False)
    await store.append(ticks("s", 0))
    with pytest.raises(error):
        await upgrade(PostgresUrl.parse(made), newer(tmp_path, body))
    assert (1, ()) == (await store.newest(), await store.check())
    await store.aclose()
    assert await sql(made, "SELECT version_num FROM alembic_version") == [(REVISIONS[-1],)]


async def test_the_roles_of_the_docs(made: str) -> None:
    """Who writes can do all that a worker does, and nothing to the guards; who reads can read."""
    name = urlsplit(made).path[1:]
    (grants,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for role in ("ledger_writer", "ledger_reader"):
        await sql(made, f"DROP ROLE IF EXISTS {role}")
    await sql(made, grants.replace("DATABASE ledger", f"DATABASE {name}"))
    try:
        writer = await open_postgres(PostgresUrl.parse(made.replace("postgres@", "ledger_writer@")), create=False)
        await writer.append(submission("t"))
        await writer.beat("w")
        assert await writer.claim("w", [None], 5, 1000) == ("t",)
        await writer.leave("w")
        await writer.aclose()
        reader = await open_postgres(PostgresUrl.parse(made.replace("postgres@", "ledger_reader@")), create=False)
        assert ("t",) == tuple(row["task_id"] for row in await reader.tasks(TaskQuery()))
        assert (1, ()) == (await reader.newest(), await reader.check())
        with pytest.raises(LedgerFull, match="its owner grants it"):
            await reader.append(ticks("s", 0))
        await reader.aclose()
        for statement in (
            "ALTER TABLE events DISABLE TRIGGER ALL",
            "DROP TRIGGER events_no_update ON events",
            "UPDATE events SET actor = ''",
            "TRUNCATE events",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql(made.replace("postgres@", "ledger_writer@"), statement)
    finally:
        await sql(made, "DROP OWNED BY ledger_writer, ledger_reader; DROP ROLE ledger_writer, ledger_reader")


@pytest.fixture(scope="module")
def filled() -> str:
    """Give a ledger of twenty thousand tasks, a tenth of them open."""
    name = f"ledger_{OURS}plans"
    url = server().of(name)

    async def fill() -> None:
        # Tests that are given away to another process of the run may come back, and the fixture with them.
        await sql(server().url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await sql(server().url, f"CREATE DATABASE {name}")
        await create(PostgresUrl.parse(url))
        await sql(
            url,
            "INSERT INTO tasks (task_id, kind, state, waiting_for, not_before_ms, waiting_since_ms, tier_requested, "
            "attempts, created_at_ms, ended_at_ms, cost_known_nano_usd, cost_unknown_attempts, worker) "
            "SELECT 'task-' || lpad(n::text, 8, '0'), 'generation', CASE WHEN n % 10 = 0 THEN 'waiting' "
            "WHEN n % 10 = 1 THEN 'failed' ELSE 'succeeded' END, CASE WHEN n % 10 = 0 THEN 'backoff' END, "
            "CASE WHEN n % 10 = 0 THEN n END, CASE WHEN n % 10 = 0 THEN n - 1 END, "
            "(ARRAY['flash','pro','haiku','sonnet','opus'])[1 + n / 10 % 5], 1, n, "
            "CASE WHEN n % 10 > 0 THEN n + 5 END, 0, 0, 'worker-' || n % 7 FROM generate_series(1, 20000) AS n; "
            "INSERT INTO task_labels SELECT task_id, 'team', 'team-' || created_at_ms % 3, created_at_ms FROM tasks; "
            "INSERT INTO attempts (task_id, attempt, purpose, step, tier, provider, request_model, state, "
            "started_at_ms, ended_at_ms, usage_source, worker, deadline_ms) SELECT task_id, 1, 'answer', 0, 'haiku', "
            "'provider-' || created_at_ms % 3, 'model-' || created_at_ms % 5, "
            "CASE WHEN ended_at_ms IS NULL THEN 'running' ELSE 'succeeded' END, created_at_ms, ended_at_ms, "
            "'unknown', worker, created_at_ms + 30000 FROM tasks",
        )
        await sql(url, "VACUUM ANALYZE")

    asyncio.run(fill())
    return url


@pytest.mark.parametrize(
    ("text", "values", "index"),
    [
        *(
            pytest.param(arm, [owner, "w", 500, 600, 10], index, id=f"{index} {number} {owner}")
            for owner in (None, "worker-1")
            for number, (arm, index) in enumerate(
                zip(workers.CLAIM_ARMS[owner is None], ("tasks_open", "tasks_open", "tasks_waiting"), strict=True)
            )
        ),
        pytest.param(workers.OWNERS, [], "tasks_open", id="owners"),
        pytest.param(workers.OWNERLESS, [], "tasks_open", id="ownerless"),
        pytest.param(workers.ENDED, ["provider-1", "model-1", 20], "attempts_ended", id="ended attempts"),
        pytest.param(statements.IN_FLIGHT, ["provider-1", "model-1", 19_990], "attempts_in_flight", id="in flight"),
        *(
            pytest.param(*page_of_tasks(query), index, id=f"list {index} {number}")
            for number, (query, index) in enumerate(
                [
                    (TaskQuery(), "tasks_by_time"),
                    (TaskQuery(after=(900, "task-00000900")), "tasks_by_time"),
                    (TaskQuery(state="failed"), "tasks_by_state"),
                    (TaskQuery(tier="opus"), "tasks_by_"),  # a fifth of all: by time does as well
                    (TaskQuery(labels={"team": "team-1"}), "task_labels_by_value"),
                    (TaskQuery(labels={"team": "team-1"}, state="succeeded"), "task_labels_by_value"),
                ]
            )
        ),
    ],
)
def test_an_index_is_read(filled: str, text: str, values: list[Any], index: str) -> None:
    """No table is walked through, and little is read."""
    steps = list(walk(asyncio.run(explained(filled, text, values))))
    assert [step for step in steps if str(step.get("Index Name")).startswith(index)] != []
    scanned = [step for step in steps if step["Node Type"] == "Seq Scan" and step["Relation Name"] != "claims"]
    assert scanned == []
    assert max(step["Actual Rows"] for step in steps if "Scan" in step["Node Type"]) <= 1000


async def explained(url: str, text: str, values: list[Any]) -> dict[str, Any]:
    """Return how a statement was run."""
    connection = await asyncpg.connect(url)
    prepared = await connection.prepare(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}")
    plan: dict[str, Any] = json.loads(await prepared.fetchval(*values))[0]["Plan"]
    await connection.close()
    return plan


def walk(plan: dict[str, Any]) -> Any:
    """Yield every step of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from walk(part)
