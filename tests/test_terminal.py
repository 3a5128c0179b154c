"""What a person sees: on a narrow terminal, without colours, and when the disk is full."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.command_line import CONFIG, CommandLine, sql, started

NARROW = {"TERM": "xterm", "COLUMNS": "40"}
WIDE = {"TERM": "xterm", "COLUMNS": "100"}

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A folder with simulated models, and a ledger of one task that needed two attempts."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    command_line("run", "-t", "flash", "hello")
    return command_line


def shown(env: Mapping[str, str], *argv: str) -> str:
    """Run a command on a terminal and return what it showed there."""
    ours, theirs = pty.openpty()
    with started(*argv, stdout=theirs, env=env) as process:
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunks.append(os.read(ours, 65_536))
            except OSError:  # how Linux says that the other side is gone
                break
        process.wait()
    os.close(ours)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.usefixtures("cli")
def test_a_list_is_readable_at_forty_columns() -> None:
    """A row becomes a few lines of whole words, the task's name in one piece."""
    task_id = str(sql("dispatch.db", "SELECT task_id FROM tasks")[0][0])
    lines = shown(NARROW, "tasks").splitlines()
    assert lines[0].startswith(f"{task_id[-12:]} · ")
    assert [line for line in lines if len(line) > 40] == []
    rest = " ".join(line.strip() for line in lines)
    assert rest.endswith("· succeeded · flash · flaky · attempts 2 · cost USD unknown")


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize("term", ["xterm", pytest.param("dumb", marks=pytest.mark.slow)])
def test_a_list_that_does_not_fit_is_no_table(term: str) -> None:
    """No column is folded: in the last column that is too few each row is lines of whole words, above it one line."""
    env = {"TERM": term, "NO_COLOR": "1"}
    wide = shown({**env, "COLUMNS": "120"}, "tasks").splitlines()
    needed = max(len(line.rstrip()) for line in wide) + len("error")
    assert (wide[0].split()[0], len(wide)) == ("task", 2)
    fits, folded = (shown({**env, "COLUMNS": str(count)}, "tasks").splitlines() for count in (needed, needed - 10))
    assert [line.rstrip() for line in fits] == [line.rstrip() for line in wide]
    assert (" · succeeded · flash · flaky" in folded[0], [line for line in folded if len(line) > needed]) == (True, [])


@pytest.mark.usefixtures("cli")
def test_a_story_is_readable_at_forty_columns() -> None:
    """Its events wrap between words, under a small indent."""
    task_id = str(sql("dispatch.db", "SELECT task_id FROM tasks")[0][0])
    lines = shown(NARROW, "show", task_id).splitlines()
    begin, end = lines.index("  hello"), lines.index("answer")
    events = [line for line in lines[begin + 1 : end] if line]
    assert [line for line in events if len(line) > 40 or not line.startswith(("  v", "    "))] == []
    assert "output limit 4,096 tokens" in " ".join(line.strip() for line in events)


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize(
    ("env", "has_escapes"),
    [
        pytest.param(WIDE, "yes", id="a terminal"),
        pytest.param({**WIDE, "NO_COLOR": "1"}, "no", id="no colours"),
        pytest.param({**WIDE, "TERM": "dumb"}, "no", id="a dumb terminal"),
    ],
)
def test_who_wants_no_colours_gets_plain_text(env: Mapping[str, str], has_escapes: str) -> None:
    """NO_COLOR and a dumb terminal are obeyed."""
    assert has_escapes == ("yes" if "\x1b" in shown(env, "tasks") else "no")


