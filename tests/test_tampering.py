"""Ten ways and more to tamper with a ledger: each is found, or said to need an anchor and then found with it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from clients.base import ExecutionResult
from ledger import Config, Ledger
from ledger.audit import Report, read_lines, seal_range, verify
from ledger.ports import Ports
from tests.forger import Row, behind_the_guards, forge
from tests.world import World, answer, fail

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Site:
    """A ledger with three anchors, what was kept of them elsewhere, and yesterday's copy."""

    ledger: Path
    yesterday: Path
    """From between the first anchor and the second."""
    kept: Path


async def sealed(path: Path, kept: Path) -> None:
    async with Ledger.open(path, create=False) as ledger:
        made = await seal_range(await ledger.store(), Ports())
    assert made is not None
    assert made.is_new
    with kept.open("a") as lines:
        lines.write(made.line.text() + "\n")


def priced() -> ExecutionResult:
    """Answer as the model that was asked for, which has a price."""
    result = answer()
    usage = tuple(row.model_copy(update={"model": None}) for row in result.usage)
    return result.model_copy(update={"served_model": None, "usage": usage})


async def write(folder: Path) -> Site:
    """Make a ledger of five tasks: a fallback, a failure, three successes."""
    world, kept, yesterday = World(folder), folder / "kept.txt", folder / "yesterday.db"
    async with world.executor() as executor:
        world.scripts = {"gemini-2.5-flash": [fail("overloaded"), fail("timeout"), fail("overloaded")]}
        world.script = [answer("by haiku")]
        await executor.execute("flash", "prompt", labels={"team": "a"}, idempotency_key="key")
        world.script = [fail("invalid_request", status_code=400)]
        await executor.execute("opus", "refused")
    await sealed(world.path, kept)
    world.script = [priced()]
    async with world.executor() as executor:
        await executor.execute("opus", "of yesterday")
    shutil.copy(world.path, yesterday)
    async with world.executor() as executor:
        await executor.execute("opus", "of today")
        await executor.execute("opus", "of this hour")
    await sealed(world.path, kept)
    async with world.executor() as executor:
        await executor.execute("opus", "the newest")
    await sealed(world.path, kept)
    for path in (world.path, yesterday):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Site(world.path, yesterday, kept)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Give a ledger that nobody changes."""
    return asyncio.run(write(tmp_path_factory.mktemp("tampering")))


@pytest.fixture
def site(built: Site, tmp_path: Path) -> Site:
    """Give copies that may be changed."""
    return Site(
        Path(shutil.copy(built.ledger, tmp_path / "dispatch.db")),
        Path(shutil.copy(built.yesterday, tmp_path / "yesterday.db")),
        built.kept,
    )


async def looked_at(path: Path, kept: Path | None = None) -> Report:
    lines = () if kept is None else read_lines(kept)
    async with Ledger.open(path, create=False, guarded=False) as ledger:
        return await verify(await ledger.store(), kept=lines)


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


async def test_an_untouched_ledger_holds(site: Site) -> None:
    """Against itself and against each kept line; nothing is left that no anchor covers."""
    report = await looked_at(site.ledger, site.kept)
    assert ((), 0, 6) == (report.problems, report.unanchored, report.tasks)
    assert (await looked_at(site.ledger)).ok


def statement(*texts: str) -> Change:
    def change(path: Path) -> None:
        def work(database: sqlite3.Connection) -> None:
            for text in texts:
                assert database.execute(text).rowcount > 0

        behind_the_guards(path, work)

    return change


TODAY: Final = "(SELECT task_id FROM tasks ORDER BY created_at_ms, task_id LIMIT 1 OFFSET 3)"
FIRST: Final = "(SELECT task_id FROM tasks ORDER BY created_at_ms, task_id LIMIT 1)"
OTHER_TABLES: Final = ("tasks", "attempts", "decisions", "task_labels", "payloads", "keys")


def removed(path: Path) -> None:
    """Take a whole task out of every table."""

    def work(database: sqlite3.Connection) -> None:
        (task_id,) = database.execute(f"SELECT {TODAY}").fetchone()
        for table in ("events", *OTHER_TABLES):
            database.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))

    behind_the_guards(path, work)


def cut(path: Path) -> None:
    """Take away everything after a position, in every table."""

    def work(database: sqlite3.Connection) -> None:
        (after,) = database.execute(f"SELECT min(position) FROM events WHERE task_id = {TODAY}").fetchone()
        gone = [row[0] for row in database.execute("SELECT task_id FROM events WHERE position >= ?", (after,))]
        database.execute("DELETE FROM events WHERE position >= ?", (after,))
        for table in OTHER_TABLES:
            database.executemany(f"DELETE FROM {table} WHERE task_id = ?", [(task_id,) for task_id in gone])

    behind_the_guards(path, work)


def edited(where: Callable[[Row], bool], edit: Callable[[Row], object], *, reseal: bool = False) -> Change:
    """Edit the first event that fits, as one who recomputes hashes and projections."""

    def change(path: Path) -> None:
        def work(rows: list[Row]) -> None:
            edit(next(row for row in rows if where(row)))

        forge(path, work, reseal=reseal)

    return change


def of_type(name: str) -> Callable[[Row], bool]:
    return lambda row: row["type"] == name


def forged_task(rows: list[Row]) -> list[Row]:
    """Copy the newest task under another name to the end of its range: a call that never was."""
    newest = next(row["task_id"] for row in reversed(rows) if row["type"] == "task.succeeded")
    copies = []
    for row in rows:
        if row["task_id"] == newest:
            copy = {**row, "task_id": "01990000-0000-7000-8000-00000000000f", "position": row["position"] + 1000}
            copies.append({**copy, "event_id": f"forged-{row['version']}", "data": dict(row["data"])})
            copies[-1]["data"] |= {name: None for name in row["data"] if name in {"idempotency_key", "key_digest"}}
    return sorted([*rows, *copies], key=lambda row: int(row["position"]))


def hexed(find: bytes, put: bytes) -> Change:
    """Change bytes of the file with no database in between."""

    def change(path: Path) -> None:
        content = path.read_bytes()
        assert find in content
        path.write_bytes(content.replace(find, put, 1))

    return change


ALONE: Final[dict[str, tuple[str, Change]]] = {
    "a flipped bit of a hash": (
        "hash",
        statement(
            f"UPDATE events SET hash = CAST(x'00' || substr(hash, 2) AS BLOB) WHERE task_id = {FIRST} AND version = 3"
        ),
    ),
    "an edited time": ("hash", statement(f"UPDATE events SET recorded_at_ms = 1 WHERE task_id = {TODAY}")),
    "a row dropped": ("version", statement(f"DELETE FROM events WHERE task_id = {FIRST} AND version = 3")),
    "two swapped": (
        "hash",
        statement(
            f"UPDATE events SET version = -version WHERE task_id = {FIRST} AND version IN (3, 4)",
            f"UPDATE events SET version = 7 + version WHERE task_id = {FIRST} AND version < 0",
        ),
    ),
    "an edited projection": ("projection", statement("UPDATE attempts SET cost_nano_usd = 1 WHERE attempt = 1")),
    "an edited payload": ("payload", statement("UPDATE payloads SET bytes = x'41' WHERE slot = 'prompt'")),
}
"""What a ledger shows by itself."""


def nameless(path: Path) -> None:
    """Empty a whole task whose hashes are left as they are, under the id that comes before every other."""

    def work(database: sqlite3.Connection) -> None:
        (task_id,) = database.execute(f"SELECT {TODAY}").fetchone()
        for table in OTHER_TABLES:
            database.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))
        database.execute("UPDATE events SET task_id = '', data = '{}' WHERE task_id = ?", (task_id,))

    behind_the_guards(path, work)


def unindexed(path: Path) -> None:
    """Empty a whole task likewise, and exchange the index by task for one that leaves it out."""

    def work(database: sqlite3.Connection) -> None:
        (task_id,) = database.execute(f"SELECT {TODAY}").fetchone()
        for table in OTHER_TABLES:
            database.execute(f"DELETE FROM {table} WHERE task_id = ?", (task_id,))
        database.execute("UPDATE events SET data = '{}' WHERE task_id = ?", (task_id,))
        database.execute(
            "CREATE TABLE lure (position INTEGER PRIMARY KEY, task_id TEXT, version INTEGER, UNIQUE (task_id, version))"
        )
        database.execute(
            "INSERT INTO lure SELECT position, task_id, version FROM events WHERE task_id <> ?", (task_id,)
        )
        database.commit()
        roots = dict(database.execute("SELECT name, rootpage FROM sqlite_master").fetchall())
        true, false = "sqlite_autoindex_events_2", "sqlite_autoindex_lure_1"
        database.execute("PRAGMA writable_schema = ON")
        for name, other in ((true, false), (false, true)):
            database.execute("UPDATE sqlite_master SET rootpage = ? WHERE name = ?", (roots[other], name))
        database.commit()

    behind_the_guards(path, work)


def before_the_first(path: Path) -> None:
    """Move an event to where no range of an anchor reaches."""

    def work(database: sqlite3.Connection) -> None:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("UPDATE events SET position = -1 WHERE position = 2")

    behind_the_guards(path, work)


UNSEEN: Final[dict[str, tuple[str, Change]]] = {
    "a task without a name": ("hash", nameless),
    "a task that the index leaves out": ("damaged", unindexed),
    "a label of nobody": (
        "projection",
        statement(
            "INSERT INTO task_labels (task_id, key, value, created_at_ms) VALUES ('', 'team', 'a', 1)",
        ),
    ),
    "an event before the first": (
        "position",
        before_the_first,
    ),
}
"""What would be passed over by who reads the ledger in its usual order."""


@pytest.mark.parametrize(("kind", "change"), UNSEEN.values(), ids=UNSEEN)
async def test_nothing_is_passed_over(site: Site, kind: str, change: Change) -> None:
    """What stands where no task's events are looked for is found, though every hash is one that was sealed."""
    change(site.ledger)
    assert kind in kinds(await looked_at(site.ledger, site.kept))


