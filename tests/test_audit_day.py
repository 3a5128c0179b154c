"""A day of audit: thousands of tasks with every kind of failure, tampered with, replayed, erased, moved elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from tests.emulator import Emulator, Reply, Request
from tests.emulator import anthropic as api
from tests.forger import behind_the_guards
from tests.test_end_to_end import TIERS, User
from tests.test_tampering import ALONE, data, edited, hexed, of_price, removed
from tests.world import rows

TASKS: Final = int(os.environ.get("AUDIT_DAY_TASKS", "2000"))
KEY: Final = "canary-anthropic"
ERASED: Final = 7
"""The customer who wants to be forgotten."""
CUSTOMERS: Final = 25
PATTERNS: Final = 'patterns = ["EMP-\\\\d{6}"]'
CONFIG: Final = f"""
[retry]
retry_count = 1
backoff_initial_s = 0.01

[breakers]
failures = 0

[redact]
{PATTERNS}

[tiers.flash]
provider = "anthropic"
model = "claude-haiku-5-5"
fallback = "none"

[tiers.pro]
provider = "anthropic"
model = "claude-sonnet-5-5"

[prices."anthropic/claude-haiku-5-5"]
input_usd_per_mtok = 1
output_usd_per_mtok = 5

[prices."anthropic/claude-sonnet-5-5"]
input_usd_per_mtok = 3
output_usd_per_mtok = 15

[prices."anthropic/claude-opus-5-5"]
input_usd_per_mtok = 5
output_usd_per_mtok = 25
"""
CAPPED: Final = '\n[budget.per_label]\n"team=poor" = 0.000001\n'


def refused(status: int, kind: str, message: str = "refused") -> api.Step:
    """Answer an error that echoes the caller's key, and a secret of a pattern, as careless servers do."""
    return api.error(status, kind, f"{message}: x-api-key {KEY}, user EMP-123456, Bearer {KEY}")


SICK: Final[Mapping[str, tuple[str, api.Step]]] = {
    "busy": ("rate_limited", refused(429, "rate_limit_error")),
    "full": ("overloaded", refused(529, "overloaded_error")),
    "drop": ("connection", api.dropped()),
    "page": ("api_error", api.garbage()),
    "json": ("api_error", api.wrong_json()),
    "mute": ("api_error", api.empty()),
    "cut": ("api_error", api.cut()),
    "key": ("authentication", refused(401, "authentication_error")),
    "deny": ("permission", refused(403, "permission_error")),
    "bill": ("billing", refused(402, "billing_error")),
    "lost": ("not_found", refused(404, "not_found_error")),
    "bad": ("invalid_request", refused(400, "invalid_request_error")),
    "big": ("too_large", refused(413, "request_too_large")),
    "long": ("context_window_exceeded", refused(400, "invalid_request_error", "prompt is too long")),
    "veto": ("content_refused", api.refusal()),
    "stop": ("truncated", api.max_tokens()),
    "tea": ("other", refused(418, "teapot")),
    "hang": ("timeout", api.hang()),
}
KINDS: Final = tuple(SICK)


class Provider(Emulator):
    """Anthropic's API: sick by the kind that a prompt names, until it is well; it knows every call it had."""

    def __init__(self) -> None:
        super().__init__()
        self.well = False
        self.calls: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self.route("POST", "/v1/messages", self._message)

    def _message(self, request: Request) -> Reply:
        body = request.json()
        prompt = api.prompt_of(body)
        judges = "format" in (body.get("output_config") or {})
        with self._lock:
            self.calls.append(("the judge" if judges else body["model"], hashlib.sha256(prompt.encode()).hexdigest()))
        if judges:
            return (api.verdict() if self.well else api.answer('{"pass": "true"} surely'))(request)
        kind = re.fullmatch(r"Case \d+, (\w+), of customer \d+", prompt)
        step = None if self.well or kind is None else SICK.get(kind[1], (None, None))[1]
        return (step or api.answer(f"Well: {prompt}"))(request)


