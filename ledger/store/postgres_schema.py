"""What a database in PostgreSQL is: which schema it has, and whether the guards of its events stand as they were made.

Compared is what the catalogue holds as it was written (a function's source, a trigger's bits), not what the server
prints of it: that differs between its versions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.errors import LedgerCorrupt, LedgerMissing, LedgerVersion
from ledger.store import postgres_guards as guards
from ledger.store.postgres_connection import Driver
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import Problem
from ledger.store.sqlite_schema import REVISIONS, Found
from ledger.store.tables import METADATA
from ledger.store.views import POSTGRES_VIEWS

__all__ = ["furnishing_problems", "inspect", "problems", "refuse"]

CONSTRAINTS: Final = {
    "events_pk": "p position",
    "events_event_id": "u event_id",
    "events_stream": "u task_id version",
}
CALLED: Final = ["search_path=pg_catalog, pg_temp"]

TABLES: Final = (
    "SELECT relname FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind <> 'i'"
)
MARK: Final = "SELECT obj_description(to_regclass(quote_ident(current_schema()) || '.events'), 'pg_class')"
REVISION: Final = "SELECT version_num FROM alembic_version"
FUNCTIONS: Final = """
SELECT p.proname, p.prosrc, p.proconfig, p.prosecdef, l.lanname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = quote_ident(current_schema())::regnamespace AND p.proname = ANY($1::text[]) AND p.pronargs = 0
"""
TRIGGERS: Final = """
SELECT t.tgname, t.tgtype::int, t.tgenabled::text, t.tgqual IS NULL AND cardinality(t.tgattr) = 0 AS always, p.proname,
    p.pronamespace = quote_ident(current_schema())::regnamespace AS ours
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = to_regclass(quote_ident(current_schema()) || '.events') AND NOT t.tgisinternal
"""
EVENTS: Final = """
SELECT relpersistence::text, relrowsecurity, relkind::text,
    ARRAY(SELECT rulename::text FROM pg_rewrite WHERE ev_class = c.oid ORDER BY 1) AS rules,
    ARRAY(SELECT concat_ws(' ', conname, contype::text, string_agg(attname, ' ' ORDER BY place)) FROM pg_constraint
          CROSS JOIN unnest(conkey) WITH ORDINALITY AS key(number, place)
          JOIN pg_attribute ON attrelid = conrelid AND attnum = number
          WHERE conrelid = c.oid AND convalidated AND NOT condeferrable AND contype IN ('p', 'u')
          GROUP BY conname, contype) AS constraints
