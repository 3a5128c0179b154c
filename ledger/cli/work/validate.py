"""The work of ``validate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.executor.intake import Dispatched
from ledger.executor.requests import Judged

__all__ = ["judge_stored", "judge_texts"]

RESUMABLE: Final = "the verdict's task is in the ledger as it stands"


def judge_texts(common: Common, task: str, text: str, labels: Mapping[str, str]) -> int:
    """Have a text judged that is in no ledger."""

    async def work() -> int:
        async with opened(common, create=True) as executor:
            _tell(*await executor.judge(task, Judged(text), labels), as_json=common.as_json)
        return DONE

    return perform(work, interrupted=RESUMABLE)


def judge_stored(common: Common, part: str, verdict: Literal["pass", "fail"] | None, issues: Sequence[str]) -> int:
    """Have a finished task's answer judged, or record what a person says of it."""

    async def work() -> int:
        async with opened(common, create=False, calls=verdict is None) as executor:
            task_id = await one_task(await executor.ledger.store(), part)
            _tell(*await executor.judge_task(task_id, verdict, issues), as_json=common.as_json)
        return DONE

    return perform(work, interrupted=RESUMABLE)


def _tell(verdict: dict[str, Any], done: Dispatched, *, as_json: bool) -> None:
    if as_json:
        judged = done.story.task.submitted.judged_task_id
        output.document({**verdict, "task_id": done.story.task_id, "judged_task_id": judged})
        return
    passed = "passes" if verdict["pass"] else "does not pass"
    escalate = ", and should go to a higher tier" if verdict["escalate"] else ""
    sure = f"confidence {verdict['confidence']:g}" if done.result.attempts else "a person's verdict"
    output.write(f"the output {passed} ({sure}){escalate}\n")
    for issue in verdict["issues"]:
        output.answer(f"- {issue}")
    output.note(f"the verdict is task {done.story.task_id}")
