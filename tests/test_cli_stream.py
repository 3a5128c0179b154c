"""``run --stream``: what reaches a pipe, a terminal and a program while an answer is made."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from clients.base import ExecutionResult
from ledger.cli.work.streaming import Flow
from tests.command_line import CommandLine, sql, started

pytestmark = pytest.mark.slow

CONFIG = r"""
[retry]
backoff_initial_s = 0.001
[tiers.flash]
provider = "simulated"
model = "breaks"
[tiers.pro]
provider = "simulated"
model = "loud"
[tiers.haiku]
provider = "simulated"
model = "plain"
[tiers.sonnet]
provider = "simulated"
model = "slow"
[tiers.opus]
provider = "simulated"
model = "refuses"
[providers.simulated]
latency_ms = 0
[providers.simulated.models.breaks]
script = [{error_type = "connection", partial = "Once upon"}, "overloaded", {text = "Once upon a time.\n"}]
[providers.simulated.models.loud]
script = [{text = "a\r\nb\u001b[31m\u009b2J"}]
[providers.simulated.models.plain]
script = [{text = "one two three"}]
[providers.simulated.models.slow]
latency_ms = 4000
script = [{text = "This takes its time.", latency_ms = 4000}]
[providers.simulated.models.refuses]
script = [{error_type = "content_refused", partial = "I would"}]
"""

LOUD = "a\r\nb\x1b[31m\x9b2J"


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """A folder with simulated models; a ledger that was written there holds at the end."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    yield command_line
    assert command_line("verify").code == 0


class Terminal(io.StringIO):
    """A standard output that a person looks at."""

    def isatty(self) -> bool:
        return True


def result(response: str) -> ExecutionResult:
    return ExecutionResult(model="m", success=True, response=response)


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["one ", "two"], "one two\n"),
        (["one\n"], "one\n"),
        (["a \x1b", "[31", "mred"], "a \\x1b[31mred\n"),
        (["a\x1b]0;ti", "tle\x07b"], "a\\x1b]0;title\\x07b\n"),
        (["\x9b", "2J"], "\\x9b2J\n"),
        (["a\r", "\nb"], "a\nb\n"),
        (["a\r", "b"], "a\\rb\n"),
        (["a", "\r"], "a\\r\n"),
        (["\r", "\r", "\n"], "\\r\n"),
        (["right \u202e", "left"], "right \\u202eleft\n"),
        (["日本", "語 🎈"], "日本語 🎈\n"),
        ([], ""),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_terminal_gets_no_control_character(pieces: list[str], shown: str) -> None:
    """What a terminal gets is safe however the text is cut, and what it would have been in one piece."""
    terminal = Terminal()
    with redirect_stdout(terminal):
        flow = Flow(as_json=False)
        for piece in pieces:
            flow.hear(piece)
        flow.end_line()
    assert shown == terminal.getvalue()


