"""A verdict on a finished task's answer: what is judged, and a person's word on it as a task of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from ledger import commands as c
from ledger import events as e
from ledger.canonical import salted_digest
from ledger.dispatch import decide
from ledger.envelope import Payload, issues_slot
from ledger.errors import RequestRefused, TaskNotFound
from ledger.executor.checks import short_text
from ledger.executor.intake import Dispatched, Intake
from ledger.executor.requests import Judged, draft, judging
from ledger.executor.results import result_of, tell
from ledger.executor.sending import whole_task
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.registry import ModelTier
from ledger.state import INITIAL
from ledger.store.protocol import Store

__all__ = ["judged_by_person", "stored_answer"]

ISSUES_MAX: Final = 3
ISSUE_CHARACTERS_MAX: Final = 1_000
SURE: Final = 1_000
"""The confidence of a person's verdict, in thousandths: nobody is asked for it."""


async def stored_answer(store: Store, task_id: str) -> tuple[str, Judged]:
    """Return what a finished task was asked, and what it answered.

    Raises:
        TaskNotFound: there is no such task.
        RequestRefused: it has no answer, or its texts were erased.
    """
    story = tell(task_id, await store.read(task_id))
    if story is None:
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    if story.task.submitted.kind != "generation":
        raise RequestRefused(f"task {task_id} is a verdict itself; only answers are judged", field="task_id")
    if story.answering is None:
        raise RequestRefused(f"task {task_id} is {story.state_name} and has no answer to judge", field="task_id")
    texts = {}
    for slot in ("prompt", "system", f"response/{story.answering}"):
        payload = await store.payload(task_id, slot)
        texts[slot] = None if payload is None else payload.content.decode()
    prompt, system, answer = texts.values()
    if prompt is None or answer is None:
        raise RequestRefused(f"the texts of task {task_id} were erased; nothing is left to judge", field="task_id")
    tier = story.started[story.answering].tier
    return whole_task(prompt, system), Judged(answer, task_id, story.answering, tier)


async def judged_by_person(
    desk: Desk, intake: Intake, task: str, judged: Judged, *, passed: bool, issues: Sequence[str]
) -> Dispatched:
    """Record a person's verdict on an answer; nobody is called.

    Raises:
        RequestRefused: the issues are too many or too long; nothing was written.
        LedgerError: the ledger cannot be used.
    """
    for issue in issues:
        short_text("issues: an issue", issue, ISSUE_CHARACTERS_MAX)
    if len(issues) > ISSUES_MAX:
        raise RequestRefused(f"issues has {len(issues)} entries, a verdict has at most {ISSUES_MAX}", field="issues")
    request = replace(judging(task, judged), tier=judged.tier or ModelTier.SONNET.value)
    new = draft(request, replace(intake.rules(request), judge=()), desk.ports, None)
    verdict, kept = _verdict(judged, tuple(issues), desk.ports, passed=passed)
    events = decide(INITIAL, c.Submit(new.request, desk.seen(new.request.policy), verdict))
    append = desk.sealed(new.task_id, 0, events, fence=0, payloads=(*new.payloads, *kept))
    stream = await desk.store.append(append)
    story = tell(new.task_id, stream)
    if story is None:
        raise TypeError("a verdict was recorded that is no task")
    return Dispatched(story, stream, await result_of(desk.store, story), 0, succeeded_before=False)


def _verdict(
    judged: Judged, issues: tuple[str, ...], ports: Ports, *, passed: bool
) -> tuple[e.ValidationPassed | e.ValidationFailed, tuple[Payload, ...]]:
    """Return the event of a person's verdict, with the text of its issues."""
    kind = e.ValidationPassed if passed else e.ValidationFailed
    said = kind(
        judged_task_id=judged.task_id,
        judged_attempt=judged.attempt,
        judge_attempt=None,
        issues=len(issues),
        issues_digest=None,
        confidence_thousandths=SURE,
        escalate=False,
    )
    if not issues:
        return said, ()
    payload = Payload(issues_slot(said.judge_attempt), ports.new_salt(), orjson.dumps(issues))
    return said.model_copy(update={"issues_digest": salted_digest(payload.salt, payload.content)}), (payload,)
