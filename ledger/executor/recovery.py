"""What a start does first: it records as orphaned what dead workers had in flight."""

from __future__ import annotations

from typing import Final

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Stream
from ledger.executor.presence import Others, Sign
from ledger.executor.transact import Desk, state_of
from ledger.state import Ended, Held, Running
from ledger.store.protocol import TaskQuery

__all__ = ["gone_owners", "orphan", "settle_the_dead"]

PAGE: Final = 500


async def gone_owners(desk: Desk, others: Others) -> tuple[str, ...]:
    """Return the workers that are certainly dead and still own tasks."""
    owners = [owner for owner in await desk.store.owners() if owner is not None]
    return tuple([owner for owner in owners if await others.sign(owner) is Sign.GONE])


async def settle_the_dead(desk: Desk, others: Others) -> list[str]:
    """Orphan every attempt in flight of a worker that is dead for sure; return the tasks that came to rest by that.

    The other tasks stay where they are: whoever met them by key, ``resume`` or ``worker`` goes on with them.
    """
    gone = await gone_owners(desk, others)
    for worker in await others.gone():
        await desk.store.leave(worker)  # row and claims before the lock file: a row without one passes for alive
        others.forget(worker)
    rested: list[str] = []
    after: tuple[int, str] | None = None
    while gone and (page := await desk.store.tasks(TaskQuery(state="running", limit=PAGE, after=after))):
        after = page[-1]["created_at_ms"], page[-1]["task_id"]
        for task_id in [row["task_id"] for row in page if row["worker"] in gone]:
            state = state_of(await desk.store.read(task_id))
            if isinstance(state, Running) and state.started.worker in gone:
                stream = await orphan(desk, task_id, state, "worker_gone")
                rested += [task_id] if isinstance(state_of(stream), Ended | Held) else []
    return rested


async def orphan(desk: Desk, task_id: str, state: Running, cause: str) -> Stream:
    """Give an attempt up: what it cost is unknown, up to its bound; somebody else may have been first."""
    started = state.started
    orphaned = e.AttemptOrphaned.model_validate(
        {"attempt": started.attempt, "cause": cause, "exposure_nano_usd": started.upper_bound_nano_usd}
    )
    command = c.Orphan(orphaned, desk.seen(state.task.submitted.policy))
    desk.ports.passing("before orphan")
    stream = await desk.transact(task_id, command, fence=state.task.fence)
    desk.ports.passing("after orphan")
    return stream