HEXED: Final[dict[str, tuple[str, Change]]] = {
    "a byte of the data, by hex editor": ("hash", hexed(b'"reason":"overloaded"', b'"reason":"overl0aded"')),
    "a byte of a text, by hex editor": ("payload", hexed(b"of yesterday", b"of yesterdaz")),
}
"""What it shows when the file is edited past the database."""


@pytest.mark.parametrize(("kind", "change"), HEXED.values(), ids=HEXED)
async def test_a_hex_editor_is_found(site: Site, kind: str, change: Change) -> None:
    """Bytes changed in the file itself are found by the ledger alone, as what they are."""
    change(site.ledger)
    assert kind in kinds(await looked_at(site.ledger))


@pytest.mark.slow  # each of them is in test_verify too
@pytest.mark.parametrize(("kind", "change"), ALONE.values(), ids=ALONE)
async def test_found_without_an_anchor(site: Site, kind: str, change: Change) -> None:
    """Each change is found by the ledger alone, as what it is."""
    change(site.ledger)
    assert kind in kinds(await looked_at(site.ledger))


async def test_a_task_removed_is_found_by_the_anchors_inside(site: Site) -> None:
    """An anchor counts: with a task gone from every table its range is too small."""
    removed(site.ledger)
    assert {"anchor_missing"} == kinds(await looked_at(site.ledger))


