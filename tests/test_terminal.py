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
