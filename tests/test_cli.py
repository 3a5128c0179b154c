"""The command line: exit codes, documents, what reaches a terminal, signals."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from ledger.cli import output
from ledger.cli.options import STATES, TIERS
from ledger.cli.work.frame import exit_code
from ledger.errors import (
    ClientUnready,
    ConfigurationError,
    DispatchError,
    EventInvalid,
    IdempotencyConflict,
    LedgerBusy,
    LedgerMissing,
    PromptRefused,
    RequestRefused,
    TaskNotFound,
)
from ledger.policy import Tier
from tests.command_line import CONFIG, CommandLine, sql, started, until

RUN_KEYS = {
    "task_id",
    "state",
    "success",
    "tier",
    "model",
    "response",
    "error",
    "tokens_input",
    "tokens_output",
    "latency_ms",
    "attempts",
    "cost_nano_usd",
}
HEAVY = ("sqlalchemy", "pydantic", "rich", "anthropic", "aiosqlite", "alembic")


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """A folder with simulated models; a ledger that was written there holds at the end."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    yield command_line
    if (empty_folder / "dispatch.db").exists():
        ended = command_line("verify")
        assert (ended.code, ended.err) == (0, ""), ended.out


def shown(argv: list[str]) -> str:
    """Run a command on a terminal and return all that it showed."""
    ours, theirs = pty.openpty()
    with started(*argv, stdout=theirs, stderr=theirs, env={"TERM": "xterm", "COLUMNS": "100"}) as process:
        os.close(theirs)
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # how Linux says that the other side is gone
                break
            if not chunk:
                break
            chunks.append(chunk)
        assert process.wait() == 0
    os.close(ours)
    return b"".join(chunks).decode()


def test_importing_the_command_line_and_its_help_costs_little() -> None:
    """Neither importing it nor any --help loads a database, a schema library, a terminal library or an SDK."""
    commands = [
        "run",
        "batch",
        "tasks",
        "show",
        "tail",
        "validate",
        "verify",
        "config",
        "doctor",
        "db upgrade",
        "db check",
    ]
    commands += ["demo", ""]
    script = (
        "import sys; from ledger.cli import main\n"
        f"codes = [main([*words.split(), '--help']) for words in {commands!r}]\n"
        f"print(codes, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    root = Path(__file__).parent.parent
    ended = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert ended.stderr == f"{[0] * len(commands)} []\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(empty_folder: Path, shell: str) -> None:
    """The script names our command, and what it asks for is answered."""
    with started(env={"_DISPATCH_LEDGER_COMPLETE": f"{shell}_source"}) as process:
        script, _ = process.communicate()
    assert (process.returncode, b"_DISPATCH_LEDGER_COMPLETE" in script, b"dispatch-ledger" in script) == (0, True, True)
    asked = {"_DISPATCH_LEDGER_COMPLETE": "bash_complete", "COMP_WORDS": "dispatch-ledger ta", "COMP_CWORD": "1"}
    with started(env=asked) as process:
        words, _ = process.communicate()
    assert words.decode().split() == ["plain,tail", "plain,tasks"]
    assert not list(empty_folder.iterdir())


def test_tiers_and_states_are_those_of_the_ledger(cli: CommandLine) -> None:
    """The light copy of the tiers is the policy's, and every state can be asked for."""
    assert get_args(Tier) == TIERS
    cli("run", "-t", "haiku", "hello")
    assert [0] * len(STATES) == [cli("tasks", "--state", state).code for state in STATES]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(ConfigurationError("x"), 2, id="configuration"),
        pytest.param(RequestRefused("x", field="prompt"), 2, id="request refused"),
        pytest.param(PromptRefused("x"), 2, id="prompt refused"),
        pytest.param(ClientUnready("x", error_type="client_missing"), 2, id="client unready"),
        pytest.param(IdempotencyConflict("k", "t"), 2, id="key used"),
        pytest.param(TaskNotFound("x"), 2, id="no task"),
        pytest.param(LedgerMissing("x"), 3, id="missing"),
        pytest.param(LedgerBusy("x"), 3, id="busy"),
        pytest.param(EventInvalid("x"), 3, id="unreadable event"),
    ],
)
def test_an_error_has_one_exit_code(error: DispatchError, code: int) -> None:
    """2 is the caller's to mend, 3 the ledger's."""
    assert code == exit_code(error)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        pytest.param(["run", "-t", "haiku", "hello"], 0, "1 attempt", id="answered"),
        pytest.param(["run", "-t", "opus", "hello"], 1, "content_refused", id="a task failed"),
        pytest.param(["run", "-t", "best", "hello"], 2, "'best' is not one of", id="no such tier"),
        pytest.param(["run", "hello"], 2, "--tier", id="no tier"),
        pytest.param(["run", "-t", "haiku"], 2, "one prompt", id="no prompt"),
        pytest.param(["run", "-t", "haiku", "x", "--file", "y"], 2, "one prompt", id="two prompts"),
        pytest.param(["run", "-t", "haiku", ""], 2, "prompt is empty", id="empty prompt"),
        pytest.param(["run", "-t", "haiku", "--file", "nothing"], 2, "nothing cannot be read", id="no such file"),
        pytest.param(["run", "-t", "haiku", "x", "--label", "team"], 2, "write it as team=a", id="no label"),
        pytest.param(["run", "-t", "haiku", "x", "--label", "a=1", "--label", "a=2"], 2, "twice", id="label twice"),
        pytest.param(["run", "-t", "haiku", "x", "--timeout", "-1"], 2, "--timeout is -1", id="timeout"),
        pytest.param(["run", "-t", "haiku", "x", "--config", "n.toml"], 2, "n.toml", id="no configuration"),
        pytest.param(["run", "-t", "haiku", "x", "--ledger", "nowhere/x.db"], 3, "nowhere", id="no folder"),
        pytest.param(["run", "-t", "haiku", "x", "--ledger", "dispatch.toml"], 3, "dispatch.toml", id="no database"),
        pytest.param(["tasks"], 3, "no ledger", id="tasks of nothing"),
        pytest.param(["show", "1"], 3, "no ledger", id="show of nothing"),
        pytest.param(["verify"], 3, "no ledger", id="verify of nothing"),
        pytest.param(["db", "check"], 3, "no ledger", id="check of nothing"),
        pytest.param(["db", "upgrade"], 3, "no ledger", id="upgrade of nothing"),
        pytest.param(["validate", "--task-id", "1"], 3, "no ledger", id="validate of nothing"),
        pytest.param(["validate", "--task", "x"], 2, "--output", id="half a validation"),
        pytest.param(["tasks", "--since", "soon"], 2, "no time", id="no time"),
        pytest.param(["bogus"], 2, "No such command", id="no command"),
        pytest.param(["--version"], 0, "", id="version"),
    ],
)
def test_exit_codes(cli: CommandLine, argv: list[str], code: int, said: str) -> None:
    """Each end has its code and says why on standard error; a traceback is none of them."""
    ended = cli(*argv)
    assert code == ended.code
    assert said in ended.err