def kind_of(number: int) -> str:
    """Name what happens to a task: every second one goes well, few hang, as that takes time."""
    if number % 2:
        return "fine"
    kind = KINDS[number // 2 % len(KINDS)]
    return kind if kind != "hang" or number < 6 * len(KINDS) else "full"


def prompt(number: int) -> str:
    return f"Case {number:06d}, {kind_of(number)}, of customer {number % CUSTOMERS}"


def line(number: int, **more: object) -> str:
    limits = {"timeout_s": 1.0} if kind_of(number) == "hang" else {}
    subject = {"subject": f"customer-{number % CUSTOMERS}", "team": "rich"}
    task = {"prompt": prompt(number), "tier": TIERS[number // 3 % len(TIERS)], "labels": subject, **limits, **more}
    return json.dumps(task) + "\n"


class Day:
    """The folder, the provider, what is kept elsewhere, and what things took."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        self.folder = folder / "here"
        self.inputs = folder / "inputs"
        self.elsewhere = folder / "elsewhere"
        for path in (self.folder, self.inputs, self.elsewhere):
            path.mkdir()
        self.provider = provider
        self.kept = self.elsewhere / "anchors.txt"
        self.user = User(self.folder, provider.url)
        self.user.environment["ANTHROPIC_API_KEY"] = KEY
        (self.folder / "dispatch.toml").write_text(CONFIG + CAPPED)

    def asks(self, *words: str, code: int = 0) -> Any:
        """Run a command with ``--json``; it has to end with this exit code and without a trace."""
        began = time.monotonic()
        done = self.user.types(*words, "--json")
        assert "Traceback" not in done.stderr
        assert (words[0], code) == (words[0], done.returncode), done.stderr + done.stdout[-2000:]
        print(f"{time.monotonic() - began:7.2f} s  {' '.join(words)[:100]}")  # noqa: T201 - the day's figures, by pytest -s
        return json.loads(done.stdout) if done.stdout else None

    def refused(self, *words: str, code: int) -> str:
        """Run a command that has to be refused; give what it says."""
        done = self.user.types(*words)
        assert (words[0], code, "") == (words[0], done.returncode, done.stdout), done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def killed(self, *words: str, when: Callable[[], bool]) -> None:
        """Start a command and kill it as soon as something holds."""
        command = [sys.executable, "-m", "ledger", *words]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.user.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and not when():
                time.sleep(0.01)
            process.kill()

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return rows(self.user.ledger, sql)


def sick_day(day: Day) -> None:
    """Dispatch the file while the provider is sick, and end tasks in the ways that a provider does not."""
    tasks = "".join(line(number) for number in range(TASKS))
    poor = "".join(line(TASKS + number, labels={"team": "poor"}) for number in range(10))
    (day.inputs / "tasks.jsonl").write_text(tasks + poor)
    summary = day.asks("batch", str(day.inputs / "tasks.jsonl"), "--concurrency", "32", code=1)
    assert summary["submitted"] == TASKS + 10
    for number in range(5):
        task = day.asks("submit", "--tier", "opus", f"Called off {number}")["task_id"]
        assert day.asks("cancel", task)["state"] == "cancelled"
        day.asks("run", "--tier", "haiku", "--validated", f"Judged {number}", code=1)
    hanging = "".join(json.dumps({"prompt": prompt(34), "tier": "opus", "key": f"dead-{n}"}) + "\n" for n in range(4))
    (day.inputs / "hanging.jsonl").write_text(hanging)
    (day.inputs / "fail.toml").write_text(CONFIG.replace("[retry]", '[retry]\non_unknown = "fail"'))
    enough = len(day.provider.calls) + 4
    day.killed(
        *("batch", str(day.inputs / "hanging.jsonl"), "--config", str(day.inputs / "fail.toml")),
        when=lambda: len(day.provider.calls) >= enough,
    )
    assert day.asks("resume", code=1)["orphaned"] == 4


def witnessed(day: Day, since: int, where: str) -> None:
    """Compare the provider's log with the attempts: call by call, but what was killed between start and call."""
    seen = Counter(call for call in day.provider.calls[since:] if call[0] != "the judge")
    digests = {
        row["task_id"]: hashlib.sha256(row["bytes"]).hexdigest()
        for row in day.rows("SELECT task_id, bytes FROM payloads WHERE slot = 'prompt'")
    }
    recorded: Counter[tuple[str, str]] = Counter()
    perhaps: Counter[tuple[str, str]] = Counter()
    for row in day.rows(
        "SELECT a.task_id, request_model, a.state FROM attempts AS a JOIN tasks AS t USING (task_id) "
        f"WHERE purpose = 'generate' AND {where}"
    ):
        (perhaps if row["state"] == "orphaned" else recorded)[row["request_model"], digests[row["task_id"]]] += 1
    assert seen - recorded - perhaps == Counter()
    assert recorded - seen == Counter()


def failures(day: Day) -> set[str]:
    return {row["error_type"] for row in day.rows("SELECT DISTINCT error_type FROM tasks WHERE state = 'failed'")}


def problems(day: Day, ledger: Path, *words: str) -> list[dict[str, Any]]:
    """Verify a ledger that was tampered with; give what was found."""
    done = day.user.types("verify", "--json", "--ledger", str(ledger), *words)
    assert "Traceback" not in done.stderr
    assert done.returncode in {0, 1}, done.stderr
    told = json.loads(done.stdout)
    assert {"ok", "events", "tasks", "unanchored", "problems"} <= told.keys()
    assert (done.returncode == 0, told["ok"]) == (told["problems"] == [], told["problems"] == [])
    assert all({"kind", "task_id", "version", "detail"} <= problem.keys() for problem in told["problems"])
    return list(told["problems"])


def tail_cut(path: Path) -> None:
    """Take the last tenth of the tasks away, wholly."""

    def work(database: sqlite3.Connection) -> None:
        (end,) = database.execute("SELECT max(position) * 9 / 10 FROM events").fetchone()
        gone = "SELECT task_id FROM events GROUP BY task_id HAVING max(position) > ?"
        ids = [row[0] for row in database.execute(gone, (end,))]
        for table in ("events", "tasks", "attempts", "decisions", "task_labels", "payloads", "keys", "validations"):
            column = "judge_task_id" if table == "validations" else "task_id"
            database.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(task_id,) for task_id in ids])

    behind_the_guards(path, work)


def no_guard(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER events_no_update")


TAMPERED: Final[Mapping[str, tuple[str, Callable[[Path], object]]]] = {
    **ALONE,
    "a task removed": ("anchor_missing", removed),
    "the tail cut": ("anchor_cut", tail_cut),
    "a guard dropped": ("guard_missing", no_guard),
    "a cost with all hashes anew": ("cost", edited(of_price, data(cost_nano_usd=1), reseal=True)),
    "a bit, by hex editor": ("hash", hexed(b'"error_type":"overloaded"', b'"error_type":"overloadee"')),
    "a text, by hex editor": ("payload", hexed(b"Well: Case", b"Well: Casf")),
}


def tampered(day: Day, whole: Path) -> None:
    """Try each way on a copy: found, as what it is, from the kept line."""
    for kind, change in TAMPERED.values():
        copy = Path(shutil.copy(whole, day.elsewhere / "tampered.db"))
        change(copy)
        found = {problem["kind"] for problem in problems(day, copy, "--anchor", str(day.kept))}
        assert kind in found
        copy.unlink()


def replayed(day: Day) -> None:
    """Replay what had failed with the provider well again, and be killed in the midst of it."""
    day.provider.well = True
    (day.folder / "dispatch.toml").write_text(CONFIG)
    before = day.rows("SELECT * FROM events ORDER BY position")
    failed = {row["task_id"] for row in day.rows("SELECT task_id FROM tasks WHERE state = 'failed'")}
    calls = len(day.provider.calls)
    query = ("replay", "--state", "failed", "--since", "1d")
    listed = day.asks(*query, "--dry-run")
    assert {one["task_id"] for one in listed["would_replay"]} == failed
    assert (len(day.provider.calls), day.rows("SELECT * FROM events ORDER BY position")) == (calls, before)
    day.killed(*query, when=lambda: len(day.provider.calls) > calls + len(failed) // 3)
    summary = day.asks(*query)
    replays = day.rows("SELECT task_id, replay_of, state FROM tasks WHERE replay_of IS NOT NULL")
    assert Counter(row["replay_of"] for row in replays) == Counter(failed)
    assert {row["state"] for row in replays} == {"succeeded"}
    told = {(one["task_id"], one["replay_of"]) for one in [*summary["replayed"], *summary["existing"]]}
    assert told == {(row["task_id"], row["replay_of"]) for row in replays}
    witnessed(day, calls, "t.replay_of IS NOT NULL")
    calls = len(day.provider.calls)
    again = day.asks(*query)
    assert (again["replayed"], len(again["existing"]), again["attempts"]) == ([], len(failed), 0)
    assert len(day.provider.calls) == calls
    assert day.rows("SELECT * FROM events ORDER BY position")[: len(before)] == before
    assert day.asks("replay", "--check", "--all")["ok"]


def found_in_files(folder: Path, texts: list[bytes]) -> dict[str, int]:
    """Look for texts in every file of a folder and below."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: hits for name, content in contents.items() if (hits := sum(text in content for text in texts))}


def erased(day: Day) -> None:
    """Erase a customer: no file says a word of theirs, every figure stays."""
    theirs = [prompt(number).encode() for number in range(TASKS) if number % CUSTOMERS == ERASED]
    texts = [*theirs, f'"customer-{ERASED}"'.encode()]
    reports = {name: day.asks("report", name) for name in ("cost", "latency", "reliability", "routing", "validation")}
    texts_of = day.rows("SELECT task_id, bytes FROM payloads WHERE slot = 'prompt'")
    task = next(row["task_id"] for row in texts_of if row["bytes"] == theirs[0])
    words = ("redact", "--label", f"subject=customer-{ERASED}", "--reason", "asked for")
    assert "dispatch.db" in "".join(found_in_files(day.folder, texts))
    slip = day.asks("redact", "--label", "subject=custmer-7", "--reason", "a slip")
    assert "no task has this label" in slip["remark"]
    wal = len(day.rows("SELECT task_id FROM payloads"))
    day.killed(*words, when=lambda: len(day.rows("SELECT task_id FROM payloads")) < wal)
    told = day.asks(*words)
    assert told["complete"]
    assert found_in_files(day.folder, texts) == {}
    assert {name: day.asks("report", name) for name in reports} == reports
    assert "erased" in day.refused("replay", task, code=2)
    calls = len(day.provider.calls)
    (day.inputs / "again.jsonl").write_text(line(ERASED))
    assert day.asks("batch", str(day.inputs / "again.jsonl"))["attempts"] == len(day.provider.calls) - calls == 1
    day.asks(*words)
    assert found_in_files(day.folder, texts) == {}


def moved(day: Day) -> None:
    """Export the whole, import it elsewhere: an equal ledger that holds against the same lines."""
    first, second, elsewhere = day.elsewhere / "all.jsonl", day.elsewhere / "again.jsonl", day.elsewhere / "copy.db"
    day.asks("export", "--out", str(first))
    day.killed("import", str(first), "--ledger", str(elsewhere), when=elsewhere.exists)
    day.refused("verify", "--ledger", str(elsewhere), code=3)
    assert day.asks("import", str(first), "--ledger", str(elsewhere))["verify"]["ok"]
    day.asks("export", "--out", str(second), "--ledger", str(elsewhere))
    assert first.read_bytes() == second.read_bytes()
    told = day.asks("verify", "--anchor", str(day.kept), "--ledger", str(elsewhere))
    assert (told["problems"], told["ok"]) == ([], True)
    for report in ("cost", "latency", "reliability", "routing", "validation"):
        assert day.asks("report", report, "--ledger", str(elsewhere)) == day.asks("report", report)
    day.killed("db", "rebuild", "--ledger", str(elsewhere), when=lambda: elsewhere.with_name("copy.db-wal").exists())
    assert day.asks("verify", "--ledger", str(elsewhere))["ok"]
    day.asks("db", "rebuild", "--ledger", str(elsewhere))
    assert day.asks("verify", "--ledger", str(elsewhere), "--anchor", str(day.kept))["ok"]


@pytest.mark.slow
def test_a_ledger_of_every_failure_is_proved_replayed_erased_and_moved(tmp_path: Path) -> None:
    """Every change is found from a kept line; replays call as often as they say; the erased are gone everywhere."""
    with Provider() as provider:
        day = Day(tmp_path, provider)
        sick_day(day)
        assert failures(day) == {kind for kind, _ in SICK.values()} | {"budget_refused", "worker_died"}
        witnessed(day, 0, "true")
        assert found_in_files(day.folder, [KEY.encode(), b"EMP-123456"]) == {}
        day.asks("anchor", "--out", str(day.kept))
        yesterday, whole = day.elsewhere / "yesterday.db", day.elsewhere / "whole.db"
        day.asks("db", "backup", str(yesterday))
        day.asks("run", "--tier", "opus", "Since then")
        day.asks("anchor", "--out", str(day.kept))
        told = day.asks("verify", "--anchor", str(day.kept))
        assert (told["ok"], told["unanchored"], told["problems"]) == (True, 0, [])
        day.asks("db", "backup", str(whole))
        tampered(day, whole)
        kept = ("--anchor", str(day.kept))
        assert problems(day, yesterday) == []
        assert {found["kind"] for found in problems(day, yesterday, *kept)} == {"anchor_cut"}
        day.asks("run", "--tier", "opus", "Another history", "--ledger", str(yesterday))
        day.asks("anchor", "--ledger", str(yesterday))
        assert "anchor_forked" in {found["kind"] for found in problems(day, yesterday, *kept)}
        replayed(day)
        erased(day)
        moved(day)
