"""Power cuts: whatever a disk makes of what was not synced, no acknowledged event is gone and the ledger verifies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.audit import verify
from ledger.store import sqlite_reads as reads
from ledger.store.opening import open_sqlite
from ledger.store.sqlite_connection import connect
from ledger.store.sqlite_schema import REVISIONS, Found, inspect, problems
from ledger.store.tables import METADATA
from ledger.store.upgrade import SHIPPED, Migrations, upgrade
from tests.contracts.appends import Clock
from tests.ledgers import fresh_ledger
from tests.lives import life
from tests.power_cut.child import NAMES
from tests.power_cut.disk import STYLES, Call, Cut, Disk, calls, cuts
from tests.power_cut.running import compiled, laid_out, run, scratch

pytestmark = pytest.mark.slow

CHILD: Final = "tests.power_cut.child"
SEED: Final = 1

many = pytest.mark.parametrize(
    ("states", "seed"),
    [
        pytest.param(1, SEED, id="some"),
        *(pytest.param(20, seed, id=f"many {seed}", marks=pytest.mark.slow) for seed in (2, 3, 4)),
    ],
)
"""How many times the usual number of states, and which."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the shim once."""
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def room() -> Iterator[Path]:
    """Give a folder in memory."""
    with scratch() as folder:
        yield folder


class Program:
    """A run of the child: what was on the disk before, every call that it made, and its ledger."""

    def __init__(self, room: Path, before: Path | None = None) -> None:
        self.room = room
        self.folder = room / "disk"
        self.folder.mkdir(exist_ok=True)
        self.ledger = self.folder / "ledger.db"
        if before is not None:
            shutil.move(before, self.ledger)
        self.before = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        self.marks = str(self.folder / "marks")
        self.calls: list[Call] = []

    def run(self, shim: Path, deed: str, weakness: str = "", *, ledger: Path | None = None) -> Program:
        """Run it to its end; every cut of it happens afterwards, on paper."""
        log = self.room / "calls.log"
        run(shim, CHILD, self.folder, deed, str(ledger or self.ledger), self.marks, weakness, log=log)
        self.calls = calls(log)
        return self

    def cuts(self, count: int, seed: int) -> Iterator[Cut]:
        """Cut the power in so many ways."""
        return cuts(self.calls, self.before, self.marks, count, seed)


def content(path: Path) -> tuple[Any, ...]:
    """Open a file as our writer does, which recovers it, check its pages and guards, and read every row."""
    with contextlib.closing(connect(path, writer=True)) as database:
        assert () == tuple(reads.check(database))
        return tuple(tuple(database.execute(f"SELECT * FROM {table}")) for table in METADATA.tables)


class Examiner:
    """Looks at ledgers after cuts; one whose rows it has seen before is not verified again, and one in four goes on."""

    def __init__(self, names: Iterable[str] = NAMES) -> None:
        self.appends = [append for name in names for append in life(name)]
        self.seen: dict[tuple[Any, ...], frozenset[str]] = {}

    def ids(self, path: Path, promised: Iterable[str]) -> frozenset[str]:
        """Return the ids of the ledger's events, after making sure that it is whole and has what it promised."""
        rows = content(path)
        if rows not in self.seen:
            self.seen[rows] = asyncio.run(self._verified(path))
        assert [] == sorted(set(promised) - self.seen[rows]), "acknowledged, and gone"
        return self.seen[rows]

    async def _verified(self, path: Path) -> frozenset[str]:
        store = await open_sqlite(path, create=False, now_ms=Clock())
        try:
            assert (await verify(store)).problems == ()
            found = frozenset(recorded.event_id for recorded in await store.page(0, 1000))
            for append in self.appends:
                ids = {new.event_id for new in append.events}
                assert ids <= found or not ids & found, f"half an append: {ids & found} of {ids}"
            if len(self.seen) % 4 == 0:
                for append in self.appends:
                    await store.append(append)  # a repetition, or what the cut had taken away
                assert (await verify(store)).problems == ()
        finally:
            await store.aclose()
        return found


@pytest.fixture(scope="module")
def appending(shim: Path) -> Iterator[Program]:
    """Run the program that appends, once for all tests that cut it."""
    with scratch() as folder:
        yield Program(folder, fresh_ledger(folder)).run(shim, "append")


