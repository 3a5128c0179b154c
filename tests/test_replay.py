"""Replays: the same request as a new task that names the old one, at most one at a time, whoever asks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ledger import Config, Executor, Ledger
from ledger.audit import verify
from ledger.errors import RequestRefused, TaskNotFound
from ledger.events import TaskSubmitted
from ledger.executor.replay_plans import Replay, newest_replay
from ledger.store.protocol import TaskQuery
from tests.command_line import CommandLine, sql, started, until
from tests.ledgers import fresh_ledger
from tests.postgres_server import database

CONFIG = """
[retry]
backoff_initial_s = 0.001
retry_count = 1
[breakers]
failures = 0
[tiers.flash]
provider = "simulated"
model = "down"
fallback = "none"
[tiers.haiku]
provider = "simulated"
model = "plain"
[tiers.sonnet]
provider = "simulated"
model = "judge"
[providers.simulated]
latency_ms = 0
[providers.simulated.models.down]
failures = { overloaded = 1.0 }
[providers.simulated.models.judge]
script = [{verdict = {pass = true, issues = [], confidence = 0.75, escalate = false}}]
"""
HEALTHY = CONFIG.replace("overloaded = 1.0", "")


@pytest.fixture
def cli(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    """A folder in which flash is down; what was written there holds at the end."""
    configured(empty_folder, CONFIG)
    command_line = CommandLine(capsys)
    yield command_line
    if (empty_folder / "dispatch.db").exists():
        ended = command_line("verify")
        assert (ended.code, ended.err) == (0, ""), ended.out
        ended = command_line("replay", "--check", "--all")
        assert (ended.code, ended.err) == (0, ""), ended.out


def configured(folder: Path, content: str) -> None:
    """Write the configuration."""
    (folder / "dispatch.toml").write_text(content)


def dispatched(cli: CommandLine, *options: str, tier: str = "flash", prompt: str = "hello") -> str:
    """Run a task and return its id."""
    task_id: str = cli("run", prompt, "--tier", tier, "--json", *options).json["task_id"]
    return task_id


def submitted(task_id: str) -> TaskSubmitted:
    """Read what a task of ``dispatch.db`` was submitted with."""
    ((data,),) = sql("dispatch.db", "SELECT data FROM events WHERE task_id = ? AND version = 1", task_id)
    return TaskSubmitted.model_validate_json(data)


def texts(task_id: str) -> dict[str, bytes]:
    """Read a task's texts."""
    return dict(sql("dispatch.db", "SELECT slot, bytes FROM payloads WHERE task_id = ?", task_id))


def count(table: str) -> int:
    """Count a table's rows."""
    return int(sql("dispatch.db", f"SELECT count(*) FROM {table}")[0][0])


def test_a_replay_is_the_same_request_as_a_task_of_its_own(cli: CommandLine, empty_folder: Path) -> None:
    """Texts under new salts, labels, limits, route and policy of then; the old stream is not touched, nor its key."""
    hostile = "ä\u202e\u2066 \x1b[31m 'DROP\x00TABLE' =1+1\r\n"
    options = ("--label", "team=a", "--label", "subject=Ada", "--max-tokens", "77", "--system", "be\x00brief")
    old = dispatched(cli, *options, "--key", "k", "--retries", "0", prompt=hostile)
    before = sql("dispatch.db", "SELECT * FROM events WHERE task_id = ?", old)
    configured(empty_folder, HEALTHY.replace("retry_count = 1", "retry_count = 7\njitter = 0.9"))

    ended = cli("replay", old[:30], "--json")

    ((new,),) = sql("dispatch.db", "SELECT task_id FROM tasks WHERE replay_of = ?", old)
    assert (0, [{"task_id": new, "replay_of": old, "state": "succeeded"}]) == (ended.code, ended.json["replayed"])
    assert before == sql("dispatch.db", "SELECT * FROM events WHERE task_id = ?", old)
    ours, theirs = submitted(old), submitted(new)
    same = ("kind", "tier", "why", "route", "policy", "limits", "max_tokens", "labels", "judge", "ladder")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    assert (None, old) == (theirs.idempotency_key, theirs.replay_of)
    for name in ("prompt_digest", "system_digest", "subject_digest", "fingerprint"):
        assert None is not getattr(theirs, name) != getattr(ours, name)
    for slot in ("prompt", "system", "subject", "fingerprint"):
        assert texts(old)[slot] == texts(new)[slot]
    assert old == dispatched(cli, "--key", "k", *options[4:], "--retries", "0", prompt=hostile)