@pytest.mark.slow  # the attempts that could not be recorded are waited for until their leases are over
def test_a_full_disk_is_told_with_what_to_do(cli: CommandLine) -> None:
    """Nothing that was recorded is lost, and the message says so, whom to ask, and that the ledger is the cause."""
    lines = [json.dumps({"tier": "haiku", "prompt": f"{number} {'x' * 2000}"}) for number in range(200)]
    Path("many.jsonl").write_text("\n".join(lines))
    limited = ["bash", "-c", 'ulimit -f 600; exec "$@"', "bash", sys.executable, "-m", "ledger", "batch", "many.jsonl"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(limited, capture_output=True, text=True, env=env, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "is the disk full" in ended.stderr
    assert "what was recorded stays; `dispatch-ledger doctor` looks at the ledger" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert cli("verify").code == 0
    again = cli("batch", "many.jsonl", "--json")
    assert (again.code, again.json["succeeded"] + again.json["reused"]) == (0, 200)


FULL = Path("/dev/full")


@pytest.mark.usefixtures("cli")
@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["tasks"], [], id="a list"),
        pytest.param(["run", "-t", "haiku", "hello"], ["· task "], id="an answer"),
        pytest.param(["run", "-t", "haiku", "--stream", "hello"], ["· task "], id="a stream"),
        pytest.param(["run", "-t", "haiku", "--json", "hello"], [], id="a document", marks=pytest.mark.slow),
        pytest.param(
            ["run", "-t", "haiku", "--json", "--stream", "hello"], [], id="JSON lines", marks=pytest.mark.slow
        ),
    ],
)
def test_a_result_that_cannot_be_written_is_told(argv: list[str], told: list[str]) -> None:
    """Exit 1, one line that says what happened and what was kept, and which task it was; no traceback."""
    with FULL.open("wb") as full, started(*argv, stdout=full) as process:
        _, said = process.communicate()
    text = said.decode()
    assert (process.returncode, "Traceback" in text) == (1, False), text
    kept = "what was recorded stays, and `dispatch-ledger tasks` and `show` tell it"
    expected = f"dispatch-ledger: standard output cannot be written: No space left on device; {kept}"
    assert [part for part in (expected, *told) if part not in text] == []


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_results_of_a_batch_that_cannot_be_written_are_told(cli: CommandLine) -> None:
    """The sums are told, and how to get what was paid for."""
    Path("b.jsonl").write_text('{"tier": "haiku", "prompt": "p"}\n')
    ended = cli("batch", "b.jsonl", "--out", str(FULL))
    assert (ended.code, ended.out.splitlines()[0]) == (1, "1 line: 1 succeeded, 0 failed, 0 held, 0 reused")
    assert (
        "dispatch-ledger: --out /dev/full cannot be written: No space left on device; every answer is in the"
        in ended.err
    )
    assert (cli("batch", "b.jsonl", "--out", "r.jsonl").code, Path("r.jsonl").exists()) == (0, True)


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize(
    ("closed", "argv", "code"),
    [
        pytest.param(">&-", ["run", "-t", "haiku", "hello"], 0, id="standard output"),
        pytest.param("2>&-", ["run", "-t", "haiku", "hello"], 0, id="standard error", marks=pytest.mark.slow),
        pytest.param("<&-", ["run", "-t", "haiku", "-"], 2, id="standard input"),
    ],
)
def test_what_the_caller_has_closed_is_nowhere(closed: str, argv: list[str], code: int) -> None:
    """A closed stream is no error, and no file that is opened later passes for it."""
    line = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-m", "ledger", *argv]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(line, capture_output=True, text=True, env=env, check=False)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr
    assert sql("dispatch.db", "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("ends", ["\r\n", "\n"], ids=["Windows", "Unix"])
def test_line_ends_of_a_batch_do_not_matter(cli: CommandLine, ends: str) -> None:
    """Also with the mark that Windows' editors put before a text."""
    lines = [json.dumps({"tier": "haiku", "prompt": f"p{number}"}) for number in range(3)]
    Path("lines.jsonl").write_bytes(("\ufeff" + ends.join(lines) + ends).encode())
    assert cli("batch", "lines.jsonl", "--json").json["succeeded"] == 3
    Path("others.jsonl").write_bytes("\n".join(lines).encode())
    assert cli("batch", "others.jsonl", "--json").json["reused"] == 3


def test_a_ledger_of_another_folder_is_named_in_full(cli: CommandLine) -> None:
    """Who stands in the wrong folder sees where the ledger was looked for."""
    Path("dispatch.db").rename("elsewhere.db")
    ended = cli("tasks")
    assert ended.code == 3
    assert f"there is no ledger at {Path.cwd() / 'dispatch.db'}; name another place by --ledger" in ended.err