@many
def test_no_acknowledged_event_is_lost(appending: Program, room: Path, states: int, seed: int) -> None:
    """Cut at any moment of appending, folding the log back, closing and opening again: all that was promised is there.

    Appends are there whole or not at all, whatever else is lost, torn or noise; and the same appends again succeed.
    """
    examiner = Examiner()
    for cut in appending.cuts(600 * states, seed):
        with laid_out(cut.files, room / "state") as folder:
            examiner.ids(folder / "ledger.db", cut.acknowledged)
    assert len(examiner.seen) > 10


@pytest.mark.parametrize("weakness", ["normal", "early"])
def test_the_harness_finds_a_broken_promise(shim: Path, room: Path, weakness: str) -> None:
    """With synchronous=NORMAL, or an acknowledgement before COMMIT, the same cuts lose acknowledged events."""
    program = Program(room, fresh_ledger(room)).run(shim, "append", weakness)
    lost = 0
    for cut in program.cuts(100, SEED):
        with laid_out(cut.files, room / "state") as folder:
            lost += not cut.acknowledged <= event_ids(folder / "ledger.db")
    assert lost > 10


@many
def test_a_ledger_is_created_whole(shim: Path, room: Path, states: int, seed: int) -> None:
    """Cut while it is being made: the next one who may create finishes it; once it was promised it is there."""
    program, examiner = Program(room).run(shim, "create"), Examiner("a")
    for cut in program.cuts(40 * states, seed):
        with laid_out(cut.files, room / "state") as folder:
            asyncio.run(opened(folder / "ledger.db", create="created" not in cut.acknowledged))
            examiner.ids(folder / "ledger.db", cut.acknowledged - {"created"})


async def opened(path: Path, *, create: bool) -> None:
    """Open a ledger, and close it."""
    await (await open_sqlite(path, create=create, now_ms=Clock())).aclose()


@many
def test_a_cut_during_recovery(shim: Path, appending: Program, room: Path, states: int, seed: int) -> None:
    """The power goes again while the ledger recovers from a cut: still nothing acknowledged is gone."""
    promised: dict[str, frozenset[str]] = {}
    for number, cut in enumerate(appending.cuts(5, seed)):
        folder = room / "disk" / f"cut-{number}"
        folder.mkdir(parents=True)
        promised[folder.name] = cut.acknowledged
        for path, found in cut.files.items():
            (folder / Path(path).name).write_bytes(found)
    second, examiner = Program(room), Examiner((*NAMES, "z"))
    second.run(shim, "recover", " ".join(promised), ledger=second.folder)
    assert {f"{name}/" for name in promised} <= set(Path(second.marks).read_text().split())
    for cut in second.cuts(120 * states, seed):
        name, files, mine = the_latest(cut, "cut-0")
        with laid_out(files, room / "state") as folder:
            examiner.ids(folder / "ledger.db", promised[name] | mine)


def the_latest(cut: Cut, first: str) -> tuple[str, dict[str, bytes], set[str]]:
    """Of ledgers that were opened one after the other return the last: its folder, its files, what it had promised."""
    name = max((line[:-1] for line in cut.acknowledged if line.endswith("/")), default=first)
    mine = {line.removeprefix(f"{name}/") for line in cut.acknowledged if line.startswith(f"{name}/")} - {""}
    return name, {path: found for path, found in cut.files.items() if Path(path).parent.name == name}, mine


@many
def test_a_failed_sync_and_then_a_cut(shim: Path, room: Path, states: int, seed: int) -> None:
    """A sync fails and the system forgets what it was to write: whatever is acknowledged afterwards outlives a cut."""
    names = [f"{number:02}" for number in range(1, min(4 * states, 12) + 1)]
    for name in names:
        (room / "disk" / name).mkdir(parents=True)
        fresh_ledger(room).rename(room / "disk" / name / "ledger.db")
    program, examiner = Program(room), Examiner("ab")
    program.run(shim, "insist", " ".join(names), ledger=program.folder)
    assert [call.kind for call in program.calls].count(b"f") == len(names)
    for cut in program.cuts(60 * states, seed):
        _, files, mine = the_latest(cut, names[0])
        with laid_out(files, room / "state") as folder:
            examiner.ids(folder / "ledger.db", mine)


