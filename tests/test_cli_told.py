"""What is said at the end: what happened, to which task, what was kept, and what to do next."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from clients.base import ErrorType, ExecutionResult
from ledger.cli.work.advice import next_step, outcome, stopped_short
from tests.command_line import CONFIG, CommandLine, sql, started, until

pytestmark = pytest.mark.slow

SHORT = """
[tiers.haiku]
provider = "simulated"
model = "short"
[tiers.pro]
provider = "gemini"
[providers.gemini]
command = "no-such-gemini"
[providers.simulated]
latency_ms = 0
[providers.simulated.models.short]
script = [{text = "half of", stop_reason = "max_tokens"}]
"""


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """An empty folder with simulated models."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    return CommandLine(capsys)


def failed(error_type: ErrorType | None, error: str) -> ExecutionResult:
    """Make a result without an answer."""
    return ExecutionResult(model="m", success=False, error_type=error_type, error=error)


@pytest.mark.parametrize(
    ("state", "result", "said"),
    [
        pytest.param(
            "succeeded", ExecutionResult(model="m", success=True, response="yes"), "succeeded", id="succeeded"
        ),
        pytest.param("failed", failed("timeout", "too slow"), "failed: timeout: too slow", id="failed"),
        pytest.param("waiting", failed(None, "waits for a person"), "waiting: waits for a person", id="held"),
        pytest.param("cancelled", failed("cancelled", "it ended: cancelled"), "was cancelled", id="cancelled"),
    ],
)
def test_how_a_task_stands_is_said_once(state: str, result: ExecutionResult, said: str) -> None:
    """No word twice, and no None."""
    assert outcome(state, result) == said


@pytest.mark.parametrize(
    ("state", "error_type", "said"),
    [
        pytest.param("succeeded", None, "", id="succeeded"),
        pytest.param("cancelled", "cancelled", "", id="cancelled"),
        pytest.param("failed", "timeout", "`dispatch-ledger show t1` tells each try", id="failed"),
        pytest.param(
            "failed",
            "client_missing",
            "`dispatch-ledger show t1` tells each try; `dispatch-ledger doctor` says what this machine lacks",
            id="no client",
        ),
        pytest.param(
            "waiting",
            None,
            "`dispatch-ledger resume t1` lets it go on, `dispatch-ledger cancel t1` ends it",
            id="held",
        ),
    ],
)
def test_what_to_do_next(state: str, error_type: str | None, said: str) -> None:
    """A command for each state that is not the end one wished for."""
    assert next_step("t1", state, error_type) == said


def test_an_answer_that_may_not_be_whole_says_so(cli: CommandLine) -> None:
    """A text that stops at the output limit is a success, and a person is told."""
    Path("dispatch.toml").write_text(SHORT)
    ended = cli("run", "-t", "haiku", "hello")
    assert (ended.code, ended.out) == (0, "half of\n")
    assert "the answer stops at its output limit, so it may not be whole" in ended.err
    assert stopped_short(ExecutionResult(model="m", success=True, response="all", finish_reason="end_turn")) == ""


def test_a_failed_task_says_what_to_do_and_counts_no_tokens(cli: CommandLine) -> None:
    """What was not billed has no tokens to speak of."""
    Path("dispatch.toml").write_text(SHORT)
    ended = cli("run", "-t", "pro", "hello")
    task_id = str(sql("dispatch.db", "SELECT task_id FROM tasks")[0][0])
    assert ended.code == 1
    assert f"`dispatch-ledger show {task_id}` tells each try; `dispatch-ledger doctor` says" in ended.err
    assert ended.err.splitlines()[-1].startswith("pro gemini-2.5-pro · 1 attempt · 0 ms · cost 0 · task ")


def test_a_failed_task_that_is_asked_for_again_says_how_to_ask_anew(cli: CommandLine) -> None:
    """Its key names it for ever, which would otherwise look like a second failure."""
    asked = ("run", "-t", "opus", "--key", "k", "hello")
    first, again = cli(*asked), cli(*asked)
    anew = "a failed task stays failed under its key: another key, or none, asks anew"
    assert [(ended.code, anew in ended.err) for ended in (first, again)] == [(1, False), (1, True)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["--key", ""], "--key has 0 characters, expected 1 to 512", id="key"),
        pytest.param(["--timeout", "0"], "--timeout is 0.0, expected seconds above 0", id="timeout"),
        pytest.param(["--system", ""], "--system is empty", id="system"),
        pytest.param(["--max-tokens", "99999999999"], "--max-tokens is 99999999999, expected", id="max tokens"),
    ],
)
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_refusal_names_what_was_typed(cli: CommandLine, command: str, argv: list[str], said: str) -> None:
    """The option, not the argument of a function that it becomes."""
    ended = cli(command, "-t", "haiku", *argv, "hello")
    assert (ended.code, ended.err.startswith(f"dispatch-ledger: {said}")) == (2, True), ended.err


def test_the_sums_in_the_help_stay_lines(cli: CommandLine) -> None:
    """Each of the batch's sums has its own."""
    lines = [line.split() for line in cli("batch", "--help").out.splitlines()]
    assert [line[0] for line in lines if line[1:4] in (["tasks", "that", "are"], ["lines", "that", "had"])] == [
        "submitted",
        "reused",
    ]


@pytest.mark.usefixtures("cli")
def test_a_worker_says_that_it_waits() -> None:
    """Who starts one without work sees where it looks, and that it can be stopped."""
    with started("worker") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"working on sqlite:///dispatch.db until stopped (Ctrl-C)\n"
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0


def test_an_interrupted_batch_says_how_far_it_came(cli: CommandLine, empty_folder: Path) -> None:
    """The lines that are done are counted by what became of them."""
    slow = CONFIG.replace("latency_ms = 0", "latency_ms = 100").replace('model = "plain"', 'model = "slow"')
    (empty_folder / "dispatch.toml").write_text(slow)
    lines = [f'{{"tier": "haiku", "prompt": "{number}"}}\n' for number in range(50)]
    Path("b.jsonl").write_text("".join(lines))
    with started("batch", "b.jsonl", "--concurrency", "1") as process:
        until(_two_are_done, "two of the tasks")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    done = int(sql("dispatch.db", "SELECT count(*) FROM tasks WHERE state = 'succeeded'")[0][0])
    assert f"{done} of 50 lines were done, {done} succeeded" in said.decode()
    assert cli("tasks", "--state", "succeeded", "--json").json[0]["state"] == "succeeded"


def _two_are_done() -> bool:
    if not Path("dispatch.db").exists():
        return False
    there = sql("dispatch.db", "SELECT 1 FROM sqlite_master WHERE name = 'tasks'")
    return bool(there) and sql("dispatch.db", "SELECT count(*) FROM tasks WHERE state = 'succeeded'")[0][0] >= 2
