"""The demonstration: what it promises to show happens, each time, and what it says to type works."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ledger.cli import main
from tests.command_line import CommandLine, sql


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line, in this process."""
    return CommandLine(capsys)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of one demonstration; its ledger is only looked at."""
    path = tmp_path_factory.mktemp("shown") / "shown.db"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["demo", "--ledger", str(path), "--json"]) == 0
    document: dict[str, Any] = json.loads(out.getvalue())
    return document


def happened(path: str | Path) -> list[tuple[Any, ...]]:
    """Return what happened in a ledger, without ids and times."""
    return sql(
        path,
        "select p.bytes, a.attempt, a.purpose, a.tier, a.state, a.error_type, a.tokens_input, a.tokens_output "
        "from attempts a join payloads p on p.task_id = a.task_id and p.slot = 'prompt' order by 1, 2, 3",
    )


def test_it_shows_what_it_promises(cli: CommandLine, shown: dict[str, Any]) -> None:
    """All five tiers, a rate limit, an overload, a timeout, a fallback from flash to haiku, verdicts of both kinds."""
    assert (shown["verify"]["ok"], shown["batch"]["failed"]) == (True, 1)
    assert ["flash", "pro", "haiku", "sonnet", "opus"] == [tier["tier"] for tier in shown["tiers"] if tier["succeeded"]]
    assert [True, True, False, True] == [verdict["pass"] for verdict in shown["verdicts"]]
    story = cli("show", shown["story"], "--ledger", shown["ledger"], "--json").json
    errors = [row["error_type"] for row in story["attempts"]]
    assert errors == ["rate_limited", "overloaded", "timeout", None]
    fallback = [(row["tier_from"], row["tier_to"]) for row in story["decisions"] if row["decision"] == "fallback"]
    assert (fallback, story["task"]["state"]) == ([("flash", "haiku")], "succeeded")


def test_the_summary_is_what_the_ledger_has(shown: dict[str, Any]) -> None:
    """Every figure by tier is found by plain SQL."""
    figures = {row["tier"]: (row["attempts"], row["succeeded"], row["tokens_output"]) for row in shown["tiers"]}
    query = "select tier, count(*), sum(state = 'succeeded'), sum(coalesce(tokens_output, 0)) from attempts group by 1"
    assert figures == {tier: tuple(found) for tier, *found in sql(shown["ledger"], query)}
    retries = sql(shown["ledger"], "select count(*) from decisions where decision = 'retry'")
    assert [(sum(row["retries"] for row in shown["tiers"]),)] == retries


@pytest.mark.usefixtures("empty_folder")
def test_the_same_happens_each_time_in_a_new_file(cli: CommandLine, shown: dict[str, Any]) -> None:
    """Only ids and times differ; a file that is there is left alone; what is said to type works."""
    Path("dispatch-demo.db").write_text("somebody's")
    told = cli("demo").out
    assert happened("dispatch-demo-2.db") == happened(shown["ledger"])
    assert Path("dispatch-demo.db").read_text() == "somebody's"
    queries = re.findall(r'sqlite3 -header dispatch-demo-2\.db "([^"]+)"', told)
    commands = re.findall(r"dispatch-ledger ((?:show|tasks|report|verify).*)", told)
    assert (len(queries), len(commands)) == (3, 5)
    assert [bool(sql("dispatch-demo-2.db", query)) for query in queries] == [True] * 3
    assert [cli(*command.split()).code for command in commands] == [0] * 5
    for said in ("decided fallback: from flash to haiku", "does not pass", "tamper-evident", "ANTHROPIC_API_KEY"):
        assert said in told


@pytest.mark.slow
@pytest.mark.usefixtures("empty_folder")
def test_a_named_ledger_is_added_to(cli: CommandLine, tmp_path: Path, shown: dict[str, Any]) -> None:
    """With --ledger it is written there, beside what is there: each demonstration asks anew."""
    copy = tmp_path / "copy.db"
    sql(shown["ledger"], "vacuum into ?", str(copy))
    again = cli("demo", "--ledger", str(copy), "--json").json
    assert (18, 44) == (again["batch"]["submitted"], again["verify"]["tasks"])
    assert list(Path().iterdir()) == []
