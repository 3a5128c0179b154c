"""Lists of tasks: pages in one order, and plans that do not grow with the ledger."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.lists import fill
from ledger.store.protocol import TaskQuery
from ledger.store.sqlite_lists import page_of_tasks
from tests.command_line import CONFIG, CommandLine
from tests.ledgers import fresh_ledger

FILTERS = {"state": "failed", "tier": "opus", "since_ms": 5, "labels": {"team": "a"}, "after": (9, "t")}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of some thousand tasks."""
    path = fresh_ledger(tmp_path_factory.mktemp("lists"))
    fill(path, 5_000)
    return path


def plan(path: Path, query: TaskQuery) -> list[str]:
    """Return how SQLite would read a page."""
    text, wanted = page_of_tasks(query)
    with closing(sqlite3.connect(path)) as database:
        return [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", wanted)]


def combinations() -> list[object]:
    """Make a case of every set of filters, with each kind of state."""
    sets = itertools.chain.from_iterable(itertools.combinations(FILTERS, size) for size in range(len(FILTERS) + 1))
    queries = [{name: FILTERS[name] for name in names} for names in sets]
    queries += [{**query, "state": "succeeded"} for query in queries if "state" in query]
    return [
        pytest.param(TaskQuery(**query), id=" ".join(f"{name}={query[name]}" for name in query) or "all")  # type: ignore[arg-type] # a table of fields
        for query in queries
    ]


@pytest.mark.parametrize("query", combinations())
def test_a_page_comes_out_of_an_index(ledger: Path, query: TaskQuery) -> None:
    """Nothing is sorted and no table is scanned, whatever is asked for."""
    steps = plan(ledger, query)
    assert [step for step in steps if "TEMP B-TREE" in step] == []
    whole = ["SCAN tasks USING INDEX tasks_by_time"] if query == TaskQuery() else []
    assert whole == [step for step in steps if step.startswith("SCAN")]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        pytest.param(TaskQuery(), "tasks_by_time", id="all"),
        pytest.param(TaskQuery(since_ms=5), "tasks_by_time (created_at_ms>?)", id="since"),
        pytest.param(TaskQuery(state="failed"), "tasks_by_state (state=? AND tier_requested=?)", id="state"),
        pytest.param(TaskQuery(tier="opus"), "tasks_by_tier (tier_requested=?)", id="tier"),
        pytest.param(TaskQuery(state="failed", tier="opus"), "(state=? AND tier_requested=?)", id="both"),
        pytest.param(TaskQuery(labels={"a": "b"}), "task_labels_by_value (key=? AND value=?)", id="label"),
        pytest.param(
            TaskQuery(labels={"a": "b"}, after=(1, "t")),
            "task_labels_by_value (key=? AND value=? AND (created_at_ms,task_id)<(?,?))",
            id="a label's next page",
        ),
        pytest.param(TaskQuery(labels={"a": "b"}, state="failed"), "tasks_by_state", id="a rare state leads a label"),
        pytest.param(
            TaskQuery(labels={"a": "b"}, state="succeeded"), "task_labels_by_value", id="a common one does not"
        ),
    ],
)
def test_the_narrowest_index_leads(ledger: Path, query: TaskQuery, index: str) -> None:
    """The first table that is read is bounded by what was asked for."""
    first = next(step for step in plan(ledger, query) if step.startswith(("SEARCH", "SCAN")))
    assert index in first


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(TaskQuery(), id="all"),
        pytest.param(TaskQuery(state="failed"), id="state"),
        pytest.param(TaskQuery(tier="haiku"), id="tier"),
        pytest.param(TaskQuery(labels={"team": "a"}), id="label"),
        pytest.param(TaskQuery(labels={"team": "a"}, state="failed", tier="flash"), id="everything"),
    ],
)
def test_the_lists_are_those_of_a_plain_query(ledger: Path, query: TaskQuery) -> None:
    """The quick statement gives what the obvious one does, in its order."""
    conditions = [
        "1",
        *(
            f"{column} = '{value}'"
            for column, value in (("state", query.state), ("tier_requested", query.tier))
            if value
        ),
    ]
    conditions += [
        f"task_id IN (SELECT task_id FROM task_labels WHERE key = '{key}' AND value = '{value}')"
        for key, value in query.labels.items()
    ]
    order = "created_at_ms DESC, task_id DESC"
    plain = f"SELECT task_id FROM tasks WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT 100"
    text, wanted = page_of_tasks(query)
    with closing(sqlite3.connect(ledger)) as database:
        found = [row[0] for row in database.execute(text, wanted)]
        assert found == [row[0] for row in database.execute(plain)]
    assert found


def test_pages_join_without_a_seam(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Page after page by the last task gives every task once, in the order of the whole list."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    cli = CommandLine(capsys)
    lines = [json.dumps({"tier": "haiku", "prompt": f"p{number}", "labels": {"team": "a"}}) for number in range(7)]
    (empty_folder / "seven.jsonl").write_text("\n".join(lines))
    cli("batch", "seven.jsonl")
    cli("run", "-t", "pro", "another")
    whole = [row["task_id"] for row in cli("tasks", "--json").json]
    paged: list[str] = []
    while True:
        after = ["--after", paged[-1]] if paged else []
        ended = cli("tasks", "--json", "--limit", "3", *after)
        paged += [row["task_id"] for row in ended.json]
        if f"--after {paged[-1]} the next ones" not in ended.err:
            break
    assert (len(whole), whole) == (8, paged)
    (last,) = cli("tasks", "--json", "--label", "team=a", "--after", paged[-2][-12:]).json
    assert last["task_id"] == paged[-1]


def test_a_page_begins_after_a_task(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is no task begins no page."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    cli = CommandLine(capsys)
    cli("run", "-t", "haiku", "hello")
    ended = cli("tasks", "--after", "nothing")
    assert (ended.code, "no task's id begins or ends with 'nothing'" in ended.err) == (2, True)
