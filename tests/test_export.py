"""Export and import: an equal ledger elsewhere, or a refusal that names the line and leaves nothing behind."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.audit import tabling
from ledger.audit.exporting import export_lines
from ledger.audit.importing import import_lines
from ledger.audit.redaction import erase
from ledger.cli.export import TABLES
from ledger.errors import ConfigurationError, LedgerError, RequestRefused
from tests.command_line import CONFIG, CommandLine, sql
from tests.contracts.appends import Clock, ticks
from tests.ledgers import fresh_ledger
from tests.postgres_server import database
from tests.test_copying import contents, opened
from tests.world import World, answer, fail

AWKWARD = "NUL \0, \u202eright to left, \x1b[31m, =1+1, '; DROP TABLE events; --, \U0001f648"


async def lived(folder: Path) -> Path:
    """Make a ledger with failures, a judgement, a key, a subject, an erased task and a gap in its positions."""
    world = World(folder, script=[fail("rate_limited"), answer(AWKWARD)])
    world.scripts["claude-sonnet-5-5"] = [answer('{"pass": true, "issues": [], "confidence": 1, "escalate": false}')]
    async with world.executor() as executor:
        await executor.execute(
            "haiku", AWKWARD, system="s", idempotency_key="k", labels={"subject": "Ada", "team": "=a"}
        )
        gone = await executor.execute("opus", "to be erased", idempotency_key="gone")
        await executor.validate_output("t", "o")
        store = await executor.ledger.store()
        await erase(store, world.ports(), gone.task_id or "", "asked for")
    sql(world.path, "UPDATE sqlite_sequence SET seq = seq + 7 WHERE name = 'events'")
    async with world.executor() as executor:
        await executor.execute("haiku", "the end")
    return world.path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(lived(tmp_path_factory.mktemp("source")))


async def exported(ledger: str, **how: Any) -> bytes:
    lines: list[bytes] = []
    await export_lines(ledger, lines.append, **how)
    return b"".join(lines)


async def imported(content: bytes, folder: Path, name: str | None = None) -> str:
    file, target = folder / "in.jsonl", name or str(folder / "new.db")
    file.write_bytes(content)
    await import_lines(file, target, now_ms=Clock())
    return target


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("way", ["file to file", "file to server to file"])
async def test_an_import_is_the_same(way: str, source: Path, tmp_path: Path) -> None:
    """Positions with their gap, bytes, hashes, texts, keys, salts and projections; and its export is the same again."""
    content = await exported(str(source))
    async with database() as server:
        if "server" in way:
            await imported(content, tmp_path, server)
            content = await exported(server)
        target = await imported(content, tmp_path)
    assert await contents(target) == await contents(str(source))
    assert await exported(target) == content == await exported(str(source))
    for table in (*TABLES[1:6], "events", "payloads", "keys", "salts"):
        order = "ORDER BY 1, 2"
        assert sql(target, f"SELECT * FROM {table} {order}") == sql(source, f"SELECT * FROM {table} {order}")
    assert mode(Path(target)) == 0o600


async def test_a_key_still_answers(source: Path, tmp_path: Path) -> None:
    """The recorded task of a key, and nothing for an erased one."""
    await imported(await exported(str(source)), tmp_path, str(tmp_path / "dispatch.db"))
    world = World(tmp_path, ids=1000)
    async with world.executor() as executor:
        again = await executor.execute("haiku", AWKWARD, system="s", idempotency_key="k")
        anew = await executor.execute("opus", "to be erased", idempotency_key="gone")
    assert (again.response, anew.response, len(world.calls)) == (AWKWARD, "done", 1)


async def test_parts_follow_each_other(source: Path, tmp_path: Path) -> None:
    """Each goes on where the one before ended; a part, or one without texts, cannot be imported."""
    whole = [json.loads(line) for line in (await exported(str(source))).splitlines()]
    positions = [line["event"]["position"] for line in whole if "event" in line]
    middle = positions[5]
    part = await exported(str(source), after=middle)
    told = [json.loads(line) for line in part.splitlines()]
    assert [line["event"]["position"] for line in told if "event" in line] == positions[6:]
    assert told[-1]["end"]["upto"] == positions[-1]
    bare = await exported(str(source), texts=False)
    assert b'{"text"' not in bare
    for content, what in ((part, "only events after"), (bare, "no texts")):
        with pytest.raises(RequestRefused, match=what):
            await imported(content, tmp_path)
    assert left(tmp_path) == ["in.jsonl"]


async def test_only_into_an_empty_ledger(source: Path, tmp_path: Path) -> None:
    content, taken = await exported(str(source)), str(fresh_ledger(tmp_path))
    async with opened(taken) as store:
        await store.append(ticks("breaker:p/m", 0))
    with pytest.raises(LedgerError, match="not empty"):
        await imported(content, tmp_path, taken)
    assert sql(taken, "SELECT count(*) FROM events") == [(1,)]


def resealed(lines: list[bytes]) -> bytes:
    """Give lines an end that fits them."""
    body = b"".join(lines)
    told = [json.loads(line) for line in lines if b"nonsense" not in line]
    end = {
        "events": sum("event" in line for line in told),
        "texts": sum("text" in line for line in told),
        "upto": max((line["event"]["position"] for line in told if "event" in line), default=0),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return body + json.dumps({"end": end}, separators=(",", ":")).encode() + b"\n"


def edited(line: bytes, **changes: Any) -> bytes:
    ((kind, told),) = json.loads(line).items()
    return json.dumps({kind: told | changes}, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def place(lines: list[bytes], mark: bytes) -> int:
    return next(index for index, line in enumerate(lines) if mark in line)


def dropped(mark: bytes) -> Callable[[list[bytes]], None]:
    return lambda lines: lines.__delitem__(place(lines, mark))


def changed(mark: bytes, **changes: Any) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        index = place(lines, mark)
        lines[index] = edited(lines[index], **changes)

    return change


FORGERIES: dict[str, tuple[Callable[[list[bytes]], object], str]] = {
    "a time": (changed(b'"attempt.started"', recorded_at_ms=5), r"line \d+: has an event that was changed"),
    "a position": (changed(b'"attempt.succeeded"', position=1), r"line \d+: has position 1"),
    "a missing event": (dropped(b'"retry.scheduled"'), r"line \d+: has version 5 of a task, which"),
    "a missing text": (dropped(b'"slot":"response/2"'), r"line \d+: has payload that is wrong: the text response/2"),
    "another text": (changed(b'"slot":"system"', text="other"), r"line \d+: has a text system that is not the one"),
    "a text of another task": (changed(b'"slot":"system"', task_id="x"), r"line \d+: has a text system that the event"),
    "a text twice": (
        lambda lines: lines.insert(place(lines, b'"slot":"system"'), lines[place(lines, b'"slot":"system"')]),
        r"line \d+: has a text system that the event",
    ),
    "a negative fence": (changed(b'"task.succeeded"', fence=-1), r"line \d+: has fence that is no whole number"),
    "a number for a text": (changed(b'"task.succeeded"', actor=1), r"line \d+: has actor that is no text"),
    "an unknown field": (changed(b'"task.succeeded"', more=1), r"line \d+: has other fields"),
    "no header": (lambda lines: lines.pop(0), "line 1: stands before the header"),
    "two headers": (lambda lines: lines.insert(1, lines[0]), "line 2: is a second header"),
    "another format": (changed(b'"header"', format="x"), "line 1: has the format 'x'"),
    "no salts": (changed(b'"header"', salts={}), "line 1: has the salts of nothing"),
    "white space": (lambda lines: lines.__setitem__(3, b" " + lines[3]), "line 4: is not as it was written"),
    "no JSON": (lambda lines: lines.__setitem__(3, b"nonsense\n"), "line 4: is no JSON"),
    "a list": (lambda lines: lines.__setitem__(3, b"[]\n"), "line 4: is no object"),
}


@pytest.mark.parametrize(("forge", "said"), [pytest.param(*row, id=name) for name, row in FORGERIES.items()])
async def test_a_bad_line_is_named(
    forge: Callable[[list[bytes]], object], said: str, source: Path, tmp_path: Path
) -> None:
    """Also where the end was made to fit; no file is left."""
    lines = (await exported(str(source))).splitlines(keepends=True)[:-1]
    forge(lines)
    with pytest.raises(RequestRefused, match=said):
        await imported(resealed(lines), tmp_path)
    assert left(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        pytest.param(lambda content: content[: len(content) // 2], "line|no end", id="cut in the middle"),
        pytest.param(lambda content: b"".join(content.splitlines(keepends=True)[:-1]), "no end", id="no end"),
        pytest.param(lambda content: content + b"{}\n", "more follows", id="more after the end"),
        pytest.param(lambda _: b"", "no end", id="nothing"),
    ],
)
async def test_a_file_that_is_not_whole(cut: Callable[[bytes], bytes], said: str, source: Path, tmp_path: Path) -> None:
    content = await exported(str(source))
    with pytest.raises(RequestRefused, match=said):
        await imported(cut(content), tmp_path)
    assert left(tmp_path) == ["in.jsonl"]


@pytest.fixture(scope="module")
def content(source: Path) -> bytes:
    return asyncio.run(exported(str(source)))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_mutation_passes(data: st.DataObject, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever byte of an export is changed, added or taken away."""
    changed, folder = bytearray(content), tmp_path_factory.mktemp("mutated")
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "drop", "add"])):
        case "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        case "drop":
            del changed[at : at + data.draw(st.integers(1, 300))]
        case _:
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    with pytest.raises(RequestRefused):
        asyncio.run(imported(bytes(changed), folder))
    assert left(folder) == ["in.jsonl"]


