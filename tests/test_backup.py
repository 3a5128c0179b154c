"""Backups: whole while others write; and a file that was copied without its log is recognised."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ledger.audit import verify
from ledger.errors import LedgerCorrupt, LedgerFull, LedgerMissing, RequestRefused
from ledger.store.backing_up import back_up
from ledger.store.opening import open_store
from ledger.store.sqlite_witness import has_log
from tests.command_line import CONFIG, CommandLine, sql
from tests.contracts.appends import Clock, ticks
from tests.ledgers import fresh_ledger
from tests.test_copying import opened
from tests.world import World


async def test_a_backup_under_load(tmp_path: Path) -> None:
    """Made between two commits of a busy writer: a whole ledger at one instant, in one file, for our eyes only."""
    path = fresh_ledger(tmp_path)
    async with opened(str(path)) as store:
        await store.append(ticks("breaker:p/m", 0, 5))

        async def go_on() -> None:
            for number in range(40):
                await store.append(ticks(f"breaker:p/m{number}", 0, 2))

        made, _ = await asyncio.gather(asyncio.to_thread(back_up, path), go_on())
        later = await asyncio.to_thread(back_up, path)
        second = await asyncio.to_thread(back_up, path)
    assert made.path.name == f"{path.name}.{made.newest}.backup"
    assert (later.newest, second.path.name) == (85, f"{path.name}.85.backup-2")
    assert (mode(later.path), has_log(later.path), left(tmp_path)) == (0o600, False, [])
    assert sql(later.path, "SELECT count(*), max(position) FROM events") == [(85, 85)]
    assert sql(made.path, "SELECT count(*) FROM events") == [(made.newest,)]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def left(folder: Path) -> list[str]:
    """Name what was left unfinished."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_backed_up(tmp_path: Path) -> None:
    """Nothing, an existing name, a folder that is not there, a damaged ledger; nothing is left behind."""
    path, taken = fresh_ledger(tmp_path), tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(LedgerMissing):
        back_up(tmp_path / "none.db")
    with pytest.raises(RequestRefused, match="exists already"):
        back_up(path, taken)
    with pytest.raises(LedgerFull):
        back_up(path, tmp_path / "no" / "folder.db")
    content = bytearray(path.read_bytes())
    content[4096:40000] = bytes(40000 - 4096)
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt):
        back_up(path)
    assert (taken.read_text(), left(tmp_path)) == ("mine", [])


def copied(source: Path, folder: Path, *ends: str) -> Path:
    """Copy a file, with what is named of what stands beside it."""
    folder.mkdir()
    for end in ("", *ends):
        shutil.copyfile(f"{source}{end}", folder / f"{source.name}{end}")
    return folder / source.name


async def events(path: Path) -> int:
    store = await open_store(str(path), create=False, now_ms=Clock())
    try:
        assert (await verify(store)).problems == ()
        return len(await store.page(0, 100))
    finally:
        await store.aclose()


async def test_a_file_without_its_log_is_refused(tmp_path: Path) -> None:
    """While a worker has it open; with its log, or once it was closed, it is whole."""
    world = World(tmp_path / "live")
    world.folder.mkdir()
    async with world.executor() as executor:
        await executor.execute("haiku", "hello")
        count = len(await (await executor.ledger.store()).page(0, 100))
        bereft = copied(world.path, tmp_path / "bereft")
        whole = copied(world.path, tmp_path / "whole", "-wal")
    closed = copied(world.path, tmp_path / "closed")
    for _ in range(2):  # to look at it makes no difference
        with pytest.raises(LedgerCorrupt, match="newest events are missing"):
            await events(bereft)
    assert [await events(path) for path in (whole, closed, whole)] == [count] * 3
    sql(bereft, "PRAGMA user_version = 0")
    assert await events(bereft) < count


async def test_a_busy_file_is_never_without_its_mark(tmp_path: Path) -> None:
    """However often the log is written back into it: a copy made at any moment after the first beat is told."""
    path, marks = fresh_ledger(tmp_path), []
    async with opened(str(path)) as store:
        await store.beat("worker:busy")
        for round_ in range(80):
            await asyncio.gather(*(store.append(ticks(f"breaker:p/{round_}-{n}", 0, 9)) for n in range(20)))
            marks.append(path.read_bytes()[60:64])
    assert set(marks) == {bytes([0, 0, 0, 1])}
    assert path.read_bytes()[60:64] == bytes(4)


async def test_a_process_killed_between_the_two_is_no_alarm(tmp_path: Path) -> None:
    """Its log is there: whoever opens the ledger next sets it right, also one who only reads."""
    path = fresh_ledger(tmp_path)
    async with opened(str(path)) as store:
        await store.append(ticks("breaker:p/m", 0, 2))
        with closing(sqlite3.connect(path)) as killed:
            killed.execute("PRAGMA user_version = 1")
        at_the_kill = copied(path, tmp_path / "kill", "-wal")
    for _ in range(2):
        async with opened(str(at_the_kill)) as store:
            assert await store.newest() == 2
    assert sql(at_the_kill, "PRAGMA user_version") == [(0,)]


def test_as_a_user(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = CommandLine(capsys)
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    assert command("run", "hello", "--tier", "haiku").code == 0
    made = command("db", "backup", "copy.db", "--json")
    assert (made.code, made.json["backup"], made.json["verify"]["ok"]) == (0, "copy.db", True)
    assert command("db", "backup", "copy.db").code == 2
    assert command("verify", "--ledger", "copy.db").code == 0
    assert command("db", "backup", "--ledger", "none.db").code == 3
