"""``diff``: two tasks side by side."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ledger.replay.comparison import Line, Text, text_lines
from tests.command_line import CONFIG, CommandLine


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A folder with simulated models."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    return CommandLine(capsys)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        pytest.param(Text("a\nb"), Text("a\nb"), [], id="the same"),
        pytest.param(None, None, [], id="neither has it"),
        pytest.param(Text("a\nb"), Text("a\nc"), [("same", "a"), ("left", "b"), ("right", "c")], id="a line"),
        pytest.param(Text(None), Text("x"), [("left", "(erased)"), ("right", "x")], id="erased"),
        pytest.param(None, Text("x"), [("left", "(none)"), ("right", "x")], id="one has none"),
        pytest.param(
            Text("\n".join("x" * 3000)),
            Text("\n".join("x" * 2999 + "y")),
            [("gap", "3,000 and 3,000 lines; the first difference is line 3,000"), ("left", "x"), ("right", "y")],
            id="long",
        ),
    ],
)
def test_texts_are_compared_by_lines(left: Text | None, right: Text | None, expected: list[Line]) -> None:
    """With their neighbours; of long ones the first difference is told."""
    assert expected == text_lines(left, right)


def test_far_lines_are_left_out() -> None:
    """Two lines stand around a difference, and a gap between two."""
    ours = [str(number) for number in range(40)]
    theirs = [*ours[:10], "x", *ours[11:30], "y", *ours[31:]]
    lines = text_lines(Text("\n".join(ours)), Text("\n".join(theirs)))
    marks = "".join(mark[0] for mark, _ in lines)
    assert "sslrssgsslrss" == marks


def test_texts_made_to_be_slow_are_not() -> None:
    """Lines that repeat in every order are compared within a moment."""
    ours, theirs = ["a", "b"] * 500, ["b", "a", "a"] * 333
    begun = time.process_time()
    assert text_lines(Text("\n".join(ours)), Text("\n".join(theirs)))
    assert time.process_time() - begun < 5


def test_two_tasks_stand_side_by_side(cli: CommandLine) -> None:
    """What differs, and no control character raw."""
    first = cli("run", "one\nline", "--tier", "opus", "--json").json["task_id"]
    second = cli("run", "two\nline", "--tier", "pro", "--json").json["task_id"]
    ended = cli("diff", first, second)
    assert 0 == ended.code
    for said in (first, second, "refuses", "content_refused", "- one", "+ two"):
        assert said in ended.out
    figures = {row["field"]: row for row in cli("diff", first[-12:], second[-12:], "--json").json["figures"]}
    assert (["opus refuses: content_refused"], 1, True) == (
        figures["route"]["a"],
        figures["attempts"]["b"],
        figures["attempts"]["same"],
    )
    assert "attempts" not in ended.out
    assert "attempts" in cli("diff", first, second, "--all").out


def test_a_replay_is_compared_with_what_it_replays(cli: CommandLine) -> None:
    """One id is enough; a task that is no replay needs two."""
    old = cli("run", "one", "--tier", "opus", "--json").json["task_id"]
    new = cli("replay", old, "--tier", "haiku", "--json").json["replayed"][0]["task_id"]
    document = cli("diff", new, "--json").json
    assert (old, new, True) == (document["a"], document["b"], document["texts"]["prompt"]["same"])
    ended = cli("diff", old)
    assert (2, True) == (ended.code, "is no replay" in ended.err)


def test_erased_texts_are_said_to_be(cli: CommandLine) -> None:
    """On one side or both; nothing is said to be the same that nobody can read."""
    first, second = (cli("run", "same", "--tier", "haiku", "--key", key, "--json").json["task_id"] for key in "ab")
    cli("redact", first, "--reason", "asked for")
    assert "(erased)" in cli("diff", first, second).out
    cli("redact", second, "--reason", "asked for")
    assert "prompt: erased on both sides" in cli("diff", first, second).out
    prompt = cli("diff", first, second, "--json").json["texts"]["prompt"]
    assert (True, True, None, None) == (prompt["a_erased"], prompt["b_erased"], prompt["a"], prompt["same"])


def test_a_terminal_gets_no_control_characters(cli: CommandLine) -> None:
    """Models' answers are written out."""
    first, second = (cli("run", prompt, "--tier", "pro", "--json").json["task_id"] for prompt in ("x", "y\x1b[31m"))
    assert "\x1b" not in cli("diff", first, second).out