async def test_a_text_that_is_no_unicode(tmp_path: Path) -> None:
    """Bytes are bytes, whatever a store was given."""
    path = fresh_ledger(tmp_path)
    async with opened(str(path)) as store:
        await store.append(replace(ticks("breaker:p/m", 0), payloads=()))
    content = await exported(str(path))
    assert await exported(await imported(content, tmp_path)) == content


async def test_csv_is_safe_for_spreadsheets(source: Path) -> None:
    """A text that would be a formula gets an apostrophe; NULL is empty, bytes are hex."""
    lines: list[bytes] = []
    assert await tabling.export_csv(str(source), "task_labels", lines.append) == 1
    assert list(csv.reader(io.StringIO(b"".join(lines).decode())))[1][1:3] == ["team", "'=a"]
    lines.clear()
    count = await tabling.export_csv(str(source), "events", lines.append, after=3)
    rows = list(csv.DictReader(io.StringIO(b"".join(lines).decode())))
    assert (len(rows), rows[0]["position"], len(rows[0]["hash"])) == (count, "4", 64)


async def test_parquet_has_the_tables_types(source: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        count = await tabling.export_parquet(str(source), "attempts", file)
    table = parquet.read_table(path)
    assert (table.num_rows, str(table.schema.field("cost_nano_usd").type)) == (count, "int64")
    assert table.column("task_id").to_pylist() == [
        row[0] for row in sql(source, "SELECT task_id FROM attempts ORDER BY task_id, attempt")
    ]


async def test_parquet_without_pyarrow(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        await tabling.export_parquet(str(source), "attempts", io.BytesIO())


def test_the_command_names_the_same_tables() -> None:
    assert TABLES == tabling.TABLES


def test_as_a_user(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To a file for our eyes only, to a pipe, into another ledger, and what is refused."""
    command = CommandLine(capsys)
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    assert command("run", "hello", "--tier", "haiku").code == 0
    written = command("export", "--out", "all.jsonl", "--json")
    assert (written.code, mode(empty_folder / "all.jsonl")) == (0, 0o600)
    told = command("import", "all.jsonl", "--ledger", "new.db", "--json")
    assert (told.code, told.json["events"], told.json["verify"]["ok"]) == (0, written.json["events"], True)
    assert command("import", "all.jsonl", "--ledger", "new.db").code == 3
    assert command("import", "none.jsonl", "--ledger", "other.db").code == 2
    assert command("export", "--format", "csv").code == 0
    assert command("export", "--table", "tasks").code == 2
    assert command("export", "--out", "no/such/folder.jsonl").code == 2
    assert sorted(path.name for path in empty_folder.iterdir() if path.name.startswith((".", "o"))) == []