FROM pg_class c WHERE c.oid = to_regclass(quote_ident(current_schema()) || '.events')
"""
SEQUENCE: Final = """
SELECT last_value < (SELECT coalesce(max(position), 0) FROM events) AS behind FROM events_position
"""
COLUMNS: Final = """
SELECT relname, attname FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
"""

FURNISHINGS: Final = """
SELECT CASE relkind WHEN 'v' THEN 'view ' ELSE 'index ' END || relname
FROM pg_class LEFT JOIN pg_index ON indexrelid = pg_class.oid
WHERE relnamespace = quote_ident(current_schema())::regnamespace AND (relkind = 'v' OR (relkind = 'i' AND indisvalid))
"""


async def inspect(connection: Driver, revisions: Sequence[str] = REVISIONS) -> tuple[Found, str | None]:
    """Return what the database holds in the schema that its user works in, and the revision of its tables.

    Raises:
        LedgerMissing: there is no such schema.
    """
    if await connection.fetchval("SELECT current_schema()") is None:
        raise LedgerMissing("the schema that search_path names is not there: CREATE SCHEMA makes it")
    ours = {*METADATA.tables, "alembic_version"}
    tables = ours & {row[0] for row in await connection.fetch(TABLES)}
    if not tables:
        return Found.EMPTY, None
    if not {"events", "alembic_version"} <= tables or await connection.fetchval(MARK) != guards.MARK:
        return Found.FOREIGN, None
    revision = await connection.fetchval(REVISION)
    if revision == revisions[-1]:
        return Found.CURRENT, revision
    return Found.OLDER if revision in revisions else Found.NEWER, revision


def refuse(url: PostgresUrl, found: Found, revision: str | None, revisions: Sequence[str] = REVISIONS) -> None:
    """Raise what keeps this program from using a database that holds something.

    Raises:
        LedgerCorrupt: its tables are somebody else's.
        LedgerVersion: its schema is older or newer.
    """
    match found:
        case Found.FOREIGN:
            raise LedgerCorrupt(
                f"{url} has tables of another program under our names; name another database, or another schema by "
                "?search_path=NAME"
            )
        case Found.OLDER:
            raise LedgerVersion(
                f"{url} has schema {revision}, this program needs {revisions[-1]}: run `dispatch-ledger db upgrade`"
            )
        case Found.NEWER:
            raise LedgerVersion(
                f"{url} has schema {revision}, which is newer than this program's {revisions[-1]}: upgrade the program"
            )
        case Found.EMPTY | Found.CURRENT:
            return


async def problems(connection: Driver) -> list[Problem]:
    """Compare guards and tables with what they have to be."""
    schema = await connection.fetchval("SELECT quote_ident(current_schema())")
    functions = {row["proname"]: row for row in await connection.fetch(FUNCTIONS, list(guards.FUNCTIONS))}
    triggers = {row["tgname"]: row for row in await connection.fetch(TRIGGERS)}
    found = [_function(name, body.replace("{schema}", schema), functions) for name, body in guards.FUNCTIONS.items()]
    found += [_trigger(name, expected, triggers) for name, expected in guards.TRIGGERS.items()]
    strangers = [_stranger(f"trigger {name}") for name in sorted(triggers.keys() - guards.TRIGGERS.keys())]
    of_events = _events(await connection.fetchrow(EVENTS))
    missing = await _missing_columns(connection)
    told = [problem for problem in found if problem is not None]
    return [*told, *strangers, *of_events, *missing, *([] if missing else await _sequence(connection))]


def _function(name: str, body: str, functions: Mapping[str, Mapping[str, Any]]) -> Problem | None:
    row = functions.get(name)
    if row is None:
        return _problem("guard_missing", f"function {name} is missing: events are not protected")
    actual = (row["prosrc"], row["proconfig"], row["prosecdef"], row["lanname"])
    if actual != (body, CALLED, False, "plpgsql"):
        return _problem("guard_changed", f"function {name} is not as it was made: events are not protected")
    return None


def _trigger(name: str, expected: guards.Trigger, triggers: Mapping[str, Mapping[str, Any]]) -> Problem | None:
    row = triggers.get(name)
    if row is None:
        return _problem("guard_missing", f"trigger {name} is missing: events are not protected")
    if row["tgenabled"] != "A":
        return _problem("guard_changed", f"trigger {name} is not always enabled: events are not protected")
    if (row["tgtype"], row["proname"], row["always"], row["ours"]) != (expected.kind, expected.function, True, True):
        return _problem("guard_changed", f"trigger {name} is not as it was made: events are not protected")
    return None


def _events(row: Mapping[str, Any] | None) -> list[Problem]:
    """Look at what else could change, swallow, hide or lose events."""
    if row is None:
        return []
    found = [_stranger(f"rule {name}") for name in row["rules"]]
    if row["relrowsecurity"]:
        found.append(_problem("guard_unexpected", "row security of events hides rows"))
    if (row["relpersistence"], row["relkind"]) != ("p", "r"):
        found.append(_problem("schema", "events is not a table that outlives a crash of the server"))
    for name, definition in CONSTRAINTS.items():
        if f"{name} {definition}" not in row["constraints"]:
            found.append(_problem("guard_missing", f"constraint {name} is missing: events are not protected"))
    return found


async def _sequence(connection: Driver) -> list[Problem]:
    if not await connection.fetchval(SEQUENCE):
        return []
    return [_problem("schema", "the sequence events_position is behind the newest event: nothing can be appended")]


async def _missing_columns(connection: Driver) -> list[Problem]:
    there = {(name, column) for name, column in await connection.fetch(COLUMNS)}
    missing = []
    for table in METADATA.sorted_tables:
        absent = [column.name for column in table.c if (table.name, column.name) not in there]
        if absent:
            missing.append(_problem("schema", f"table {table.name} lacks {', '.join(absent)}"))
    return missing


async def furnishing_problems(connection: Driver) -> list[Problem]:
    """Look for the views and indexes: without them nothing is lost, and questions have no answer or a slow one."""
    found = {name for (name,) in await connection.fetch(FURNISHINGS)}
    wanted = {f"view {name}" for name in POSTGRES_VIEWS}
    wanted |= {f"index {index.name}" for table in METADATA.sorted_tables for index in table.indexes}
    return [
        _problem("schema", f"{name} is missing: `dispatch-ledger db rebuild` makes it")
        for name in sorted(wanted - found)
    ]


def _stranger(what: str) -> Problem:
    return _problem("guard_unexpected", f"{what} was not made by the ledger; it can change or swallow rows")


def _problem(kind: str, detail: str) -> Problem:
    return Problem(kind, None, None, detail)
