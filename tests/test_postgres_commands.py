"""Every command on a ledger in PostgreSQL; none shows its password."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import CONFIG, CommandLine, started, until
from tests.postgres_server import own_database

PASSWORD = "s3cret-of-nobody"
TASKS = [{"tier": "haiku", "prompt": f"p{number}", "labels": {"team": "a"}} for number in range(5)]


@pytest.fixture
def cli(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CommandLine]:
    """Run commands on a new database that the environment names."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    with asyncio.Runner() as runner:
        held = own_database(migrated=False)
        url = runner.run(held.__aenter__())
        monkeypatch.setenv("DISPATCH_LEDGER_URL", url.replace("postgres@", f"postgres:{PASSWORD}@"))
        yield CommandLine(capsys)
        runner.run(held.__aexit__(None, None, None))


@pytest.mark.slow
def test_every_command(cli: CommandLine, empty_folder: Path) -> None:
    """As on a file: the same words, the same exit codes."""
    said = []

    def run(*argv: str, code: int = 0) -> str:
        ended = cli(*argv)
        said.append(ended.out + ended.err)
        assert (code, argv) == (ended.code, argv), ended.err
        return ended.out

    run("tasks", code=3)
    assert "the first command that writes makes it" in run("doctor")
    run("run", "-t", "haiku", "hello")
    run("run", "-t", "flash", "hello", "--stream")
    (empty_folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, TASKS)))
    assert "5 succeeded" in run("batch", "tasks.jsonl")
    rows = json.loads(run("tasks", "--json"))
    assert len(rows) == 7
    assert len(json.loads(run("tasks", "--json", "--label", "team=a", "--limit", "3"))) == 3
    assert rows[0]["task_id"] in run("show", rows[0]["task_id"][-12:])
    run("validate", "--task-id", rows[0]["task_id"])
    assert len(run("tail", "--lines", "5", "--json").splitlines()) == 5
    assert "ok: " in run("verify")
    assert "as they were made" in run("db", "check")
    assert "is up to date" in run("db", "upgrade")
    assert "its guards stand" in run("doctor")
    run("config")
    run("demo", "--ledger", "demo.db")
    run("db", "copy", "demo.db", "copied.db")
    assert [text for text in said if PASSWORD in text] == []


@pytest.mark.slow
def test_a_demonstration_on_a_server(cli: CommandLine) -> None:
    """It names the shell of that engine."""
    ended = cli("demo", "--ledger", os.environ["DISPATCH_LEDGER_URL"])
    assert (ended.code, "psql " in ended.out, PASSWORD in ended.out) == (0, True, False)


def test_following(cli: CommandLine) -> None:
    """`tail -f` shows what others append, in its order, until it is told to stop."""
    cli("run", "-t", "haiku", "hello")
    following = started("tail", "-f", "--json", "--lines", "1")
    seen: list[dict[str, object]] = []
    assert following.stdout is not None
    seen.append(json.loads(following.stdout.readline()))
    cli("run", "-t", "haiku", "again")
    seen += [json.loads(following.stdout.readline()) for _ in range(4)]
    following.send_signal(signal.SIGTERM)
    until(lambda: following.poll() is not None, "the end of tail")
    following.communicate()
    assert [4, 5, 6, 7, 8] == [event["position"] for event in seen]