def test_asked_twice_the_second_says_what_there_is(cli: CommandLine, empty_folder: Path) -> None:
    """No new task, no call; ``--again`` makes one nonetheless."""
    old = dispatched(cli)
    configured(empty_folder, HEALTHY)
    (first,) = cli("replay", old, "--json").json["replayed"]
    calls = count("attempts")

    ended = cli("replay", old, "--json")

    assert (0, [], [first]) == (ended.code, ended.json["replayed"], ended.json["existing"])
    assert (calls, 0, None) == (count("attempts"), ended.json["attempts"], ended.json.get("lines"))
    assert "--again" in cli("replay", old).err
    (again,) = cli("replay", old, "--again", "--json").json["replayed"]
    assert (old, True) == (again["replay_of"], again["task_id"] != first["task_id"])


def test_a_replay_that_failed_is_replayed_in_its_turn(cli: CommandLine, empty_folder: Path) -> None:
    """The newest of the chain answers for the old task and for every replay of it."""
    old = dispatched(cli)
    ended = cli("replay", old, "--json")
    (first,) = ended.json["replayed"]
    assert (1, "failed") == (ended.code, first["state"])
    configured(empty_folder, HEALTHY + '[prices."simulated/down"]\ninput_usd_per_mtok = 0\noutput_usd_per_mtok = 1\n')
    listed = cli("replay", "--state", "failed", "--dry-run", "--json").json
    assert (2, 1, 2 * 1_000 * 4096) == (listed["tasks"], listed["replays"], listed["at_most_nano_usd"])
    assert "2 tasks would be replayed by 1 replay" in cli("replay", "--state", "failed", "--dry-run").out
    ended = cli("replay", "--state", "failed", "--json")
    (second,) = ended.json["replayed"]
    assert (0, "succeeded") == (ended.code, second["state"])
    assert {second["task_id"]} == {row["task_id"] for row in ended.json["existing"]}
    assert (1, 1, 3) == (ended.json["submitted"], ended.json["attempts"], count("tasks"))
    for task_id in (old, first["task_id"]):
        assert second["task_id"] == cli("replay", task_id, "--json").json["existing"][0]["task_id"]
    assert 3 == count("tasks")


def test_the_filter_narrows_what_is_replayed(cli: CommandLine, empty_folder: Path) -> None:
    """By error, label and time; a dry run says the same and writes nothing."""
    mine = dispatched(cli, "--label", "team=a")
    dispatched(cli, "--label", "team=b", prompt="other")
    dispatched(cli, tier="haiku")
    configured(empty_folder, HEALTHY)
    before = [count(table) for table in ("events", "tasks", "payloads", "keys", "workers")]
    narrowed = ("--state", "failed", "--error", "overloaded", "--label", "team=a", "--since", "1h", "--json")
    listed = cli("replay", *narrowed, "--dry-run")
    assert (0, [mine], []) == (
        listed.code,
        [row["task_id"] for row in listed.json["would_replay"]],
        listed.json["replayed"],
    )
    assert (0, None) == (listed.json["did_cost_nano_usd"], listed.json["at_most_nano_usd"])
    for nothing in (
        ("--error", "timeout"),
        ("--label", "team=c"),
        ("--until", "2020-01-01"),
        ("--since", "2100-01-01"),
    ):
        assert [] == cli("replay", "--state", "failed", *nothing, "--json").json["replayed"]
    assert before == [count(table) for table in ("events", "tasks", "payloads", "keys", "workers")]
    assert "no such tasks" in cli("replay", "--state", "cancelled").err
    assert [mine] == [row["replay_of"] for row in cli("replay", *narrowed).json["replayed"]]


