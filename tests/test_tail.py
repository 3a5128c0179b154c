"""``tail``: every event once, in its order, as it comes, across processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command_line import CONFIG, CommandLine, sql, started, until

pytestmark = pytest.mark.slow

EVENTS_A_TASK = 4
WAIT_S = 20


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A folder with simulated models, and a ledger of one task."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    command_line("run", "-t", "haiku", "hello")
    return command_line


@contextmanager
def following(*options: str, to: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Follow the ledger from another process, into a file."""
    with to.open("wb") as out, started("tail", "-f", *options, stdout=out) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_newest_events_come_in_their_order(cli: CommandLine) -> None:
    """Ten unless said otherwise, the oldest of them first; then it ends."""
    for number in range(3):
        cli("run", "-t", "haiku", f"hello {number}")
    lines = cli("tail").out.splitlines()
    assert len(lines) == 10
    assert lines[-1].endswith("v4 decided succeed: the answer of attempt 1 (rule answered)")
    assert lines[-2:] == cli("tail", "-n", "2").out.splitlines()
    assert cli("tail", "-n", "0").out == ""
    assert len(cli("tail", "-n", "1000").out.splitlines()) == 4 * EVENTS_A_TASK


def test_as_json_every_line_is_an_event(cli: CommandLine) -> None:
    """With what `show` says of an event, and the task that it belongs to."""
    events = [json.loads(line) for line in cli("tail", "--json").out.splitlines()]
    assert [1, 2, 3, 4] == [event["position"] for event in events]
    assert events == cli("show", events[0]["task_id"], "--json").json["events"]


def test_numbers_that_no_event_has_do_not_count(cli: CommandLine) -> None:
    """A gap before the newest event is looked past."""
    sql("dispatch.db", "UPDATE sqlite_sequence SET seq = 1000 WHERE name = 'events'")
    cli("run", "-t", "haiku", "after the gap")
    positions = [json.loads(line)["position"] for line in cli("tail", "-n", "5", "--json").out.splitlines()]
    assert positions == [4, 1001, 1002, 1003, 1004]


@pytest.mark.usefixtures("cli")
def test_it_follows_what_other_processes_append(tmp_path: Path) -> None:
    """Each event once and in order, however many come at once from however many processes; SIGINT ends it with 130."""
    out = tmp_path / "followed.jsonl"
    with following("-n", "1", "--json", to=out) as process:
        until(lambda: out.stat().st_size > 0, "the first line")
        batches = []
        for name in "abc":
            lines = [json.dumps({"tier": "haiku", "prompt": f"{name}{number}"}) for number in range(60)]
            Path(f"{name}.jsonl").write_text("\n".join(lines))
            batches.append(started("batch", f"{name}.jsonl", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        assert [0, 0, 0] == [batch.wait(WAIT_S * 3) for batch in batches]
        newest = int(sql("dispatch.db", "SELECT max(position) FROM events")[0][0])
        until(lambda: out.read_text().count("\n") >= newest - 3, "every event")
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    assert list(range(4, newest + 1)) == [json.loads(line)["position"] for line in out.read_text().splitlines()]
    assert newest == 181 * EVENTS_A_TASK


@pytest.mark.parametrize("lines", ["0", "3"], ids=["nothing written", "in the middle"])
@pytest.mark.usefixtures("cli")
def test_it_ends_when_its_reader_does(lines: str) -> None:
    """A pipe that closes is no error, and is noticed though no event comes."""
    with started("tail", "-f", "-n", lines) as process:
        assert process.stdout is not None
        if lines != "0":
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(WAIT_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.usefixtures("cli")
def test_on_a_terminal_a_line_stays_a_line() -> None:
    """Also as JSON; the task is named by its end, which `show` takes."""
    task_id = str(sql("dispatch.db", "SELECT task_id FROM tasks")[0][0])
    for options, expected in (((), f" {task_id[-12:]} v4 "), (("--json",), f'"task_id": "{task_id}"')):
        ours, theirs = pty.openpty()
        with started("tail", "-n", "1", *options, stdout=theirs) as process:
            os.close(theirs)
            shown = os.read(ours, 65_536).decode()
            assert process.wait(WAIT_S) == 0
        os.close(ours)
        assert (shown.count("\n"), expected in shown) == (1, True)


def test_there_is_nothing_to_follow_without_a_ledger(cli: CommandLine) -> None:
    """A command that only reads makes none."""
    ended = cli("tail", "-f", "--ledger", "none.db")
    assert (ended.code, ended.out, Path("none.db").exists()) == (3, "", False)
