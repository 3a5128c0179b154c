"""Replaying a task: the same request as a task of its own; nothing is written to the old one's stream."""

from __future__ import annotations

from dataclasses import dataclass

from ledger import commands as c
from ledger.dispatch import decide
from ledger.errors import TaskNotFound
from ledger.executor.bench import Bench
from ledger.executor.dispatching import driven
from ledger.executor.intake import Dispatched
from ledger.executor.replay_plans import Replay, newest_replay, planned, replay_draft, replay_key
from ledger.state import INITIAL
from ledger.store.protocol import KeyTaken

__all__ = ["Replayed", "replayed", "standing"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A task, and the replay that answers for it, brought to its end."""

    replay_of: str
    new: bool
    """Made by this call; else it was there."""
    done: Dispatched


async def replayed(bench: Bench, task_id: str, how: Replay) -> Replayed:
    """Replay a task, or bring the replay to its end that there is already.

    Raises:
        TaskNotFound: there is no such task.
        RequestRefused: it has not ended, or its texts were erased; nothing was written.
        LedgerError: the ledger cannot be used.
    """
    desk = bench.desk
    plan = await planned(desk.store, task_id, how)
    if plan.newest is not None and plan.stands:
        return Replayed(task_id, new=False, done=await _to_its_end(bench, plan.newest.task_id))
    draft = replay_draft(plan, desk.ports, desk.worker)
    events = decide(INITIAL, c.Submit(draft.request, desk.seen(draft.request.policy)))
    key = replay_key(await desk.store.key_salt(), plan.follows)
    append = desk.sealed(draft.task_id, 0, events, fence=0, payloads=draft.payloads, key=key)
    try:
        await bench.pool.unbroken(desk.store.append(append))
    except KeyTaken as taken:  # somebody else replays it at the same time: theirs is the one
        return Replayed(task_id, new=False, done=await _to_its_end(bench, taken.task_id))
    return Replayed(task_id, new=True, done=await _to_its_end(bench, draft.task_id))


async def standing(bench: Bench, task_id: str) -> Dispatched | None:
    """Bring a task's newest replay to its end; None where it has none.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    newest = await newest_replay(bench.desk.store, task_id)
    return None if newest is None else await _to_its_end(bench, newest)


async def _to_its_end(bench: Bench, task_id: str) -> Dispatched:
    done = await driven(bench, task_id, patient=True)
    if done is None:
        raise TaskNotFound(f"the ledger holds no task {task_id} any more")
    return done