@pytest.mark.parametrize("pieces", [["a \x1b", "[31m\r"], ["a\r", "\nb\x00"], ["\u202e\x9b"]], ids=repr)
def test_a_pipe_gets_the_text_as_it_is(pieces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets every character of the text, and a newline after it."""
    flow = Flow(as_json=False)
    for piece in pieces:
        flow.hear(piece)
    flow.end(result("".join(pieces)))
    assert f"{''.join(pieces)}\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("heard", "out", "noted"),
    [([], "recorded\n", False), (["recorded"], "recorded\n", False), (["other"], "other\nrecorded\n", True)],
    ids=["nothing came", "it came", "something else came"],
)
def test_the_recorded_answer_is_what_counts(
    heard: list[str],
    out: str,
    noted: bool,  # noqa: FBT001 - a column of the table
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An answer that did not come in pieces, or came otherwise, is written as it was recorded."""
    flow = Flow(as_json=False)
    for piece in heard:
        flow.hear(piece)
    flow.end(result("recorded"))
    captured = capsys.readouterr()
    assert (out, noted) == (captured.out, "recorded answer follows" in captured.err)


@pytest.mark.parametrize("tier", ["pro", "haiku"])
def test_streamed_or_not_a_pipe_gets_the_same(cli: CommandLine, tier: str) -> None:
    """Standard output is the same with --stream, byte for byte."""
    whole, streamed = cli("run", "-t", tier, "hello"), cli("run", "-t", tier, "hello", "--stream")
    assert (0, whole.out) == (streamed.code, streamed.out)
    assert streamed.out == f"{LOUD if tier == 'pro' else 'one two three'}\n"


def test_a_break_is_said(cli: CommandLine) -> None:
    """After a break the text starts over on a line of its own, and standard error says so, once."""
    ended = cli("run", "-t", "flash", "Tell", "--stream")
    assert (0, "Once upon\nOnce upon a time.\n") == (ended.code, ended.out)
    assert ended.err.count("the answer broke off; attempt 2 starts the text over") == 1
    assert "attempt 3" not in ended.err
    attempts = sql("dispatch.db", "SELECT usage_source, ttft_ms IS NULL FROM attempts ORDER BY attempt")
    assert attempts == [("stream_partial", 0), ("not_billed", 1), ("provider", 0)]


def test_a_failure_after_text(cli: CommandLine) -> None:
    """Text of an answer that failed is followed by the failure, and exit 1."""
    ended = cli("run", "-t", "opus", "Tell", "--stream")
    assert (1, "I would\n") == (ended.code, ended.out)
    assert "content_refused" in ended.err


def test_json_lines(cli: CommandLine) -> None:
    """With --json each piece is a line, a restart too, and the last line is the whole record."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in cli("run", "-t", "flash", "Tell", "--stream", "--json").out.splitlines()
    ]
    restart = lines.index({"type": "restart", "attempt": 2})
    assert "Once upon" == "".join(line["text"] for line in lines[:restart])
    assert "Once upon a time.\n" == "".join(line["text"] for line in lines[restart + 1 : -1])
    assert ("result", True, "Once upon a time.\n", 3) == tuple(
        lines[-1][key] for key in ("type", "success", "response", "attempts")
    )
    assert {"text", "restart", "result"} == {line["type"] for line in lines}


def test_a_recorded_answer_is_printed_whole(cli: CommandLine) -> None:
    """A key that was used before gives the recorded answer, of which nothing comes in pieces."""
    cli("run", "-t", "haiku", "hello", "--key", "k")
    again = cli("run", "-t", "haiku", "hello", "--key", "k", "--stream")
    assert (0, "one two three\n") == (again.code, again.out)
    assert "recorded before" in again.err
    assert cli("run", "-t", "haiku", "hello", "--key", "k", "--stream", "--json").json["type"] == "result"


@pytest.mark.usefixtures("cli")
def test_on_a_real_terminal() -> None:
    """A terminal shows the same text with and without --stream, with no control character of the model's."""
    for options in ([], ["--stream"]):
        ours, theirs = pty.openpty()
        with started("run", "-t", "pro", "hello", *options, stdout=theirs, env={"TERM": "xterm"}) as process:
            os.close(theirs)
            assert process.wait(timeout=20) == 0
        assert os.read(ours, 65_536) == b"a\r\nb\\x1b[31m\\x9b2J\r\n"
        os.close(ours)


@pytest.mark.usefixtures("cli")
def test_a_reader_that_goes_away() -> None:
    """A pipe that closes ends nothing: the task is finished and recorded."""
    ours, theirs = os.pipe()
    os.close(ours)
    with started("run", "-t", "flash", "Tell", "--stream", stdout=theirs) as process:
        os.close(theirs)
        _, complaints = process.communicate(timeout=20)
    assert (0, b"Traceback" in complaints) == (process.returncode, False)
    assert sql("dispatch.db", "SELECT state, attempts FROM tasks") == [("succeeded", 3)]


@pytest.mark.usefixtures("cli")
def test_an_interrupt_in_the_text() -> None:
    """Text comes while the answer is made; Ctrl-C ends its line, and the task stays resumable."""
    with started("run", "-t", "sonnet", "Tell", "--stream") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"This"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (130, b"\n") == (process.returncode, out)
    assert b"interrupted" in err
    assert sql("dispatch.db", "SELECT error_type FROM attempts") == [("interrupted",)]