def test_a_dry_run_prices_every_try(cli: CommandLine, empty_folder: Path) -> None:
    """At most what each try of each step can cost, by the prices of now."""
    priced = '[prices."simulated/down"]\ninput_usd_per_mtok = 2.0\noutput_usd_per_mtok = 10.0\n'
    configured(empty_folder, CONFIG + priced)
    dispatched(cli, "--max-tokens", "100", prompt="x" * 52)
    row = cli("replay", "--state", "failed", "--dry-run", "--json").json["would_replay"][0]
    assert 2 * (2_000 * (52 + 2048) + 10_000 * 100) == row["at_most_nano_usd"]
    assert "0.010400" in cli("replay", "--state", "failed", "--dry-run").out


def test_a_redacted_task_is_refused_before_anything_is_written(cli: CommandLine, empty_folder: Path) -> None:
    """Named, nothing at all is replayed; by a filter the others are."""
    gone, kept = dispatched(cli), dispatched(cli, prompt="other")
    assert 0 == cli("redact", gone, "--reason", "asked for").code
    configured(empty_folder, HEALTHY)
    before = count("events")
    ended = cli("replay", kept, gone)
    assert (2, before) == (ended.code, count("events"))
    assert "was redacted" in ended.err
    ended = cli("replay", "--state", "failed", "--json")
    assert ([kept], [gone]) == (
        [row["replay_of"] for row in ended.json["replayed"]],
        [row["task_id"] for row in ended.json["not_replayed"]],
    )
    assert 0 == ended.code


def test_what_was_replayed_is_erased_with_its_replay(cli: CommandLine, empty_folder: Path) -> None:
    """They have the same texts, so neither can be replayed when one of them was redacted."""
    old = dispatched(cli)
    configured(empty_folder, HEALTHY)
    (first,) = cli("replay", old, "--json").json["replayed"]
    assert 0 == cli("redact", first["task_id"], "--reason", "asked for").code
    assert [2, 2] == [cli("replay", task_id).code for task_id in (old, first["task_id"])]


def test_a_task_that_has_not_ended_is_refused(cli: CommandLine) -> None:
    """It is for ``resume`` or ``cancel``."""
    task_id = cli("submit", "hello", "--tier", "haiku", "--json").json["task_id"]
    ended = cli("replay", task_id)
    assert (2, True) == (ended.code, "has not ended, it is pending" in ended.err)
    assert (2, "no task" in cli("replay", "ffffffff").err) == (cli("replay", "ffffffff").code, True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(("--tier", "haiku"), ("haiku", "plain", 2, 200_000), id="another tier, the old policy"),
        pytest.param(("--policy", "current"), ("flash", "up", 4, 500_000), id="today's policy"),
        pytest.param(("--policy", "other.toml"), ("flash", "far", 3, 900_000), id="a file's policy"),
        pytest.param(("--tier", "haiku", "--policy", "current"), ("haiku", "plain", 4, 500_000), id="both"),
    ],
)
def test_another_tier_or_policy_can_be_pinned(
    cli: CommandLine, empty_folder: Path, options: tuple[str, ...], expected: tuple[str, str, int, int]
) -> None:
    """Today's route for a tier; what a policy leaves to the configuration is the policy's."""
    old = dispatched(cli)
    configured(empty_folder, HEALTHY.replace("retry_count = 1", "retry_count = 3\njitter = 0.5").replace("down", "up"))
    other = '[retry]\njitter = 0.9\n[tiers.flash]\nprovider = "simulated"\nmodel = "far"\n'
    (empty_folder / "other.toml").write_text(other)
    (new,) = cli("replay", old, *options, "--json").json["replayed"]
    made = submitted(new["task_id"])
    first = made.route[0]
    assert expected == (first.tier, first.model, first.tries, made.policy.jitter_ppm)
    assert ("caller", old) == (made.why.kind, made.replay_of)


