"""An answer that the ledger does not take: kept, offered again, written beside it, and brought in once."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.errors import LedgerFull
from ledger.executor.requests import Judged
from ledger.executor.spill import read_spilled
from tests.ledgers import fresh_ledger
from tests.mortals import Full, FullLedger
from tests.world import Scripted, World, answer, rows

VERDICT = '{"pass": true, "issues": [], "confidence": 0.9, "escalate": false}'


@pytest.fixture
def world(tmp_path: Path) -> World:
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    return World(tmp_path)


@asynccontextmanager
async def full(world: World) -> AsyncIterator[tuple[Executor, Full]]:
    """Work on a ledger that takes no outcome, until it is told that there is room."""
    async with FullLedger(world.path, world.ports()) as ledger:
        built = Executor(
            ledger, world.config, ports=world.ports(), build=lambda provider, model, _: Scripted(world, provider, model)
        )
        async with built as executor:
            assert ledger.filling is not None
            yield executor, ledger.filling


async def spilled(world: World) -> Path:
    """Let a process spill one answer, and end."""
    async with full(world) as (executor, _):
        with pytest.raises(LedgerFull, match="kept in"):
            await executor.execute("haiku", "hello", idempotency_key="k")
    (path,) = files(world)
    return path


def files(world: World) -> list[Path]:
    """Return what lies beside the ledger."""
    return sorted(world.folder.glob("dispatch.db-workers/*"))


async def restarted(world: World) -> Any:
    """Come again with the same key, and give what the task came to."""
    async with world.executor() as executor:
        return await executor.execute("haiku", "hello", idempotency_key="k")


async def test_it_is_offered_again_until_there_is_room(world: World) -> None:
    """A disk that is full for a moment costs no more than that moment, and no call."""
    async with full(world) as (executor, store):
        store.refused_most = 5
        result = await executor.execute("haiku", "hello")
        assert store.refused == 5
    assert (result.success, len(world.calls), files(world)) == (True, 1, [])
    assert world.types()[1:] == ["attempt.started", "attempt.succeeded", "task.succeeded"]


async def test_it_is_written_beside_the_ledger_and_nothing_new_begins(world: World) -> None:
    """Readable by us alone; the error names the place; no call is made any more, whatever is asked."""
    async with full(world) as (executor, store):
        with pytest.raises(LedgerFull) as told:
            await executor.execute("haiku", "hello", idempotency_key="k")
        (path,) = (file for file in files(world) if file.suffix == ".spill")
        assert (str(path) in str(told.value), path.stat().st_mode & 0o777) == (True, 0o600)
        assert read_spilled(path.read_bytes()).task_id in path.name
        store.full = False
        for ask in (executor.execute("haiku", "another"), executor.resume(), executor.work(drain=True)):
            with pytest.raises(LedgerFull):
                await ask
    assert len(world.calls) == 1


async def test_the_next_start_brings_it_in_once(world: World) -> None:
    """As if it had been recorded at once, with its text and its money; then the file is gone."""
    await spilled(world)
    result = await restarted(world)
    again = await restarted(world)
    assert (result.response, result.tokens_input, len(world.calls)) == ("done", 10, 1)
    assert (again.response, files(world)) == ("done", [])
    assert world.types()[1:] == ["attempt.started", "attempt.succeeded", "task.succeeded"]


async def test_two_starts_bring_it_in_once(world: World) -> None:
    """Whoever is first; the others find it there."""
    await spilled(world)
    results = await asyncio.gather(*(restarted(world) for _ in range(3)))
    assert [result.response for result in results] == ["done"] * 3
    assert world.types()[1:] == ["attempt.started", "attempt.succeeded", "task.succeeded"]
    assert (len(world.calls), files(world)) == (1, [])


@pytest.mark.parametrize(
    ("on_unknown", "events", "calls"),
    [
        pytest.param("hold", ["task.held", "attempt.settled", "task.succeeded"], 1, id="used while the task waits"),
        pytest.param(
            "retry",
            ["retry.scheduled", "attempt.started", "attempt.succeeded", "task.succeeded", "attempt.settled"],
            2,
            id="only booked once it has ended",
        ),
    ],
)
async def test_it_comes_after_the_attempt_was_given_up(
    world: World, on_unknown: str, events: list[str], calls: int
) -> None:
    """By a start that did not see the file: it is the late answer that it is."""
    world.config = Config.model_validate({"retry": {"on_unknown": on_unknown}})
    path = await spilled(world)
    content = path.read_bytes()
    path.unlink()
    await restarted(world)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    result = await restarted(world)
    assert world.types() == ["task.submitted", "attempt.started", "attempt.orphaned", *events]
    assert (result.response, len(world.calls), files(world)) == ("done", calls, [])


async def test_it_comes_after_the_task_was_called_off(world: World) -> None:
    """What was paid is booked; nothing else changes."""
    path = await spilled(world)
    (task,) = rows(world.path, "SELECT task_id FROM tasks")
    async with Ledger.open(world.path) as ledger, Executor(ledger) as person:
        assert await person.cancel(task["task_id"]) == "cancelled"
    assert path.exists()
    result = await restarted(world)
    assert (result.error_type, files(world)) == ("cancelled", [])
    assert world.types()[2:] == ["attempt.orphaned", "task.cancelled", "attempt.settled"]


async def test_a_verdict_is_brought_in_too(world: World) -> None:
    """A judge's answer with what it says."""
    world.script = [answer(VERDICT)]
    async with full(world) as (executor, _):
        with pytest.raises(LedgerFull):
            await executor.judge("task", Judged("output"))
    async with world.executor() as executor:
        await executor.work(drain=True)
    (row,) = rows(world.path, "SELECT pass, confidence, error_type FROM validations")
    assert (row["pass"], row["confidence"], row["error_type"]) == (1, 0.9, None)
    assert (len(world.calls), files(world)) == (1, [])


