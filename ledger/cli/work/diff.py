"""The work of ``diff``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any, Final

from ledger import events as e
from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.envelope import issues_slot
from ledger.errors import RequestRefused, TaskNotFound
from ledger.replay.comparison import Side, Text, compared, text_lines
from ledger.store.protocol import Store

__all__ = ["compare_tasks"]

SHOWN_CHARACTERS: Final = 400
LINES_MAX: Final = 200
GAP: Final = 2
MARKS: Final[Mapping[str, str]] = {"same": "  ", "left": "- ", "right": "+ ", "gap": "… "}
NAMES: Final = ("prompt", "system", "output", "answer", "issues", "message")


def compare_tasks(common: Common, first: str, second: str | None, *, everything: bool) -> int:
    """Compare two tasks and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False, guarded=False) as executor:
            store = await executor.ledger.store()
            ids = await _pair(store, first, second)
            left, right = [await _side(store, task_id) for task_id in ids]
        figures = compared(left, right)
        if common.as_json:
            texts = {name: _texts(left, right, name) for name in NAMES if name in {*left.texts, *right.texts}}
            output.document({"a": ids[0], "b": ids[1], "figures": figures, "texts": texts})
            return DONE
        _tell(ids, left, right, [row for row in figures if everything or not row["same"]])
        return DONE

    return perform(work)


async def _pair(store: Store, first: str, second: str | None) -> tuple[str, str]:
    """Return both ids, the older task first where only a replay is named.

    Raises:
        RequestRefused: one is named, and it is no replay.
    """
    task_id = await one_task(store, first)
    if second is not None:
        return task_id, await one_task(store, second)
    rows = (await store.projected(task_id)).tasks
    replay_of = rows[0]["replay_of"] if rows else None
    if replay_of is None:
        raise RequestRefused(f"task {task_id} is no replay; name the task to compare it with", field="task_id")
    return replay_of, task_id


async def _side(store: Store, task_id: str) -> Side:
    """Read a task and the texts that its request and its end are made of.

    Raises:
        TaskNotFound: its rows are not there.
    """
    stream, rows = await store.read(task_id), await store.projected(task_id)
    if not rows.tasks:
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    slots = _slots(recorded.event() for recorded in stream)
    kept = {payload.slot: payload.content.decode("utf-8", "replace") for payload in await store.payloads(task_id)}
    return Side(rows, {name: Text(kept.get(slot)) for name, slot in slots.items()})


def _slots(events: Iterable[e.Event]) -> dict[str, str]:
    """Return where the texts lie that are compared: of several verdicts and messages the newest."""
    slots: dict[str, str] = {}
    for event in events:
        match event:
            case e.TaskSubmitted():
                digests = {"prompt": event.prompt_digest, "system": event.system_digest, "output": event.output_digest}
                slots |= {name: name for name, digest in digests.items() if digest is not None}
            case e.TaskSucceeded(attempt=int(attempt)):
                slots["answer"] = f"response/{attempt}"
            case e.ValidationPassed() | e.ValidationFailed() if event.issues_digest is not None:
                slots["issues"] = issues_slot(event.judge_attempt)
            case e.AttemptFailed() if event.message_digest is not None:
                slots["message"] = f"message/{event.attempt}"
            case _:
                continue
    return slots


def _texts(left: Side, right: Side, name: str) -> dict[str, Any]:
    ours, theirs = left.texts.get(name), right.texts.get(name)
    known = ours is None or theirs is None or None not in (ours.content, theirs.content)
    return {
        "a": ours and ours.content,
        "b": theirs and theirs.content,
        "a_erased": ours is not None and ours.content is None,
        "b_erased": theirs is not None and theirs.content is None,
        "same": ours == theirs if known else None,
    }


def _tell(ids: tuple[str, str], left: Side, right: Side, figures: list[dict[str, Any]]) -> None:
    rows = [line for row in figures for line in _rows(row["field"], row["a"], row["b"])]
    _figures([["task", *ids], *rows])
    for name in NAMES:
        ours, theirs = left.texts.get(name), right.texts.get(name)
        if ours is None and theirs is None:
            continue
        if ours is not None and theirs is not None and ours.content is theirs.content is None:
            output.write(f"{name}: erased on both sides\n")
        elif lines := text_lines(ours, theirs):
            output.write(f"{name} (- a, + b):\n")
            for mark, line in lines[:LINES_MAX]:
                shown = output.visible(output.shortened(line, SHOWN_CHARACTERS)).replace("\n", " ")
                output.write(output.wrapped(shown, first=MARKS[mark], rest="  "))
            if len(lines) > LINES_MAX:
                output.write(f"… and {len(lines) - LINES_MAX:,} more lines; --json has both texts whole\n")
        else:
            output.write(f"{name}: the same on both sides\n")


def _figures(rows: list[list[str]]) -> None:
    """Write both sides beside each other; on a terminal without room for that one below the other."""
    widths = [max(len(output.visible(row[place])) for row in rows) for place in range(3)]
    if not output.is_terminal() or sum(widths) + 2 * GAP <= shutil.get_terminal_size().columns:
        output.table((("", "left"), ("a", "left"), ("b", "left")), rows)
        return
    for name, ours, theirs in rows:
        if name:
            output.write(f"{name}\n")
        for mark, value in (("left", ours), ("right", theirs)):
            if value:
                output.write(output.wrapped(output.visible(value), first=MARKS[mark], rest="  "))


def _rows(name: str, ours: Any, theirs: Any) -> list[list[str]]:
    """Say a figure of both sides; of a list each part in a row of its own."""
    if not isinstance(ours, list):
        return [[name, _said(name, ours), _said(name, theirs)]]
    pairs = list(zip_longest(ours, theirs, fillvalue="")) or [("", "")]
    return [["" if number else name, left, right] for number, (left, right) in enumerate(pairs)]


def _said(name: str, value: Any) -> str:
    match value:
        case None:
            return "unknown" if name.startswith(("cost", "tokens", "latency", "exposure")) else "none"
        case bool():
            return "yes" if value else "no"
        case int() if name.endswith("_nano_usd"):
            return f"{value / output.NANO:.6f} USD"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
