"""A verdict in words: who found what about which answer, inside a task and about it from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger import events as e
from ledger.cli import output
from ledger.cli.work.words import instant
from ledger.envelope import issues_slot
from ledger.parts import Judgement
from ledger.store.protocol import Store
from ledger.store.snapshots import Askable, Snapshot

__all__ = ["judged_since", "judged_words", "since_line", "verdict_lines"]

SINCE: Final = """\
SELECT judge_task_id, judged_attempt, judge_attempt, pass, confidence, escalate, error_type, recorded_at_ms
FROM validations WHERE task_id = :task_id AND judge_task_id <> :task_id
ORDER BY recorded_at_ms, judge_task_id, version LIMIT 100"""
"""The first hundred verdicts on a task's answer that are tasks of their own."""
COLUMNS: Final = ("task_id", "judged_attempt", "judge_attempt", "pass", "confidence", "escalate", "error_type")


def verdict_lines(event: e.ValidationPassed | e.ValidationFailed, texts: Mapping[str, str]) -> list[str]:
    """Say who found what, with the issues."""
    word = "passes" if isinstance(event, e.ValidationPassed) else "does not pass"
    escalate = ", asks for a higher tier" if event.escalate else ""
    sure = f", confidence {event.confidence_thousandths / 1000:g}" if event.judge_attempt else ", says a person"
    issues = texts.get(issues_slot(event.judge_attempt))
    said = [f"issues {output.visible(issues)}"] if issues is not None else []
    return [f"{judged_words(event)} {word}{sure}{escalate}", *said]


def judged_words(event: Judgement) -> str:
    """Name what was judged."""
    what = "the output" if event.judged_attempt is None else f"the answer of attempt {event.judged_attempt}"
    return what if event.judged_task_id is None else f"{what} of task {event.judged_task_id}"


async def judged_since(store: Store, task_id: str) -> tuple[Mapping[str, Any], ...]:
    """Return the verdicts on a task's answer that were given after its end, each a task of its own."""

    async def ask(snapshot: Snapshot) -> Sequence[Sequence[Any]]:
        return await snapshot.rows(SINCE, {"task_id": task_id})

    rows = await store.snapshot(ask) if isinstance(store, Askable) else ()
    return tuple(dict(zip((*COLUMNS, "recorded_at_ms"), row, strict=True)) for row in rows)


def since_line(row: Mapping[str, Any]) -> str:
    """Say who found what, and in which task that stands."""
    if row["error_type"] is not None:
        said = f"no verdict could be had: {row['error_type']}"
    else:
        who = "says a person" if row["judge_attempt"] is None else f"confidence {row['confidence']:g}"
        said = f"{'passes' if row['pass'] else 'does not pass'}, {who}"
    return f"{instant(row['recorded_at_ms'])} attempt {row['judged_attempt']}: {said}, task {row['task_id']}"