def test_run_answers_on_standard_output_only(cli: CommandLine) -> None:
    """The answer is the whole of standard output; the rest is a line beside it."""
    ended = cli("run", "-t", "flash", "hello")
    assert ended.out.endswith("answer 2 to: hello\n")
    assert ended.out.count("\n") == ended.err.count("\n") == 1
    assert "flash flaky · 2 attempts" in ended.err
    assert "cost unknown for 1 attempt" in ended.err


def test_run_as_json(cli: CommandLine) -> None:
    """One document holds the task, also of one that failed."""
    done, failed = cli("run", "-t", "flash", "hello", "--json"), cli("run", "--json", "-t", "opus", "hello")
    assert set(done.json) >= RUN_KEYS
    assert (done.json["state"], done.json["success"], done.json["attempts"]) == ("succeeded", True, 2)
    assert done.json["cost_nano_usd"] is None
    assert (failed.code, failed.json["state"], failed.json["error_type"]) == (1, "failed", "content_refused")
    assert failed.json["response"] == ""


def test_run_sends_every_option(cli: CommandLine) -> None:
    """What the options say stands in the task's first event."""
    options = ["--max-tokens", "9", "--retries", "1", "--timeout", "1.5", "--system", "S", "--label", "team=a=b"]
    task_id = cli("run", "-t", "Flash", "hello", "--key", "k", *options, "--json").json["task_id"]
    shown = cli("show", task_id, "--json").json
    data = shown["events"][0]["data"]
    assert (data["max_tokens"], data["labels"], data["idempotency_key"]) == (9, {"team": "a=b"}, "k")
    assert [(step["tries"], step["timeout_ms"]) for step in data["route"]] == [(2, 1500), (1, 1500)]
    assert (shown["texts"]["prompt"], shown["texts"]["system"]) == ("hello", "S")
    assert shown["task"]["labels"] == {"team": "a=b"}


