"""The commands that share a ledger, as processes of their own that are stopped, killed and run side by side."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.command_line import Ended, started, until
from tests.emulator import Reply
from tests.ledgers import fresh_ledger
from tests.mortals import POISON, Commanded, Witness, commanded, toml
from tests.world import rows

pytestmark = pytest.mark.slow

SUMS: Final = {
    "submitted",
    "succeeded",
    "failed",
    "held",
    "reused",
    "attempts",
    "cost_nano_usd",
    "cost_known_nano_usd",
    "cost_unknown_attempts",
}


@dataclass
class Place:
    """A folder with a ledger and a configuration, and the provider that it names."""

    folder: Path
    witness: Witness
    names: int = 0

    @property
    def ledger(self) -> Path:
        return self.folder / "dispatch.db"

    def configure(self, **options: Any) -> None:
        """Write another configuration."""
        (self.folder / "dispatch.toml").write_text(toml(self.witness.url, **options))

    def start(self, *argv: str) -> Commanded:
        """Start a command."""
        self.names += 1
        return commanded(self.folder, f"{self.names}", *argv)

    def do(self, *argv: str) -> Ended:
        """Start a command and wait for its end."""
        return self.start(*argv).ended()

    def submit(self, *prompts: str) -> list[str]:
        """Queue tasks."""
        return [self.do("submit", "-t", "haiku", prompt, "--json").json["task_id"] for prompt in prompts]

    def batch(self, *prompts: str) -> str:
        """Write a batch's file."""
        lines = [json.dumps({"prompt": prompt, "tier": "haiku"}) for prompt in prompts]
        (self.folder / "b.jsonl").write_text("\n".join(lines) + "\n")
        return "b.jsonl"

    def asked(self, count: int) -> None:
        """Wait until so many calls have been made."""
        until(lambda: len(self.witness.log) >= count, f"{count} calls")

    def killed_at_work(self, *argv: str) -> None:
        """Start a command and kill it with its next call in flight."""
        self.hold("hello")
        command = self.start(*argv)
        self.asked(1)
        command.mortal.signal(signal.SIGKILL)
        assert command.mortal.ended() == -signal.SIGKILL
        del self.witness.plays["hello"]

    def hold(self, prompt: str, delay_s: float | None = None) -> None:
        """Let a prompt wait for its answer, for ever or for so long."""
        body = b"at last"
        self.witness.plays[prompt] = lambda _: (
            Reply(hang=True) if delay_s is None else Reply(body=body, delay_s=delay_s)
        )

    def types(self) -> list[str]:
        """Return the ledger's events in short."""
        found = rows(self.ledger, "SELECT type FROM events ORDER BY position")
        return [row["type"].removeprefix("attempt.") for row in found]

    def states(self) -> Counter[str]:
        """Count the tasks by state."""
        return Counter(row["state"] for row in rows(self.ledger, "SELECT state FROM tasks"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Give a place; its ledger must hold at the end."""
    fresh_ledger(tmp_path).rename(tmp_path / "dispatch.db")
    with Witness() as witness:
        place = Place(tmp_path, witness)
        place.configure()
        yield place
        ended = place.do("verify")
    assert (ended.code, ended.err) == (0, ""), ended.out


def test_a_task_is_queued_and_worked_on(tmp_path: Path) -> None:
    """``submit`` calls nobody; ``worker --drain`` does, and tells a batch's sums: the programs as users have them."""
    with Witness() as witness:
        (tmp_path / "dispatch.toml").write_text(toml(witness.url))
        out, err = started("submit", "-t", "haiku", "hello", "--key", "k", "--json", cwd=tmp_path).communicate()
        assert (json.loads(out).keys(), err, witness.log) == ({"task_id"}, b"", [])
        out, _ = started("worker", "--drain", "--json", cwd=tmp_path).communicate()
        assert json.loads(out).keys() >= SUMS
        assert (json.loads(out)["succeeded"], witness.asked()) == (1, {"hello": 1})


def test_a_key_queues_one_task(place: Place) -> None:
    """Submitted again it is the same; dispatched, it is worked on by whoever asks; another request is refused."""
    argv = ("submit", "-t", "haiku", "hello", "--key", "k", "--json")
    first, again = place.do(*argv).json, place.do(*argv).json
    run = place.do("run", "-t", "haiku", "hello", "--key", "k", "--json")
    assert [first["task_id"]] * 2 == [again["task_id"], run.json["task_id"]]
    assert (run.code, place.witness.asked()) == (0, {"hello": 1})
    assert place.do("submit", "-t", "haiku", "other", "--key", "k").code == 2


def test_a_dead_ones_task_is_resumed_and_nobody_elses(place: Place) -> None:
    """``resume`` takes what had an owner that died; what was queued for nobody is left to ``worker``."""
    place.submit("queued")
    place.killed_at_work("run", "-t", "haiku", "hello")
    resumed = place.do("resume", "--json")
    assert {"resumed": 1, "succeeded": 1, "failed": 0, "orphaned": 1}.items() <= resumed.json.items()
    assert (resumed.code, place.states()) == (0, {"succeeded": 1, "pending": 1})
    assert place.do("worker", "--drain", "--json").json["succeeded"] == 1
    assert place.witness.asked() == {"hello": 2, "queued": 1}


def test_a_workers_orphans_are_settled_at_once(place: Place) -> None:
    """Also those of a worker that had claimed them: whatever starts next records them, and their places are free."""
    place.configure(concurrency=1)
    place.submit("hello")
    place.killed_at_work("worker")
    assert place.do("run", "-t", "haiku", "other").code == 0
    assert place.types()[2:5] == ["orphaned", "retry.scheduled", "task.submitted"]
    assert rows(place.ledger, "SELECT * FROM workers") == []


def test_a_held_task_waits_for_a_person(place: Place) -> None:
    """It is listed as waiting; its key neither waits nor calls; ``resume TASK`` lets it go."""
    place.configure(retry='on_unknown = "hold"')
    run = ("run", "-t", "haiku", "hello", "--key", "k", "--json")
    place.killed_at_work(*run)
    resumed = place.do("resume", "--json")
    assert (resumed.code, resumed.json["held"], resumed.json["orphaned"]) == (1, 1, 1)
    again = place.do(*run)
    assert (again.code, again.json["state"], place.witness.asked()) == (1, "waiting", {"hello": 1})
    (waiting,) = place.do("tasks", "--state", "waiting", "--json").json
    assert (waiting["waiting_for"], waiting["task_id"]) == ("person", again.json["task_id"])
    assert place.do("worker", "--drain", "--json").json["lines"] == 0
    released = place.do("resume", waiting["task_id"][-12:], "--json")
    assert (released.code, released.json["resumed"], released.json["succeeded"]) == (0, 1, 1)
    assert place.types()[4:] == ["task.released", "started", "succeeded", "task.succeeded"]


def test_a_pending_task_is_cancelled_and_an_ended_one_is_not(place: Place) -> None:
    """The state is told either way; exit 1 where nothing could be done any more."""
    pending, ended = place.submit("hello", "other")
    cancelled = place.do("cancel", pending, "--json")
    assert (cancelled.code, cancelled.json) == (0, {"task_id": pending, "state": "cancelled"})
    assert place.do("worker", "--drain").code == 0
    late = place.do("cancel", ended, "--json")
    assert (late.code, late.json["state"], place.witness.asked()) == (1, "succeeded", {"other": 1})
    assert place.do("cancel", pending).code == 0
    assert place.do("cancel", "ffffffff").code == 2


def test_a_task_that_runs_elsewhere_is_cancelled(place: Place) -> None:
    """At once; its call is paid for all the same, and is recorded when it ends."""
    place.hold("hello", 0.6)
    run = place.start("run", "-t", "haiku", "hello", "--json")
    place.asked(1)
    (task,) = rows(place.ledger, "SELECT task_id FROM tasks")
    assert place.do("cancel", task["task_id"], "--json").json["state"] == "cancelled"
    assert place.types()[2:] == ["orphaned", "task.cancelled"]
    ended = run.ended()
    assert (ended.code, ended.json["state"]) == (1, "cancelled")
    assert place.types()[2:] == ["orphaned", "task.cancelled", "settled"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_worker_is_stopped_politely(place: Place, number: int) -> None:
    """It takes nothing new, ends what is under way, and exits 0."""
    place.configure(concurrency=1)
    prompts = ("hello", "other", "third")
    place.submit(*prompts)
    for prompt in prompts:  # whichever comes first
        place.hold(prompt, 1.5)
    worker = place.start("worker", "--json")
    place.asked(1)
    worker.mortal.signal(number)
    ended = worker.ended()
    assert (ended.code, ended.json["succeeded"], place.witness.asked().total()) == (0, 1, 1)
    assert place.states() == {"succeeded": 1, "pending": 2}
    assert rows(place.ledger, "SELECT * FROM workers UNION ALL SELECT *, 0 FROM claims") == []


def test_a_worker_that_waits_for_a_place_is_stopped_at_once(place: Place) -> None:
    """Another process has the only one; what had not begun does not begin any more."""
    place.configure(concurrency=1)
    place.hold("hello", 1.0)
    run = place.start("run", "-t", "haiku", "hello")
    place.asked(1)
    (task,) = place.submit("other")
    worker = place.start("worker", "--json")
    until(lambda: bool(rows(place.ledger, f"SELECT 1 FROM claims WHERE task_id = '{task}'")), "the claim")
    worker.mortal.signal(signal.SIGTERM)
    ended = worker.ended()
    assert (ended.code, ended.json["lines"], run.mortal.lives) == (0, 0, True)
    assert (run.ended().code, place.witness.asked()) == (0, {"hello": 1})


def test_a_worker_is_given_its_grace_and_no_more(place: Place) -> None:
    """Then the call is broken off and recorded as interrupted, and the next worker goes on with it: exit 130."""
    place.submit("hello")
    place.hold("hello")
    worker = place.start("worker", "--grace", "0.2", "--json")
    place.asked(1)
    worker.mortal.signal(signal.SIGTERM)
    ended = worker.ended()
    assert (ended.code, "interrupted" in ended.err) == (130, True)
    attempts = rows(place.ledger, "SELECT state, error_type, usage_source FROM attempts")
    assert attempts == [{"state": "failed", "error_type": "interrupted", "usage_source": "unknown"}]
    del place.witness.plays["hello"]
    assert place.do("worker", "--drain").code == 0
    assert place.types()[1:] == ["started", "failed", "retry.scheduled", "started", "succeeded", "task.succeeded"]


def test_a_second_signal_ends_a_worker_at_once(place: Place) -> None:
    """What was in flight is the next one's to record as orphaned."""
    place.submit("hello")
    place.hold("hello")
    worker = place.start("worker")
    place.asked(1)
    worker.mortal.signal(signal.SIGTERM)
    until(lambda: "stopping" in (place.folder / f"{worker.name}.err").read_text(), "the first signal")
    worker.mortal.signal(signal.SIGTERM)
    assert worker.mortal.ended() == 130
    del place.witness.plays["hello"]
    assert place.do("worker", "--drain").code == 0
    assert place.types()[2:] == ["orphaned", "retry.scheduled", "started", "succeeded", "task.succeeded"]


def test_shells_share_a_batch(place: Place) -> None:
    """Three at once with the same file: each line is one task with one call, and each shell has all the answers."""
    place.witness.latency_s = 0.05
    prompts = [f"line {number}" for number in range(24)]
    name = place.batch(*prompts)
    shells = [place.start("batch", name, "--out", f"r{number}.jsonl", "--json") for number in range(3)]
    summaries = [shell.ended() for shell in shells]
    assert [summary.code for summary in summaries] == [0] * 3, [summary.err for summary in summaries]
    assert place.witness.asked() == dict.fromkeys(prompts, 1)
    assert sum(summary.json["submitted"] for summary in summaries) == len(prompts)
    assert sum(summary.json["attempts"] for summary in summaries) == len(prompts)
    for number in range(3):
        lines = (place.folder / f"r{number}.jsonl").read_text().splitlines()
        assert [json.loads(line)["response"] for line in lines] == [f"answer to {prompt}" for prompt in prompts]


def test_a_living_owner_is_waited_for(place: Place) -> None:
    """The same key in another process gives the same answer, without a call."""
    place.hold("hello", 0.6)
    argv = ("run", "-t", "haiku", "hello", "--key", "k", "--json")
    first = place.start(*argv)
    place.asked(1)
    second = place.do(*argv)
    assert (second.code, second.json, place.witness.asked()) == (0, first.ended().json, {"hello": 1})


def test_a_dead_owners_task_is_claimed(place: Place) -> None:
    """By whoever has its key, at once."""
    argv = ("run", "-t", "haiku", "hello", "--key", "k", "--json")
    place.killed_at_work(*argv)
    again = place.do(*argv)
    assert (again.code, again.json["attempts"], place.witness.asked()) == (0, 2, {"hello": 2})


def test_limits_hold_across_processes(place: Place) -> None:
    """Three workers together make no more calls at once than the provider allows, and as many as that."""
    place.configure(concurrency=3)
    place.batch(*(f"line {number}" for number in range(18)))
    place.witness.latency_s = 0.1
    assert all(shell.ended().code == 0 for shell in [place.start("batch", "b.jsonl") for _ in range(3)])
    assert (place.witness.asked().total(), place.witness.most_flying()) == (18, 3)


@pytest.mark.parametrize("command", ["batch", "worker"])
def test_a_prompt_that_kills_its_worker_stops(place: Place, command: str) -> None:
    """After more than ``max_orphans`` in a row it fails; its seven neighbours do not suffer for it."""
    place.configure(retry="max_orphans = 2")
    prompts = [*(f"line {number}" for number in range(3)), POISON, *(f"line {number}" for number in range(3, 7))]
    place.witness.latency_s = 0.05
    name = place.batch(*prompts)
    if command == "worker":
        place.submit(*prompts)
    argv = ("batch", name) if command == "batch" else ("worker", "--drain")
    codes: list[int] = []
    while not codes or codes[-1] < 0:
        codes.append(place.do(*argv).code)
        assert len(codes) < 6
    assert codes == [-9, -9, -9, 1]
    assert place.witness.asked()[POISON] == 3
    assert place.states() == {"succeeded": 7, "failed": 1}
    (failed,) = rows(place.ledger, "SELECT error_type, attempts FROM tasks WHERE state = 'failed'")
    assert failed == {"error_type": "worker_died", "attempts": 3}
    neighbours = place.witness.asked() - Counter({POISON: 3})
    assert max(neighbours.values()) <= 2, "killed once beside it, then it runs alone"
