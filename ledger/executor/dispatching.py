"""What an executor does with a task: dispatch a request, queue it, drive a task, let it go, call it off."""

from __future__ import annotations

import asyncio

from ledger import commands as c
from ledger.dispatch import decide
from ledger.envelope import Stream
from ledger.errors import CommandRefused, TaskNotFound
from ledger.executor.attempt import Attempt
from ledger.executor.bench import Bench
from ledger.executor.driver import Driver
from ledger.executor.intake import Dispatched, Intake
from ledger.executor.listening import Listener
from ledger.executor.requests import Request, draft, key_digest
from ledger.executor.results import result_of, tell
from ledger.executor.sending import Sent, sent_anew
from ledger.executor.starting import Stopped
from ledger.executor.transact import Desk, state_of
from ledger.state import INITIAL, Absent, Ended, Held
from ledger.store.protocol import KeyTaken

__all__ = ["cancelled", "dispatched", "driven", "enqueued", "finished"]


async def dispatched(bench: Bench, intake: Intake, request: Request, listener: Listener) -> Dispatched:
    """Bring a request to its end: as a new task, or as the one that its key names."""
    store = bench.desk.store
    key = key_digest(request, await store.key_salt())
    sent = Sent(request.prompt, request.system)
    if request.judged is not None:
        sent = Sent.to_judge(request.prompt, request.judged.output)
    attempt = Attempt(bench, sent, listener)
    task_id = None if key is None else await store.task_of_key(key)
    stream: Stream = ()
    if task_id is None:
        new = draft(request, intake.rules(request), bench.desk.ports, bench.desk.worker)
        try:
            task_id, stream = new.task_id, await attempt.first(new, key)
        except KeyTaken as taken:
            task_id = taken.task_id
    met = tell(task_id, stream)
    before = 0
    succeeded_before = False
    if met is None:
        stream = await store.read(task_id)
        met = await intake.met(store, request, task_id, stream)
        before, succeeded_before = len(met.started), met.answering is not None
    driven = await Driver(bench, attempt).drive(task_id, stream)
    story = met if driven is stream else tell(task_id, driven) or met
    result = await result_of(store, story, attempt.texts)
    if story.judgements and story.answering is not None:
        listener.settle(story.answering, result.response)
    if listener.fault is not None:
        raise listener.fault
    return Dispatched(story, driven, result, before, succeeded_before)


async def enqueued(desk: Desk, intake: Intake, request: Request) -> str:
    """Submit a request for nobody in particular; return its task, or the one that its key names."""
    store = desk.store
    key = key_digest(request, await store.key_salt())
    task_id = None if key is None else await store.task_of_key(key)
    if task_id is None:
        new = draft(request, intake.rules(request), desk.ports, None)
        events = decide(INITIAL, c.Submit(new.request, desk.seen(new.request.policy)))
        try:
            await store.append(desk.sealed(new.task_id, 0, events, fence=0, payloads=new.payloads, key=key))
        except KeyTaken as taken:
            task_id = taken.task_id
        else:
            return new.task_id
    await intake.met(store, request, task_id, await store.read(task_id))
    return task_id


async def driven(bench: Bench, task_id: str, *, patient: bool, stop: asyncio.Event | None = None) -> Dispatched | None:
    """Drive a task of the ledger; None if it has not come to its end, as only an impatient driver gives up.

    Once ``stop`` is set no attempt is begun any more.

    Raises:
        TaskNotFound: there is no such task.
    """
    store = bench.desk.store
    stream = await store.read(task_id)
    met = tell(task_id, stream)
    if met is None:
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    attempt = Attempt(
        bench, await sent_anew(store, task_id, judging=not met.task.submitted.route), Listener(), stop=stop
    )
    try:
        stream = await Driver(bench, attempt).drive(task_id, stream, patient=patient)
    except Stopped:
        return None
    story = tell(task_id, stream) or met
    if not isinstance(story.state, Ended | Held):
        return None
    result = await result_of(store, story, attempt.texts)
    return Dispatched(story, stream, result, len(met.started), met.answering is not None)


async def finished(person: Desk, bench: Bench, task_id: str) -> Dispatched:
    """Bring a task to its end; one that waits for a person is let go.

    Raises:
        TaskNotFound: there is no such task.
    """
    await _release(person, task_id)
    done = await driven(bench, task_id, patient=True)
    if done is None:
        raise TaskNotFound(f"the ledger holds no task {task_id} any more")
    return done


async def _release(desk: Desk, task_id: str) -> None:
    """Let a task go that waits for a person; any other is left as it is.

    Raises:
        TaskNotFound: there is no such task.
    """
    stream = await desk.store.read(task_id)
    state = state_of(stream)
    if isinstance(state, Absent):
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    await desk.transact(task_id, c.Release(desk.seen(state.task.submitted.policy)), known=stream)


async def cancelled(desk: Desk, task_id: str) -> str:
    """Call a task off; return the state that it is in.

    Raises:
        TaskNotFound: there is no such task.
    """
    stream = await desk.store.read(task_id)
    state = state_of(stream)
    if isinstance(state, Absent):
        raise TaskNotFound(f"the ledger holds no task {task_id}")
    stream = await desk.transact(task_id, c.Cancel(desk.seen(state.task.submitted.policy)), known=stream)
    story = tell(task_id, stream)
    if story is None:
        raise CommandRefused("unknown_task", f"task {task_id} went away")
    return story.state_name