@pytest.mark.parametrize("via", ["file", "standard input"])
def test_a_prompt_is_read_byte_for_byte(
    cli: CommandLine, empty_folder: Path, monkeypatch: pytest.MonkeyPatch, via: str
) -> None:
    """Line ends, tabs and blanks at the end of a file are the prompt's."""
    content = b"\xef\xbb\xbf one\r\n\ttwo \xf0\x9f\x98\x80\n\n"
    (empty_folder / "prompt.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    source = ["--file", "prompt.txt"] if via == "file" else ["-"]
    task_id = cli("run", "-t", "haiku", *source, "--json").json["task_id"]
    assert content.decode() == cli("show", task_id, "--json").json["texts"]["prompt"]


def test_a_prompt_that_is_no_text_is_refused(cli: CommandLine, empty_folder: Path) -> None:
    """Bytes that are no UTF-8 are said to be so, and nothing is written."""
    (empty_folder / "prompt.txt").write_bytes(b"ab\xff")
    ended = cli("run", "-t", "haiku", "--file", "prompt.txt")
    assert (ended.code, "not UTF-8 at byte 3" in ended.err) == (2, True)
    assert not (empty_folder / "dispatch.db").exists()


def test_a_key_names_one_request(cli: CommandLine) -> None:
    """The same key and request is the same task without a call; another request is a conflict."""
    first, again = (cli("run", "-t", "haiku", "hello", "--key", "k", "--json").json for _ in range(2))
    assert first == again
    assert "recorded before, nobody was called" in cli("run", "-t", "haiku", "hello", "--key", "k").err
    other = cli("run", "-t", "haiku", "another", "--key", "k")
    assert (other.code, first["task_id"] in other.err) == (2, True)
    assert sql("dispatch.db", "select count(*) from attempts") == [(1,)]


def test_tasks_lists_rows_newest_first(cli: CommandLine) -> None:
    """Filters choose; the rows are those of the table."""
    cli("run", "-t", "haiku", "one", "--label", "team=a")
    cli("run", "-t", "opus", "two")
    cli("run", "-t", "haiku", "three", "--label", "team=b")

    def tiers(*filters: str) -> list[str]:
        return [row["tier_requested"] for row in cli("tasks", "--json", *filters).json]

    assert tiers() == ["haiku", "opus", "haiku"]
    assert tiers("--state", "failed") == ["opus"]
    assert tiers("--tier", "haiku", "--label", "team=a") == ["haiku"]
    assert tiers("--since", "1h", "--limit", "1") == ["haiku"]
    assert tiers("--since", "2999-01-01T00:00+02:00") == []
    columns = [name for (_, name, *_) in sql("dispatch.db", "pragma table_info(tasks)")]
    assert columns == list(cli("tasks", "--json").json[0])
    assert "--limit shows more" in cli("tasks", "--limit", "2").err


def test_tasks_in_a_pipe_are_aligned_text(cli: CommandLine) -> None:
    """A line a task, under the columns' names, without colours."""
    task_id = cli("run", "-t", "haiku", "one", "--json").json["task_id"]
    head, row = cli("tasks").out.splitlines()
    assert head.split()[0] == "task"
    assert row.split()[0] == task_id
    assert head.index("state") == row.index("succeeded")


def test_show_has_the_whole_story(cli: CommandLine) -> None:
    """The document is what plain SQL finds, and its hashes can be made again from it."""
    task_id = cli("run", "-t", "flash", "hello", "--json").json["task_id"]
    shown = cli("show", task_id[-8:], "--json").json
    types = ["task.submitted", "attempt.started", "attempt.failed", "retry.scheduled", "attempt.started"]
    assert [*types, "attempt.succeeded", "task.succeeded"] == [event["type"] for event in shown["events"]]
    assert [1, 2] == [row["attempt"] for row in shown["attempts"]]
    assert ["route", "retry", "succeed"] == [row["decision"] for row in shown["decisions"]]
    stored = sql("dispatch.db", "select data, hash from events where task_id = ? order by version", task_id)
    assert [json.loads(data) for data, _ in stored] == [event["data"] for event in shown["events"]]
    assert [stored_hash.hex() for _, stored_hash in stored] == [event["hash"] for event in shown["events"]]
    first = shown["events"][0]
    fields = ["event_id", "version", "type", "schema_version", "recorded_at_ms", "actor", "fence"]
    values = [str(first[name]) for name in fields]
    values.insert(1, task_id)
    framed = b"".join(len(value).to_bytes(4, "big") + value.encode() for value in values)
    content = hashlib.sha256(stored[0][0].encode()).digest()
    whole = b"dispatch-ledger event 1\n" + bytes.fromhex(first["prev_hash"]) + framed + content
    assert hashlib.sha256(whole).hexdigest() == first["hash"]


def test_show_tells_people(cli: CommandLine) -> None:
    """Each attempt has its model, tokens, latency and cost in words; each decision its reason."""
    task_id = cli("run", "-t", "flash", "hello", "--label", "team=a", "--json").json["task_id"]
    told = cli("show", task_id).out
    for said in (
        "succeeded · flash · 2 attempts · cost unknown for 1 attempt",
        "labels team=a",
        "attempt 1 failed: rate_limited (429)",
        "not billed, cost 0",
        "“simulated: too many requests”",
        "decided retry: attempt 2 on flash, because of rate_limited",
        "cost unknown, no price is known",
        "served by flaky",
        "decided succeed: the answer of attempt 2",
        "answer 2 to: hello",
    ):
        assert said in told


def test_show_wants_one_task(cli: CommandLine) -> None:
    """What several ids begin with names the candidates; what none has says so."""
    ids = [cli("run", "-t", "haiku", text, "--json").json["task_id"] for text in ("one", "two")]
    ended = cli("show", ids[0][:3])
    assert (ended.code, [task_id in ended.err for task_id in ids]) == (2, [True, True])
    assert cli("show", "no-such-id").code == cli("show", "").code == 2
    assert cli("show", ids[0].upper()).code == 0


def test_validate_judges_texts(cli: CommandLine) -> None:
    """The verdict's four keys and its task; the exit code is 0 though it does not pass."""
    ended = cli("validate", "--task", "Say something.", "--output", "…", "--json")
    verdict = {"pass": False, "issues": ["It says nothing."], "confidence": 0.75, "escalate": True}
    assert (ended.code, verdict) == (0, {key: ended.json[key] for key in verdict})
    assert sql("dispatch.db", "select kind from tasks where task_id = ?", ended.json["task_id"]) == [("validation",)]
    told = cli("validate", "--task", "Say something else.", "--output", "…").out
    assert told == "the output does not pass (confidence 0.75), and should go to a higher tier\n- It says nothing.\n"


def test_validate_judges_a_stored_answer(cli: CommandLine) -> None:
    """The answer comes from the ledger, and the verdict says whose it is; what has no answer is refused."""
    answered = cli("run", "-t", "haiku", "hello", "--json").json
    failed = cli("run", "-t", "opus", "hello", "--json").json
    judged = cli("validate", "--task-id", answered["task_id"][-9:], "--json")
    assert (judged.code, judged.json["judged_task_id"]) == (0, answered["task_id"])
    texts = cli("show", judged.json["task_id"], "--json").json["texts"]
    assert (texts["prompt"], texts["output"]) == ("hello", answered["response"])
    refused = cli("validate", "--task-id", failed["task_id"])
    assert (refused.code, "no answer to judge" in refused.err) == (2, True)


def test_verify_says_what_it_saw(cli: CommandLine) -> None:
    """A good ledger: its figures, and that nothing is anchored yet."""
    cli("run", "-t", "haiku", "hello")
    assert cli("verify", "--json").json == {"ok": True, "events": 4, "tasks": 1, "unanchored": 4, "problems": []}
    told = cli("verify").out
    assert "tamper-evident" in told
    assert "4 events not anchored yet" in told


def test_verify_finds_what_was_changed(cli: CommandLine) -> None:
    """A byte changed behind a fallen guard, and the guard, are findings with the exit code 1."""
    cli("run", "-t", "haiku", "hello", "--ledger", "changed.db")
    sql("changed.db", "drop trigger events_no_update")
    sql("changed.db", "update events set data = replace(data, 'haiku', 'haikU') where version = 1")
    ended = cli("verify", "--ledger", "changed.db", "--json")
    kinds = {problem["kind"] for problem in ended.json["problems"]}
    assert (ended.code, ended.json["ok"]) == (1, False)
    assert {"guard_missing"} < kinds
    assert {"kind", "task_id", "version", "detail"} == set(ended.json["problems"][0])
    assert cli("verify", "--ledger", "changed.db").code == 1


def test_db_check_and_upgrade(cli: CommandLine) -> None:
    """A new ledger is up to date; a fallen guard is a finding."""
    cli("run", "-t", "haiku", "hello", "--ledger", "fallen.db")
    assert cli("db", "check", "--ledger", "fallen.db", "--json").json == {"ok": True, "problems": []}
    upgraded = cli("db", "upgrade", "--ledger", "fallen.db", "--json").json
    assert (upgraded["from"], upgraded["backup"]) == (upgraded["to"], None)
    sql("fallen.db", "drop trigger events_no_delete")
    ended = cli("db", "check", "--ledger", "fallen.db")
    assert (ended.code, "events_no_delete" in ended.out) == (1, True)


def test_the_ledger_is_found_in_the_promised_order(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """--ledger wins over the variable, the variable over the working folder's default."""
    monkeypatch.setenv("DISPATCH_LEDGER_URL", "sqlite:///variable.db")
    for options in ([], ["--ledger", "option.db"]):
        cli("run", "-t", "haiku", "hello", *options)
    monkeypatch.delenv("DISPATCH_LEDGER_URL")
    cli("run", "-t", "haiku", "hello")
    assert sorted(path.name for path in Path().glob("*.db")) == ["dispatch.db", "option.db", "variable.db"]


@pytest.mark.slow
def test_control_characters_reach_a_pipe_but_no_terminal(cli: CommandLine) -> None:
    """An answer is untouched in a pipe; on a terminal its control characters are written out."""
    piped = cli("run", "-t", "pro", "hello").out
    assert piped == "red: \x1b[31m, bell: \x07, C1: \x9b2J, umlaut: ä\n\tnext line\n"
    on_terminal = shown(["run", "-t", "pro", "hello"])
    assert r"red: \x1b[31m, bell: \x07, C1: \x9b2J, umlaut: ä" in on_terminal
    assert {"\x1b[31m", "\x07", "\x9b"} & {
        part for part in ("\x1b[31m", "\x07", "\x9b") if part in on_terminal
    } == set()


@pytest.mark.slow
@pytest.mark.usefixtures("cli")
def test_a_terminal_gets_a_bar_and_a_table() -> None:
    """The bar goes away behind itself, the sums stay; tasks are named by the ends of their ids."""
    Path("b.jsonl").write_text('{"tier": "haiku", "prompt": "a"}\n{"tier": "haiku", "prompt": "b"}\n')
    ran = shown(["batch", "b.jsonl"])
    assert ("2/2" in ran, "2 lines: 2 succeeded, 0 failed, 0 held, 0 reused" in ran) == (True, True)
    listed = shown(["tasks"])
    ((task_id,),) = sql("dispatch.db", "select task_id from tasks limit 1")
    assert (task_id in listed, task_id[-12:] in listed, "succeeded" in listed) == (False, True, True)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x1b[2J\x07", id="C0"),
        pytest.param("\x7f\x85\x9b", id="DEL and C1"),
        pytest.param("\u202egnp.exe", id="direction override"),
        pytest.param("tab\t and\nnewline", id="harmless"),
    ],
)
def test_json_on_a_terminal_is_safe_and_the_same(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What a terminal gets is JSON of the same value, without a control character."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.document({"response": text})
    written = terminal.getvalue()
    assert json.loads(written) == {"response": text}
    assert not [character for character in written if character in "\x1b\x07\x7f\x85\x9b\u202e"]


def test_a_reader_that_went_away_is_no_error(cli: CommandLine) -> None:
    """A closed pipe ends in silence, with the command's own exit code."""
    cli("run", "-t", "haiku", "hello")
    with started("tasks", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(), said) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_leaves_a_task_that_goes_on(cli: CommandLine, empty_folder: Path, number: signal.Signals) -> None:
    """130; the running attempt is recorded as interrupted; the same key brings the task to its end."""
    slow = CONFIG.replace("latency_ms = 0", "latency_ms = 60000").replace('model = "plain"', 'model = "slow"')
    (empty_folder / "slow.toml").write_text(slow)
    with started("run", "-t", "haiku", "hello", "--key", "k", "--config", "slow.toml") as process:
        until(lambda: _attempts() == [(1, "running", None)], "an attempt in flight")
        process.send_signal(number)
        _, said = process.communicate()
        assert (process.returncode, b"the same command goes on" in said) == (130, True)
    assert _attempts() == [(1, "failed", "interrupted")]
    goes_on = CONFIG.replace('model = "plain"', 'model = "slow"')
    (empty_folder / "fast.toml").write_text(goes_on)
    done = cli("run", "-t", "haiku", "hello", "--key", "k", "--json", "--config", "fast.toml")
    assert (done.code, done.json["attempts"]) == (0, 2)


@pytest.mark.usefixtures("cli")
def test_ctrl_c_while_it_waits_for_standard_input() -> None:
    """The first one ends it, and nothing is written."""
    with started("run", "-t", "haiku", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"the beginning of a prompt")
        process.stdin.flush()
        pipe = process.stdin.fileno()
        until(lambda: fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) == bytes(4), "the prompt to be read")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert not Path("dispatch.db").exists()


def _attempts() -> list[Any]:
    if not Path("dispatch.db").exists() or not sql("dispatch.db", "select 1 from sqlite_master where name='attempts'"):
        return []
    return sql("dispatch.db", "select attempt, state, error_type from attempts order by attempt")