NEXT: Final = """
revision = "next"
down_revision = "{last}"

from alembic import op
import sqlalchemy as sa


def upgrade():
    op.add_column("tasks", sa.Column("note", sa.Text))
    op.execute("UPDATE tasks SET note = task_id")
"""


def one_ahead(room: Path) -> Migrations:
    """Make the migrations of a program that is one revision ahead."""
    folder = room / "migrations"
    shutil.copytree(SHIPPED.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(NEXT.format(last=REVISIONS[-1]))
    (folder / "revisions").write_text("\n".join((*REVISIONS, "next")))
    return Migrations(folder, (*REVISIONS, "next"))


async def filled(path: Path) -> None:
    """Put two tasks into a ledger."""
    store = await open_sqlite(path, create=False, now_ms=Clock())
    for append in (*life("a"), *life("b")):
        await store.append(append)
    await store.aclose()


def event_ids(path: Path) -> set[str]:
    """Return the ids of all events."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {event_id for (event_id,) in database.execute("SELECT event_id FROM events")}


@many
def test_an_upgrade_is_whole_or_not_at_all(shim: Path, room: Path, states: int, seed: int) -> None:
    """Cut at any moment of an upgrade: old or new, every event there, beside the new one a good copy of the old."""
    migrations, old = one_ahead(room), fresh_ledger(room)
    asyncio.run(filled(old))
    program = Program(room, old).run(shim, "migrate", str(migrations.folder))
    found = set()
    for cut in program.cuts(100 * states, seed):
        promised = cut.acknowledged - {"upgraded"}
        with laid_out(cut.files, room / "state") as folder:
            path = folder / "ledger.db"
            found.add(state := upgraded_or_not(path, migrations))
            assert state is Found.CURRENT or "upgraded" not in cut.acknowledged
            assert promised <= (ids := event_ids(path))
            copies = [event_ids(copy) for copy in folder.glob("*.backup") if good_copy(copy)]
            assert state is Found.OLDER or copies == [ids]
            if state is Found.OLDER and cut.at % 20 == 0:
                upgrade(path, migrations)
                assert (Found.CURRENT, ids) == (upgraded_or_not(path, migrations), event_ids(path))
    assert found == {Found.OLDER, Found.CURRENT}


def upgraded_or_not(path: Path, migrations: Migrations) -> Found:
    """Say what a file is, after making sure that it is whole and guarded."""
    with contextlib.closing(connect(path, writer=True)) as database:
        state, _ = inspect(database, migrations.revisions)
        assert [] == problems(database)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if state is Found.CURRENT:
            assert database.execute("SELECT * FROM tasks WHERE note IS NOT task_id").fetchall() == []
    return state


def good_copy(path: Path) -> bool:
    """Say whether a copy is whole; what a cut has left of one that was being made is not."""
    try:
        with contextlib.closing(connect(path, writer=False)) as database:
            found, _ = inspect(database)
            return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)] and found is Found.CURRENT
    except sqlite3.DatabaseError:
        return False


LEFT: Final = Disk({"/d/f": b"old"})
for deed in (
    Call(b"o", 5, 0, b"/d/f"),
    Call(b"w", 5, 3, b" new"),
    Call(b"s", 5, 0, b""),
    Call(b"w", 5, 7, b"er"),
    Call(b"o", 6, 0o100, b"/d/g"),
    Call(b"w", 6, 0, b"g"),
):
    LEFT.play(deed)


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("nothing", {"/d/f": b"old new"}),
        ("everything", {"/d/f": b"old newer", "/d/g": b"g"}),
        ("files only", {"/d/f": b"old newer"}),
        ("names only", {"/d/f": b"old new", "/d/g": b""}),
    ],
)
def test_a_disk_loses_what_was_not_synced(style: str, expected: Mapping[str, bytes]) -> None:
    """Files and their names are lost apart from each other; what was synced stays whatever the style."""
    assert expected == LEFT.after_cut(style, random.Random(SEED))  # noqa: S311 - nothing is drawn here
    for other in STYLES:
        assert LEFT.after_cut(other, random.Random(SEED))["/d/f"].startswith(b"old new")  # noqa: S311 - a test's choice