@pytest.mark.parametrize(
    ("named", "expected"),
    [pytest.param((), 64, id="left to the policy"), pytest.param(("--max-tokens", "4096"), 4096, id="named")],
)
def test_another_policy_limits_the_output_too(
    cli: CommandLine, empty_folder: Path, named: tuple[str, ...], expected: int
) -> None:
    """Where the caller had left that to the configuration."""
    priced = '[prices."simulated/plain"]\ninput_usd_per_mtok = 0.0\noutput_usd_per_mtok = 1.0\n'
    configured(empty_folder, CONFIG + priced)
    (empty_folder / "other.toml").write_text(CONFIG.replace("[retry]", "[retry]\nmax_tokens = 64"))
    old = dispatched(cli, *named, tier="haiku")
    same, other = (
        submitted(cli("replay", old, "--again", *how, "--json").json["replayed"][0]["task_id"]).max_tokens
        for how in ((), ("--policy", "other.toml"))
    )
    assert (4096, expected) == (same, other)
    (row,) = cli("replay", old, "--again", "--dry-run", "--policy", "other.toml", "--json").json["would_replay"]
    assert 2 * 1_000 * expected == row["at_most_nano_usd"]


def test_another_policy_gives_a_judge_its_own_tries(cli: CommandLine) -> None:
    """The configuration's, as at submission: the retries that the caller named are the route's and the ladder's."""
    old = dispatched(cli, "--validated", "--retries", "0", tier="haiku")
    (new,) = cli("replay", old, "--policy", "current", "--json").json["replayed"]
    for made in (submitted(old), submitted(new["task_id"])):
        assert (1, 2, {1}) == (made.route[0].tries, made.judge[0].tries, {rung.tries for rung in made.ladder})


def test_a_validation_is_judged_again(cli: CommandLine) -> None:
    """The same texts before the judge, and the verdict names the same task; it has no tier to choose."""
    judged = dispatched(cli, tier="haiku")
    old = cli("validate", "--task-id", judged, "--json").json["task_id"]
    (new,) = cli("replay", old, "--json").json["replayed"]
    assert ("validation", judged) == (submitted(new["task_id"]).kind, submitted(new["task_id"]).judged_task_id)
    assert texts(old)["output"] == texts(new["task_id"])["output"]
    ended = cli("replay", old, "--tier", "opus")
    assert (2, True) == (ended.code, "no tier to choose" in ended.err)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(("replay",), "give TASKs, or --state", id="nothing"),
        pytest.param(("replay", "x", "--state", "failed"), "one of them", id="both"),
        pytest.param(("replay", "x", "--since", "1h"), "give --state as well", id="a filter of nothing"),
        pytest.param(("replay", "--state", "failed", "--error", "rate_limit"), "is no error type", id="no error type"),
        pytest.param(("replay", "--all"), "--all goes with --check", id="all of them"),
        pytest.param(("replay", "x", "--check", "--tier", "opus"), "--check runs nothing", id="a check with a tier"),
        pytest.param(("replay", "x", "--policy", "none.toml"), "no such configuration file", id="no policy"),
    ],
)
def test_what_makes_no_sense_is_refused(cli: CommandLine, argv: tuple[str, ...], said: str) -> None:
    """Exit 2, with what to do; nothing is written."""
    dispatched(cli, tier="haiku")
    before = count("events")
    ended = cli(*argv)
    assert (2, before) == (ended.code, count("events"))
    assert said in ended.err


def test_a_difference_is_exit_1(cli: CommandLine) -> None:
    """``--check`` names the task, the version and the field."""
    task_id = dispatched(cli)
    assert 0 == cli("replay", task_id, "--check").code
    assert {"ok": True, "tasks": 1, "events": 7, "differences": []} == cli("replay", task_id, "--check", "--json").json


def batch_of(count: int) -> str:
    """Write a batch of tasks for flash and return its file's name."""
    lines = [json.dumps({"tier": "flash", "prompt": f"p{number}"}) for number in range(count)]
    Path("b.jsonl").write_text("\n".join(lines) + "\n")
    return "b.jsonl"


def test_a_batch_replays_what_had_failed_when_it_is_told_to(cli: CommandLine, empty_folder: Path) -> None:
    """Not in the run in which it fails; later the newest replay answers, with the option or without."""
    name = batch_of(3)
    assert (3, 6) == (cli("batch", name, "--retry-failed", "--json").json["failed"], count("attempts"))
    assert (3, 6) == (cli("batch", name, "--json").json["failed"], count("attempts"))
    configured(empty_folder, HEALTHY)
    ended = cli("batch", name, "--retry-failed", "--json", "--out", "r.jsonl")
    assert (0, 3, 3, 3) == (ended.code, ended.json["succeeded"], ended.json["submitted"], ended.json["attempts"])
    ours = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    olds = {row[0] for row in sql("dispatch.db", "SELECT task_id FROM tasks WHERE replay_of IS NULL")}
    assert olds == {line["replay_of"] for line in ours}
    for again in (("--retry-failed",), ()):
        ended = cli("batch", name, *again, "--json", "--out", "r2.jsonl")
        assert (0, 3, 0, 6) == (ended.code, ended.json["reused"], ended.json["attempts"], count("tasks"))
        theirs = [json.loads(line) for line in Path("r2.jsonl").read_text().splitlines()]
        assert [line["task_id"] for line in ours] == [line["task_id"] for line in theirs]