async def test_recomputed_hashes_are_found_by_the_anchors_inside(site: Site) -> None:
    """Who edits an event and recomputes its chain and projections, but no anchor, has another root."""
    edited(of_type("task.succeeded"), later)(site.ledger)
    assert {"anchor_changed"} == kinds(await looked_at(site.ledger))


def of_price(row: Row) -> bool:
    return row["type"] == "attempt.succeeded" and row["data"]["cost_nano_usd"] is not None


def data(**changes: object) -> Callable[[Row], object]:
    return lambda row: row["data"].update(changes)


def another_book(row: Row) -> None:
    """Change a published book, with its digest."""
    row["data"]["content"] += " "
    row["data"]["price_book"] = sha256(row["data"]["content"].encode()).hexdigest()


CHANGED_MONEY: Final[dict[str, tuple[str, Change]]] = {
    "a cost": ("cost", edited(of_price, data(cost_nano_usd=1), reseal=True)),
    "a cost made unknown": ("cost", edited(of_price, data(cost_nano_usd=None), reseal=True)),
    "an exposure": ("cost", edited(of_type("attempt.failed"), data(exposure_nano_usd=1), reseal=True)),
    "a bound": ("cost", edited(of_type("attempt.started"), data(upper_bound_nano_usd=1), reseal=True)),
    "a count": (
        "cost",
        edited(of_price, lambda row: row["data"]["usage"][0].update(output_tokens=6), reseal=True),
    ),
    "another book": ("cost", edited(of_price, data(price_book="0" * 64), reseal=True)),
    "a book's content": (
        "price_book",
        edited(of_type("price_book.published"), lambda row: row["data"].update(content="{}"), reseal=True),
    ),
    "a book with its digest": ("cost", edited(of_type("price_book.published"), another_book, reseal=True)),
}
"""Hashes, projections and anchors made anew; the figures no longer follow from each other."""