def cut_off(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(content: bytes) -> bytes:
    return content.replace(b"succeeded", b"succeedet", 1)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(cut_off, id="cut off"),
        pytest.param(changed, id="changed"),
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"\xff\x00", id="no text"),
        pytest.param(lambda _: b"[1]", id="a list"),
        pytest.param(lambda _: b'{"outcome": null}', id="a stranger's JSON"),
        pytest.param(lambda _: b'{"outcome": {"task_id": 1.5}, "digest": ""}', id="a number that cannot be"),
        pytest.param(lambda _: b"[" * 100_000, id="nested"),
    ],
)
async def test_a_file_that_is_none_stays_and_harms_nobody(world: World, spoil: Callable[[bytes], bytes]) -> None:
    """The attempt is an orphan then, and the file is there for a person to look at."""
    path = await spilled(world)
    path.write_bytes(spoil(path.read_bytes()))
    result = await restarted(world)
    assert (result.success, len(world.calls), files(world)) == (True, 2, [path])


async def test_another_ledgers_file_stays(world: World, tmp_path: Path) -> None:
    """Also one of an older copy of this one, which knows the task and not the attempt."""
    (tmp_path / "copy").mkdir()
    other = World(tmp_path / "copy")
    async with Ledger.open(world.path) as ledger, Executor(ledger, world.config) as queueing:
        await queueing.submit("haiku", "hello", idempotency_key="k")
        assert (await verify(await ledger.store())).problems == ()
    (tmp_path / "copy" / "dispatch.db").write_bytes(world.path.read_bytes())
    path = await spilled(world)
    strange = World(tmp_path / "strange")
    strange.folder.mkdir()
    for place in (other, strange):
        beside = place.folder / "dispatch.db-workers"
        beside.mkdir()
        (beside / path.name).write_bytes(path.read_bytes())
        assert (await restarted(place)).success
        assert [file.name for file in files(place)] == [path.name]


async def test_a_disk_that_takes_nothing_at_all(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The answer goes among temporary files then, and is found there."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (world.folder / "dispatch.db-workers").touch()
    async with full(world) as (executor, _):
        with pytest.raises(LedgerFull, match="kept in"):
            await executor.execute("haiku", "hello", idempotency_key="k")
    (path,) = (tmp_path / "tmp").glob("*/*")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert ((await restarted(world)).response, len(world.calls), path.exists()) == ("done", 1, False)


async def test_an_answer_that_can_be_written_nowhere(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is lost, which is said; the call stays recorded, and nothing new begins."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    (world.folder / "dispatch.db-workers").touch()
    async with full(world) as (executor, store):
        with pytest.raises(LedgerFull, match="is lost; its call is recorded"):
            await executor.execute("haiku", "hello", idempotency_key="k")
        store.full = False
        with pytest.raises(LedgerFull, match="is lost"):
            await executor.execute("haiku", "another")
    assert (len(world.calls), world.types()) == (1, ["task.submitted", "attempt.started"])
