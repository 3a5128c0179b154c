"""The views: the figures of a plain recomputation, to the last unit, on both engines, whatever a ledger holds."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.store import tables as t
from ledger.store.opening import open_sqlite, open_store
from ledger.store.projection import project_stream
from ledger.store.rebuilding import furnishings
from ledger.store.views import INDEXES, LATENCY_MS_MAX, POSTGRES_VIEWS, SQLITE_VIEWS, VIEWS
from tests.contracts.appends import Clock, transactions
from tests.ledgers import fresh_ledger
from tests.postgres_server import database, own_database, sql
from tests.walks import Walk, histories

Row = Mapping[str, Any]
Rows = list[tuple[Any, ...]]

DAY_MS: Final = 86_400_000
NOON_MS: Final = 20_000 * DAY_MS + DAY_MS // 2
INT64_MAX: Final = 2**63 - 1
COLUMNS: Final = {
    "tier_cost": (
        *("day", "tier", "model", "purpose", "attempts", "tokens_input", "tokens_output", "cost_nano_usd"),
        *("cost_unknown_attempts", "exposure_nano_usd", "exposure_unknown_attempts"),
    ),
    "tier_latency": ("day", "tier", "model", "attempts", "mean_ms", "p50_ms", "p95_ms", "p99_ms", "max_ms"),
}


def attempt(number: int = 1, **told: Any) -> Row:
    """Return a row of ``attempts``: an answer of a priced model, but for what is told."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in t.attempts.c)
    row |= {"task_id": f"task-{number}", "attempt": 1, "purpose": "generate", "step": 0, "tier": "haiku"}
    row |= {"provider": "anthropic", "request_model": "asked", "response_model": "served", "state": "succeeded"}
    row |= {"started_at_ms": NOON_MS, "ended_at_ms": NOON_MS + 1, "latency_ms": 1, "usage_source": "provider"}
    row |= {"worker": "w", "tokens_input": 10, "tokens_output": 20, "cost_nano_usd": 3}
    return row | told


def day(at_ms: int) -> str:
    """Return the UTC day of an instant."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Put rows together by day, tier, model and what else is named."""
    groups = defaultdict(list)
    for row in rows:
        model = row["request_model"] if row["response_model"] is None else row["response_model"]
        groups[day(row["started_at_ms"]), row["tier"], model, *(row[key] for key in keys)].append(row)
    return groups


def known(values: Sequence[int | None]) -> int | None:
    """Add up what is known."""
    found = [value for value in values if value is not None]
    return min(sum(found), INT64_MAX) if found else None


def costs(rows: Sequence[Row]) -> Rows:
    """Recompute ``tier_cost``."""
    made = []
    for key, group in grouped(rows, "purpose").items():
        unknown = [row["exposure_nano_usd"] for row in group if row["cost_nano_usd"] is None]
        sums = [known([row[name] for row in group]) for name in ("tokens_input", "tokens_output", "cost_nano_usd")]
        exposure = known(unknown) if unknown else 0
        made.append((*key, len(group), *sums, len(unknown), exposure, unknown.count(None)))
    return sorted(made)


