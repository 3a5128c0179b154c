"""Hostile names, files and figures: an answer or an error of ours, nothing written, nothing that a terminal obeys."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
from pathlib import Path
from typing import Final

import pytest

from ledger.audit.tabling import export_csv
from ledger.cli import output
from ledger.cli.work.whole import whole_file
from ledger.errors import RequestRefused
from ledger.spreadsheets import harmless
from tests.command_line import CONFIG, CommandLine, sql
from tests.ledgers import fresh_ledger
from tests.world import World

ESCAPES: Final = "\x1b]8;;http://x\x07y\x1b]8;;\x07 \x1b[31m \u009b2J \x7f \r over \u202e \u200f \u2028 [red]"
KEPT: Final = {
    "escapes": ESCAPES,
    "SQL": "'; DROP TABLE events; --",
    "formula": "=cmd|' /C calc'!A0",
    "path": "../../etc/passwd",
    "marks": "\u200f\u05e9\u05dc\u05d5\u05dd\u202e \u061c e\u0301 \ufeff \uffff \U0010ffff",
    "lines": "a\r\nb\rc\u0085d\n",
    "blanks": "   ",
    "patterns": "%_%s{0}%(x)s\\",
}
REFUSED: Final = {"lone surrogate": "a\ud800b", "undecodable bytes": "\udcff\udcfe", "reversed pair": "\ude00\ud83d"}
PLACES: Final = {
    "prompt": ("--", "{}"),
    "system": ("--system", "{}", "p"),
    "key": ("--key", "{}", "p"),
    "label": ("--label", "a={}", "p"),
    "label's name": ("--label", "{}=a", "p"),
    "subject": ("--label", "subject={}", "p"),
}
BY_NAME: Final = (
    ("show", "{}"),
    ("show", "{}", "--proof"),
    ("diff", "{}", "{}"),
    ("replay", "{}"),
    ("cancel", "{}"),
    ("resume", "{}"),
    ("redact", "{}", "--reason", "r", "-y"),
    ("redact", "--label", "a={}", "--reason", "r", "-y"),
    ("redact", "--label", "subject={}", "--reason", "r", "-y"),
    ("redact", "zzz", "--reason", "{}", "-y"),
    ("validate", "--task-id", "{}", "--verdict", "pass"),
    ("tasks", "--after", "{}"),
    ("tasks", "--label", "a={}"),
    ("tasks", "--label", "{}=a"),
    ("tasks", "--since", "{}"),
    ("replay", "--state", "failed", "--label", "a={}"),
    ("replay", "--state", "failed", "--error", "{}"),
    ("report", "cost", "--by", "{}"),
    ("report", "cost", "--by", "label:{}"),
    ("prices", "--model", "{}"),
    ("prices", "--book", "{}"),
    ("backtest", "--policy", "{}"),
    ("verify", "--anchor", "{}"),
    ("verify", "--public-key", "{}"),
    ("anchor", "--sign-key", "{}"),
    ("anchor", "--out", "nowhere/{}"),
    ("export", "--out", "nowhere/{}"),
    ("export", "--after", "{}"),
    ("import", "{}", "--ledger", "new.db"),
    ("reconcile", "{}"),
    ("batch", "{}"),
    ("batch", "b.jsonl", "--out", "nowhere/{}"),
    ("run", "-t", "haiku", "--file", "{}"),
    ("config", "--config", "{}"),
    ("tasks", "--ledger", "nowhere/{}"),
    ("db", "backup", "nowhere/{}"),
    ("db", "copy", "dispatch.db", "nowhere/{}"),
    ("{}",),
    ("tasks", "--{}"),
    ("tasks", "{}"),
)
NAMES: Final = {**KEPT, **REFUSED, "NUL": "a\0b", "long": "x" * 5000}


@pytest.fixture
def command(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    fresh_ledger(empty_folder).rename("dispatch.db")
    return CommandLine(capsys)


def events() -> int:
    ((count,),) = sql("dispatch.db", "select count(*) from events")
    return int(count)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[] if name in {"escapes", "lines"} else [pytest.mark.slow])
        for name, text in KEPT.items()
    ],
)
def test_a_text_comes_back_as_it_went_in(command: CommandLine, text: str) -> None:
    """Prompt, system text, key, labels and answer are the same after run, show, export, import and replay."""
    name = text.replace("=", "")
    texts = (
        "--system",
        text,
        "--key",
        text,
        "--label",
        f"{name}={text}",
        "--label",
        f"subject={text}",
    )
    ran = command("run", "-t", "haiku", "--json", *texts, "--", text)
    assert (ran.code, command("export", "--out", "e.jsonl").code) == (0, 0)
    assert command("import", "e.jsonl", "--ledger", "copy.db").code == 0
    replayed = command("replay", ran.json["task_id"], "--json", "--ledger", "copy.db").json["replayed"][0]["task_id"]
    for task_id, ledger in ((ran.json["task_id"], "dispatch.db"), (replayed, "copy.db")):
        shown = command("show", task_id, "--json", "--ledger", ledger).json
        kept = {slot: shown["texts"][slot] for slot in ("prompt", "system", "subject")}
        assert kept == dict.fromkeys(("prompt", "system", "subject"), text)
        assert shown["task"]["labels"] == {name: text}
    assert shown["texts"]["response/1"] == ran.json["response"]
    assert command("show", ran.json["task_id"], "--json", "--ledger", "copy.db").json["task"]["idempotency_key"] == text
    found = command("tasks", "--json", "--label", f"{name}={text}", "--label", f"subject={text}")
    assert [row["task_id"] for row in found.json] == [ran.json["task_id"]]
    assert command("verify").code == 0


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_kept_is_refused(command: CommandLine, place: str) -> None:
    """Exit 2 with the place named, and not one event; a NUL may stand in texts, not in keys and labels."""
    nul = {} if place in {"prompt", "system"} else {"NUL": "a\0b"}
    for text in (REFUSED | nul).values():
        argv = [part.format(text) for part in PLACES[place]]
        assert command("submit", "-t", "haiku", *argv).code == 2
    assert events() == 0


@pytest.mark.parametrize("count", [65, pytest.param(1_000_000, marks=pytest.mark.slow)])
async def test_too_many_labels_are_refused(tmp_path: Path, count: int) -> None:
    """With their number, before anything is looked at."""
    world = World(tmp_path)
    async with world.executor() as executor:
        with pytest.raises(RequestRefused, match=f"labels has {count} entries"):
            await executor.execute("haiku", "p", labels={str(number): "x" for number in range(count)})
        assert await (await executor.ledger.store()).newest() == 0


def hostile_names(command: CommandLine, names: dict[str, str]) -> None:
    command("run", "-t", "haiku", "--label", "a=b", "p")
    Path("b.jsonl").write_text('{"tier": "haiku", "prompt": "p"}\n')
    there = sorted(Path().iterdir())
    before = events()
    for text in names.values():
        for argv in BY_NAME:
            code = command(*(part.replace("{}", text) for part in argv)).code
            assert code in {0, 1, 2, 3}, (argv, text)
    assert (events(), sorted(Path().iterdir())) == (before, there)


def test_a_name_is_never_taken_for_more(command: CommandLine) -> None:
    """Task ids, labels, times and files that nothing can have: an answer or an error of ours, and nothing written."""
    hostile_names(command, {"undecodable bytes": REFUSED["undecodable bytes"]})


@pytest.mark.slow
def test_no_name_is_ever_taken_for_more(command: CommandLine) -> None:
    """Likewise, all of them."""
    hostile_names(command, NAMES)


async def test_what_postgres_cannot_hold_is_refused_everywhere(tmp_path: Path) -> None:
    """A NUL in a key or label would fail there in the middle of a batch, and while a ledger is copied there."""
    async with World(tmp_path).executor() as executor:
        for how in ({"idempotency_key": "a\0"}, {"labels": {"a": "\0"}}, {"labels": {"\0": "a"}}):
            with pytest.raises(RequestRefused, match="has a NUL character"):
                await executor.execute("haiku", "p", **how)
        assert await (await executor.ledger.store()).newest() == 0


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "argv",
    [
        ("export",),
        ("export", "--format", "csv", "--table", "task_labels"),
        ("report", "cost", "--by", f"label:{ESCAPES}".replace("\r", ""), "--format", "csv"),
        ("db", "backup", f"{ESCAPES.replace('/', '')}.copy"),
        ("import", f"{ESCAPES.replace('/', '')}.jsonl", "--ledger", "new.db"),
        ("show", "0"),
        ("tail",),
    ],
    ids=["export", "table", "report", "backup", "import", "show", "tail"],
)
def test_a_terminal_gets_no_control_character(
    command: CommandLine, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    """Nor a mark that turns the line round, whichever command writes, and whatever a file is called."""
    command("run", "-t", "haiku", "--label", f"{ESCAPES}={ESCAPES}", ESCAPES)
    command("export", "--out", f"{ESCAPES.replace('/', '')}.jsonl")
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", _Terminal(shown, encoding="utf-8", write_through=True))
    monkeypatch.setenv("NO_COLOR", "1")
    assert command(*argv).code in {0, 1}
    assert set(output.UNSAFE.findall(shown.getvalue().decode().replace("\r\n", "\n"))) == set()
    assert shown.getvalue()


def test_bytes_that_are_no_text_can_be_written_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file name of such bytes is written out, also into a pipe."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    output.prepare()
    output.write("\udcff \xe4\n")
    assert written.getvalue() == b"\\udcff \xc3\xa4\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("@A1", "'@A1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_a_cell_is_no_formula(text: str, expected: str) -> None:
    """In either width."""
    assert harmless(text) == expected


async def test_a_text_stays_in_its_cell(tmp_path: Path) -> None:
    """A carriage return in a label begins no row of its own."""
    labels = {"a": "x\r=1+1,y", "b": 'quo"ted, and\nmore', "c": ESCAPES}
    world = World(tmp_path)
    async with world.executor() as executor:
        await executor.execute("haiku", "p", labels=labels)
    lines: list[bytes] = []
    assert await export_csv(str(world.path), "task_labels", lines.append) == 3
    rows = list(csv.DictReader(io.StringIO(b"".join(lines).decode(), newline="")))
    assert {row["key"]: row["value"] for row in rows} == labels


def test_a_pipe_is_written_to_and_not_replaced(command: CommandLine) -> None:
    """Nor a device: an export as root had made a plain file of /dev/null."""
    command("run", "-t", "haiku", "p")
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert command("export", "--out", "pipe").code == 0
    written = os.read(reader, 1 << 16)
    os.close(reader)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert (command("export", "--out", "file").code, Path("file").read_bytes()) == (0, written)


def test_a_link_stays_one_and_a_name_may_be_long(tmp_path: Path) -> None:
    """What it points to is written; what cannot be written leaves nothing behind."""
    link, long = tmp_path / "link", tmp_path / ("x" * 250)
    link.symlink_to("target")
    for path in (link, long):
        with whole_file(path) as file:
            file.write(b"all")
    assert (link.is_symlink(), (tmp_path / "target").read_bytes(), long.read_bytes()) == (True, b"all", b"all")
    with pytest.raises(KeyError), whole_file(tmp_path / "never") as file:
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["link", "target", long.name])


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("export", "--after", str(2**63)), 2, "is not in the range"),
        (("db", "backup", "x" * 300), 3, "File name too long"),
        (("batch", "b.jsonl", "--out", "x" * 300), 2, "File name too long"),
        (("batch", "b.jsonl", "--out", "x/" * 3000), 2, "File name too long"),
        (("reconcile", "pipe"), 2, "is no regular file"),
        (("verify", "--anchor", "huge"), 2, "too long for an anchor"),
        (("import", ".", "--ledger", "new.db"), 2, ". cannot be read: Is a directory"),
        (("config", "--config", "dots.toml"), 2, "a nesting that is too long"),
        (("batch", "digits.jsonl"), 2, "line 1: a number has 5,000 digits"),
        (("batch", "twice.jsonl"), 2, f"the key {'k' * 80!r} stands there twice"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_file_or_figure_beyond_bounds(command: CommandLine, argv: tuple[str, ...], code: int, said: str) -> None:
    """It is refused in a line, by the exit code of its kind, before anything is called."""
    os.mkfifo("pipe")
    Path("huge").write_bytes(b"x" * 1_000_000)
    Path("dots.toml").write_text(".".join("a" * 500) + " = 1\n")
    Path("b.jsonl").write_text('{"tier": "haiku", "prompt": "p"}\n')
    Path("digits.jsonl").write_text(f'{{"tier": "haiku", "prompt": "p", "retries": {"9" * 5000}}}\n')
    Path("twice.jsonl").write_text(f'{{"{"k" * 100_000}": 1, "{"k" * 100_000}": 2}}\n')
    ended = command(*argv)
    assert (ended.code, said in ended.err, len(ended.err) < 7_000) == (code, True, True)
    assert events() == 0


def test_the_root_is_no_ledger(command: CommandLine) -> None:
    """The doctor says so, and goes on."""
    assert "/ is a folder, not a ledger" in command("doctor", "--ledger", "/").out