@pytest.mark.parametrize(("kind", "change"), CHANGED_MONEY.values(), ids=CHANGED_MONEY)
async def test_changed_money_is_found_without_an_anchor(site: Site, kind: str, change: Change) -> None:
    """A figure that does not follow from the others is found, however well its hashes are made."""
    change(site.ledger)
    assert {kind, "cost"} >= kinds(await looked_at(site.ledger)) >= {kind}


def later(row: Row) -> None:
    row["recorded_at_ms"] += 1


def gone(rows: list[Row]) -> list[Row]:
    """Leave the fourth task out."""
    ids = list(dict.fromkeys(row["task_id"] for row in rows if row["type"] == "task.submitted"))
    return [row for row in rows if row["task_id"] != ids[3]]


def emptied_anchors(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["task_id"] != "ledger:anchors"]


NEEDS_AN_ANCHOR: Final[dict[str, tuple[str, Change]]] = {
    "the tail cut": ("anchor_cut", cut),
    "a task removed, sealed anew": ("anchor_missing", lambda path: forge(path, gone, reseal=True)),
    "a time, sealed anew": ("anchor_forked", edited(of_type("task.succeeded"), later, reseal=True)),
    "the first event, sealed anew": ("anchor_ledger", edited(lambda row: row["position"] == 1, later, reseal=True)),
    "anchors removed": ("anchor_lost", lambda path: forge(path, emptied_anchors, reseal=False)),
}
"""What only a line that was kept elsewhere shows: the ledger by itself is in order."""


@pytest.mark.parametrize(("kind", "change"), NEEDS_AN_ANCHOR.values(), ids=NEEDS_AN_ANCHOR)
async def test_found_with_a_kept_anchor(site: Site, kind: str, change: Change) -> None:
    """The ledger alone says nothing; with the kept lines it is found, as what it is."""
    change(site.ledger)
    assert set() == kinds(await looked_at(site.ledger))
    assert kind in kinds(await looked_at(site.ledger, site.kept))


async def test_yesterdays_file_is_found(site: Site) -> None:
    """A restored older copy ends before the kept anchors do, and the first place that is missing is named."""
    assert (await looked_at(site.yesterday)).ok
    report = await looked_at(site.yesterday, site.kept)
    assert ["anchor_cut", "anchor_cut"] == [problem.kind for problem in report.problems]
    assert [2, 3] == [problem.version for problem in report.problems]


async def test_a_forked_history_is_found(site: Site) -> None:
    """Yesterday's copy that went on, and sealed what it did, has another history than the one kept."""
    world = World(site.yesterday.parent, ids=1000)
    site.yesterday.rename(world.path)
    async with world.executor() as executor:
        for number in range(4):
            await executor.execute("opus", f"of another today {number}")
    await sealed(world.path, site.yesterday.with_name("other.txt"))
    assert set() == kinds(await looked_at(world.path))
    assert "anchor_forked" in kinds(await looked_at(world.path, site.kept))


async def test_a_budget_that_was_not_so_is_found(tmp_path: Path) -> None:
    """Who invents spending to excuse a refusal contradicts the attempts up to the position that it names."""
    world = World(tmp_path, config=Config.from_mapping({"budget": {"max_usd_per_day": 0.000001}}))
    async with world.executor() as executor:
        assert (await executor.execute("haiku", "hello")).error_type == "budget_refused"

    def invent(rows: list[Row]) -> None:
        for row in rows:
            for seen in row["data"].get("inputs", {}).get("budgets", ()):
                seen["settled"] = 5

    forge(world.path, invent, reseal=True)
    assert {"budget"} == kinds(await looked_at(world.path))


@pytest.mark.slow
async def test_several_processes_find_the_same(site: Site) -> None:
    """In the same order, whoever looks."""
    removed(site.ledger)
    statement("UPDATE payloads SET bytes = x'41'", "UPDATE keys SET task_id = 'nobody'")(site.ledger)
    async with Ledger.open(site.ledger, create=False) as ledger:
        store = await ledger.store()
        alone = await verify(store)
        assert alone == await verify(store, processes=2)
    assert {"payload", "key", "cost", "anchor_missing", "projection"} == kinds(alone)