def latencies(rows: Sequence[Row]) -> Rows:
    """Recompute ``tier_latency``."""
    answers = [row for row in rows if (row["purpose"], row["state"]) == ("generate", "succeeded")]
    made = []
    for key, group in grouped([row for row in answers if row["latency_ms"] is not None]).items():
        took = sorted(row["latency_ms"] for row in group)
        ranks = [min(took[-(-len(took) * percent // 100) - 1], LATENCY_MS_MAX) for percent in (50, 95, 99)]
        made.append((*key, len(took), round(Fraction(sum(took), len(took))), *ranks, took[-1]))
    return sorted(made)


def filled(path: Path, rows: Sequence[Row]) -> None:
    """Give a ledger these attempts and no others."""
    with closing(sqlite3.connect(path)) as ledger, ledger:
        ledger.execute("DELETE FROM attempts")
        names = list(attempt())
        text = f"INSERT INTO attempts ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        ledger.executemany(text, [tuple(row.values()) for row in rows])


def viewed(path: Path, view: str) -> Rows:
    """Read a view as a careful stranger would."""
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("PRAGMA trusted_schema = OFF")
        cursor = ledger.execute(f"SELECT * FROM {view}")
        assert COLUMNS[view] == tuple(column[0] for column in cursor.description)
        return sorted(cursor.fetchall())


EDGES: Final[Mapping[str, Sequence[Row]]] = {
    "nothing": [],
    "one attempt": [attempt()],
    "unpriced beside priced": [attempt(1), attempt(2, cost_nano_usd=None)],
    "an orphan": [attempt(state="orphaned", cost_nano_usd=None, exposure_nano_usd=9, latency_ms=None)],
    "unpriced alone": [attempt(cost_nano_usd=None, tokens_input=None, tokens_output=None)],
    "not billed": [attempt(state="failed", cost_nano_usd=0, tokens_input=None, latency_ms=5)],
    "settled late": [attempt(state="settled", exposure_nano_usd=8, latency_ms=7)],
    "a judge": [attempt(purpose="validate")],
    "midnight": [attempt(n, started_at_ms=20_000 * DAY_MS - 1 + n, latency_ms=n) for n in range(2)],
    "the first instant": [attempt(started_at_ms=0)],
    "served as asked by two names": [attempt(n, request_model=f"name-{n}", latency_ms=9 - n) for n in range(4)],
    "ties": [attempt(n, latency_ms=7 + n // 15) for n in range(20)],
    "a mean to the even": [attempt(n, latency_ms=2 + n) for n in range(4)],
    "twenty-one": [attempt(n, latency_ms=1000 - n) for n in range(21)],
    "too much for 64 bits": [
        attempt(n, cost_nano_usd=INT64_MAX, tokens_input=INT64_MAX, latency_ms=INT64_MAX - n) for n in range(3)
    ],
    "unknown beyond 64 bits": [attempt(n, cost_nano_usd=None, exposure_nano_usd=INT64_MAX) for n in range(2)],
}

counts = st.none() | st.integers(0, 9) | st.integers(0, INT64_MAX)
drawn = st.builds(
    lambda **told: told,
    purpose=st.sampled_from(["generate", "generate", "validate"]),
    tier=st.sampled_from(["flash", "opus"]),
    response_model=st.sampled_from([None, "served", "asked"]),
    state=st.sampled_from(["running", "succeeded", "succeeded", "failed", "orphaned", "settled"]),
    started_at_ms=st.sampled_from([NOON_MS, NOON_MS + DAY_MS, 20_000 * DAY_MS]) | st.integers(0, 100 * DAY_MS),
    latency_ms=counts,
    tokens_input=counts,
    tokens_output=counts,
    cost_nano_usd=counts,
    exposure_nano_usd=counts,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a fresh ledger's file."""
    return fresh_ledger(tmp_path)


@pytest.mark.parametrize("case", EDGES)
def test_a_view_is_what_anybody_would_add_up(path: Path, case: str) -> None:
    """Unknown is never zero, ranks are values that occurred, days are UTC, and nothing is too large."""
    filled(path, EDGES[case])
    assert (costs(EDGES[case]), latencies(EDGES[case])) == (viewed(path, "tier_cost"), viewed(path, "tier_latency"))


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(drawn, max_size=30))
def test_any_attempts_are_added_up(path: Path, rows: list[Row]) -> None:
    """Whatever the attempts are, with the indexes or without them."""
    made = [attempt(number, **row) for number, row in enumerate(rows)]
    filled(path, made)
    assert (costs(made), latencies(made)) == (viewed(path, "tier_cost"), viewed(path, "tier_latency"))
    with closing(sqlite3.connect(path)) as ledger:
        for name in INDEXES:
            ledger.execute(f"DROP INDEX {name}")
        assert costs(made) == sorted(ledger.execute("SELECT * FROM tier_cost"))
        assert latencies(made) == sorted(ledger.execute("SELECT * FROM tier_latency ORDER BY day DESC"))
        for statement in furnishings(is_file=True):
            ledger.execute(statement)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(walks=st.lists(histories(), min_size=1, max_size=4))
def test_the_views_are_those_of_the_events(tmp_path: Path, walks: list[Walk]) -> None:
    """What a new fold of the events gives, added up by hand."""

    async def compare() -> None:
        path = fresh_ledger(tmp_path)
        store = await open_sqlite(path, create=False, now_ms=Clock())
        rows: list[Row] = []
        for number, walk in enumerate(walks):
            for append in transactions(f"task-{number}", walk):
                await store.append(append)
            rows += project_stream(await store.read(f"task-{number}")).attempts
        await store.aclose()
        assert (costs(rows), latencies(rows)) == (viewed(path, "tier_cost"), viewed(path, "tier_latency"))

    asyncio.run(compare())


async def test_postgresql_gives_the_same_rows(path: Path) -> None:
    """The same columns, figures and types: integers, never decimals."""
    dice = random.Random(7)  # noqa: S311 - the same each time
    many = [
        attempt(
            number,
            tier=dice.choice(["flash", "opus"]),
            latency_ms=dice.choice([None, dice.randrange(5000), INT64_MAX - dice.randrange(9)]),
            cost_nano_usd=dice.choice([None, dice.randrange(10**9), INT64_MAX]),
            exposure_nano_usd=dice.choice([None, 5, INT64_MAX]),
            started_at_ms=NOON_MS + dice.randrange(3 * DAY_MS),
        )
        for number in range(500)
    ]
    async with database() as url, closing_server(url) as server:
        for rows in (*EDGES.values(), many):
            filled(path, rows)
            await server.execute("DELETE FROM attempts")
            values = [tuple(row.values()) for row in rows]
            await server.copy_records_to_table("attempts", records=values, columns=list(attempt()))
            for view, names in COLUMNS.items():
                found = await server.fetch(f"SELECT * FROM {view}")
                assert viewed(path, view) == sorted(tuple(row) for row in found)
                assert all(tuple(row.keys()) == names for row in found)
                assert {type(value) for row in found for value in row} <= {int, str, type(None)}
            with closing(sqlite3.connect(path)) as ledger:
                here = ledger.execute("SELECT * FROM attempts_iso ORDER BY 1").fetchall()
            assert here == [tuple(row) for row in await server.fetch("SELECT * FROM attempts_iso ORDER BY 1")]
        await server.execute("DELETE FROM attempts")


@asynccontextmanager
async def closing_server(url: str) -> AsyncIterator[Any]:
    """Connect as a stranger would, for as long as the block lasts."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000Z", id="the first instant"),
        pytest.param(951_868_799_999, "2000-02-29T23:59:59.999Z", id="a leap day's last"),
        pytest.param(1_790_000_000_007, "2026-09-21T14:13:20.007Z", id="milliseconds with zeros"),
        pytest.param(253_402_300_799_999, "9999-12-31T23:59:59.999Z", id="the last that has a text"),
        pytest.param(253_402_300_800_000, None, id="the first that has none"),
        pytest.param(INT64_MAX, None, id="the largest"),
    ],
)
def test_instants_as_text(path: Path, at_ms: int, text: str | None) -> None:
    """An instant stands in a column of the same name without its unit."""
    filled(path, [attempt(started_at_ms=at_ms, ended_at_ms=None)])
    with closing(sqlite3.connect(path)) as ledger:
        found = ledger.execute("SELECT started_at, ended_at, started_at_ms FROM attempts_iso").fetchall()
    assert [(text, None, at_ms)] == found


@pytest.mark.parametrize(("view", "index"), [("tier_cost", "attempts_by_day"), ("tier_latency", "attempts_by_latency")])
def test_a_view_reads_an_index_alone(path: Path, view: str, index: str) -> None:
    """No row of the table is touched."""
    with closing(sqlite3.connect(path)) as ledger:
        plan = [row[3] for row in ledger.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {view}")]
    touched = [line for line in plan if "attempts" in line]
    assert touched
    assert all(f"COVERING INDEX {index}" in line for line in touched), plan


@pytest.mark.parametrize(
    ("made", "frozen"),
    [
        pytest.param(INDEXES, "8d8b51b44f32334336e6ac684c6e0ede6f39623691b03cec23256dd2e8fe35db", id="indexes"),
        pytest.param(
            SQLITE_VIEWS, "2a7a6ff543c99711f93342a70ed33f057dd460b66ef46e8f775d175fc5f656c0", id="views of a file"
        ),
        pytest.param(
            POSTGRES_VIEWS, "98d97e863fed2c1c08865e8b5b7397234348305e957800744ac8d92855a12ac8", id="views of a server"
        ),
    ],
)
def test_what_migration_0003_makes_is_frozen(made: Mapping[str, str], frozen: str) -> None:
    """Ledgers have been made by these very words, and are compared with them; new words are for a new migration."""
    assert frozen == hashlib.sha256("\n".join(made.values()).encode()).hexdigest()


@pytest.mark.parametrize(
    "spoil",
    [
        *(pytest.param(f"DROP VIEW {view}", id=view) for view in VIEWS),
        *(pytest.param(f"DROP INDEX {name}", id=name) for name in (*INDEXES, "tasks_by_time")),
        pytest.param("DROP VIEW tier_cost; CREATE VIEW tier_cost AS SELECT 0 AS day", id="another in its place"),
    ],
)
async def test_what_is_missing_is_found_and_made_again(path: Path, spoil: str) -> None:
    """`db check` names it, and what `db rebuild` runs makes it as it was."""
    with closing(sqlite3.connect(path)) as ledger:
        ledger.executescript(spoil)
    store = await open_sqlite(path, create=False, now_ms=Clock())
    found = await store.check()
    assert ["schema"] == [problem.kind for problem in found]
    assert "db rebuild" in found[0].detail
    with closing(sqlite3.connect(path)) as ledger:
        for statement in furnishings(is_file=True):
            ledger.execute(statement)
    assert await store.check() == ()
    await store.aclose()


async def test_what_is_missing_on_a_server_is_found_and_made_again() -> None:
    """The same there."""
    async with own_database() as url:
        await sql(url, "DROP VIEW tier_latency")
        await sql(url, "DROP INDEX attempts_by_day")
        store = await open_store(url, create=False, now_ms=Clock())
        assert ["index attempts_by_day", "view tier_latency"] == [
            problem.detail.split(" is ")[0] for problem in await store.check()
        ]
        for statement in furnishings(is_file=False):
            await sql(url, statement)
        assert await store.check() == ()
        await store.aclose()
