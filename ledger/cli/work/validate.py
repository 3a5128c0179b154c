"""The work of ``validate``."""

from __future__ import annotations

from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.errors import RequestRefused
from ledger.executor.api import Executor
from ledger.executor.intake import Dispatched
from ledger.executor.requests import Judged
from ledger.executor.results import tell
from ledger.store.protocol import Store

__all__ = ["judge_stored", "judge_texts", "stored_answer"]

RESUMABLE: Final = "the verdict's task is in the ledger as it stands"


def judge_texts(common: Common, task: str, text: str) -> int:
    """Have a text judged that is in no ledger."""

    async def work() -> int:
        async with opened(common, create=True) as executor:
            _tell(*await executor.judge(task, Judged(text)), as_json=common.as_json)
        return DONE

    return perform(work, interrupted=RESUMABLE)


def judge_stored(common: Common, part: str) -> int:
    """Have a finished task's answer judged."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            _tell(*await _judge(executor, part), as_json=common.as_json)
        return DONE

    return perform(work, interrupted=RESUMABLE)


async def _judge(executor: Executor, part: str) -> tuple[dict[str, Any], Dispatched]:
    store = await executor.ledger.store()
    prompt, judged = await stored_answer(store, await one_task(store, part))
    return await executor.judge(prompt, judged)


async def stored_answer(store: Store, task_id: str) -> tuple[str, Judged]:
    """Return what a finished task was asked, and what it answered.

    Raises:
        RequestRefused: it has no answer, or its texts were erased.
    """
    story = tell(task_id, await store.read(task_id))
    if story is None or story.answering is None or story.task.submitted.kind != "generation":
        what = "is no task" if story is None else f"{story.state_name} and has no answer to judge"
        raise RequestRefused(f"task {task_id} {what}", field="task_id")
    prompt = await store.payload(task_id, "prompt")
    answer = await store.payload(task_id, f"response/{story.answering}")
    if prompt is None or answer is None:
        raise RequestRefused(f"the texts of task {task_id} were erased; nothing is left to judge", field="task_id")
    return prompt.content.decode(), Judged(answer.content.decode(), task_id, story.answering)


def _tell(verdict: dict[str, Any], done: Dispatched, *, as_json: bool) -> None:
    if as_json:
        judged = done.story.task.submitted.judged_task_id
        output.document({**verdict, "task_id": done.story.task_id, "judged_task_id": judged})
        return
    passed = "passes" if verdict["pass"] else "does not pass"
    escalate = ", and should go to a higher tier" if verdict["escalate"] else ""
    output.write(f"the output {passed} (confidence {verdict['confidence']:g}){escalate}\n")
    for issue in verdict["issues"]:
        output.answer(f"- {issue}")
    output.note(f"the verdict is task {done.story.task_id}")
