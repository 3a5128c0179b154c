"""``run --validated``, ``validate --task-id --verdict`` and ``show --at`` as people type them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.command_line import CommandLine, sql

CONFIG: Final = """
[retry]
backoff_initial_s = 0.001
[tiers.flash]
provider = "simulated"
model = "quick"
[tiers.haiku]
provider = "simulated"
model = "plain"
[tiers.sonnet]
provider = "simulated"
model = "judge"
[escalation]
ladder = ["flash", "haiku"]
[providers.simulated]
latency_ms = 0
[providers.simulated.models.judge]
script = [{verdict = {pass = false, issues = ["It says \\u001b[31mnothing."], confidence = 0.75, escalate = true}}]
"""


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """A folder whose judge finds nothing good; a ledger that was written there holds at the end."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    command_line = CommandLine(capsys)
    yield command_line
    assert command_line("verify").code == 0


def test_an_answer_that_is_not_accepted_is_printed(cli: CommandLine) -> None:
    """To standard output, with exit code 1; why, and what it took, stand on standard error."""
    ended = cli("run", "-t", "flash", "--validated", "--key", "k", "hello")
    assert (ended.code, ended.out.startswith("[plain ")) == (1, True)
    assert "the answer was not accepted (confidence 0.75); the judge asks for a higher tier, but no tier" in ended.err
    assert "\x1b" not in ended.err
    assert "haiku plain · 4 attempts" in ended.err
    again = cli("run", "-t", "flash", "--validated", "--key", "k", "hello", "--json")
    assert (again.code, again.json["success"], again.json["accepted"]) == (1, True, False)
    assert (again.json["tier"], again.json["state"], again.json["attempts"]) == ("haiku", "succeeded", 4)
    assert again.json["verdict"]["issues"] == ["It says \x1b[31mnothing."]
    other = cli("run", "-t", "flash", "--key", "k", "hello")
    assert (other.code, "another request" in other.err) == (2, True)


def test_the_story_says_why_this_model(cli: CommandLine) -> None:
    """Who asked for which tier, the policy, the verdict that went up, and what was known at a version."""
    task_id = cli("run", "-t", "flash", "--validated", "hello", "--json").json["task_id"]
    told = " ".join(cli("show", task_id).out.split())
    for part in (
        "decided route: generation on flash, the caller asked for it",
        "judged by sonnet (simulated judge, 3 tries, 120 s each); a verdict may lead up to haiku",
        "retry-after up to 300,000 ms, on_unknown retry",
        "attempt 2 started to judge: sonnet",
        "the answer of attempt 1 does not pass, confidence 0.75, asks for a higher tier",
        "from flash to haiku, by the verdict of attempt 2 on attempt 1, because of validation.failed (rule next_rung)",
        "the answer of attempt 3, not accepted, because of judged (rule ladder_ended)",
    ):
        assert part in told
    then = cli("show", task_id, "--at", "7")
    assert (then.code, "what the executor knew at version 7 of " in then.out) == (0, True)
    assert "ready: attempt 3 may start at once, to generate on haiku (simulated plain)" in then.out
    assert "[plain " not in then.out
    known = cli("show", task_id, "--at", "2", "--json").json
    assert (known["at"]["version"], known["at"]["state"]["name"], len(known["events"])) == (2, "running", 2)
    assert (known["task"]["state"], set(known["texts"])) == ("running", {"prompt", "fingerprint"})
    refused = cli("show", task_id, "--at", "99")
    assert (refused.code, "its versions are 1 to " in refused.err) == (2, True)


def test_a_person_judges(cli: CommandLine) -> None:
    """Without a call, as a task that names the judged one; beside what the judge says."""
    task_id = cli("run", "-t", "haiku", "hello", "--json").json["task_id"]
    said = cli("validate", "--task-id", task_id, "--verdict", "fail", "--issue", "no date", "--json").json
    expected = {"pass": False, "issues": ["no date"], "confidence": 1.0, "escalate": False, "judged_task_id": task_id}
    assert expected | {"task_id": said["task_id"]} == said
    assert cli("validate", "--task-id", task_id, "--verdict", "pass").out == "the output passes (a person's verdict)\n"
    assert cli("validate", "--task-id", task_id).code == 0
    found = sql("dispatch.db", "select pass, judge_attempt from validations where task_id = ? order by rowid", task_id)
    assert found == [(0, None), (1, None), (0, 1)]
    judged = cli("show", task_id)
    assert "attempt 1: does not pass, says a person, task " in judged.out
    assert "attempt 1: does not pass, confidence 0.75, task " in judged.out
    since = cli("show", task_id, "--json").json["judged_since"]
    assert [(row["pass"], row["judge_attempt"]) for row in since] == [(0, None), (1, None), (0, 1)]
    story = " ".join(cli("show", said["task_id"]).out.split())
    assert f"a person judges attempt 1 of task {task_id}" in story
    assert "does not pass, says a person issues" in story
    assert "ready: a person's verdict follows" in cli("show", said["task_id"], "--at", "1").out
    for wrong in (("--verdict", "pass"), ("--task", "a", "--output", "b", "--verdict", "pass")):
        assert cli("validate", *wrong).code == 2
    assert cli("validate", "--task-id", task_id, "--issue", "alone").code == 2
    assert cli("validate", "--task-id", said["task_id"], "--verdict", "pass").code == 2