@pytest.mark.slow
def test_a_killed_batch_replays_nothing_twice(cli: CommandLine, empty_folder: Path) -> None:
    """What was under way goes on as the replay it is."""
    name = batch_of(40)
    cli("batch", name)
    configured(empty_folder, HEALTHY.replace("latency_ms = 0", "latency_ms = 30"))
    for at_least in (5, 15, 25):
        with started("batch", name, "--retry-failed", "--concurrency", "2") as process:
            until(lambda: count("tasks") >= 40 + at_least, "some replays")  # noqa: B023 - asked at once
            os.kill(process.pid, signal.SIGKILL)
    ended = cli("batch", name, "--retry-failed", "--json")
    assert (0, 40) == (ended.code, ended.json["succeeded"] + ended.json["reused"])
    replays = sql("dispatch.db", "SELECT replay_of, count(*) FROM tasks WHERE replay_of IS NOT NULL GROUP BY 1")
    assert (40, {1}) == (len(replays), {number for _, number in replays})


STORES = [pytest.param("sqlite", id="SQLite"), pytest.param("postgresql", id="PostgreSQL")]


@pytest.mark.parametrize("engine", STORES)
async def test_two_at_once_make_one_replay_a_task(engine: str, tmp_path: Path) -> None:
    """The ledger takes one; the other process follows it to its end, and `verify` finds nothing."""
    sick, healthy = (Config.from_mapping(tomllib.loads(each)) for each in (CONFIG, HEALTHY))
    async with AsyncExitStack() as stack:
        at = fresh_ledger(tmp_path) if engine == "sqlite" else await stack.enter_async_context(database())
        async with Ledger.open(at) as ledger, Executor(ledger, sick) as executor:
            olds = [(await executor.execute("flash", f"p{number}")).task_id or "" for number in range(4)]
        first, second = [await stack.enter_async_context(Ledger.open(at)) for _ in range(2)]
        one, two = [await stack.enter_async_context(Executor(each, healthy)) for each in (first, second)]
        hands = [(each, old) for old in olds for each in (one, two, one)]
        done = await asyncio.gather(*(each.replayed(old, Replay(each.registry)) for each, old in hands))
        store = await first.store()
        rows = [row for row in await store.tasks(TaskQuery()) if row["replay_of"] is not None]
        assert sorted(olds) == sorted(row["replay_of"] for row in rows)
        assert 4 == sum(each.new for each in done)
        assert {"succeeded"} == {each.done.story.state_name for each in done}
        assert {each.done.story.task_id for each in done} == {await newest_replay(store, old) for old in olds}
        assert (await verify(store)).ok


async def test_python_replays_one_task(tmp_path: Path) -> None:
    """The result of the newest replay; what cannot be replayed raises, and nothing was written."""
    config = Config.from_mapping({"tiers": {"haiku": {"provider": "simulated", "model": "plain"}}})
    async with Ledger.open(fresh_ledger(tmp_path)) as ledger, Executor(ledger, config) as executor:
        old = await executor.execute("haiku", "hello")
        first = await executor.replay(old.task_id or "")
        again = await executor.replay(old.task_id or "", again=True, tier="haiku", policy=config)
        assert (True, True, 3) == (first.success, again.success, len({old.task_id, first.task_id, again.task_id}))
        assert again.task_id == (await executor.replay(old.task_id or "")).task_id
        pending = await executor.submit("haiku", "later")
        for asked, error in ((pending, RequestRefused), ("nobody", TaskNotFound)):
            with pytest.raises(error):
                await executor.replay(asked)
