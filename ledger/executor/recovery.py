"""What a start does first: it records as orphaned what dead workers had in flight."""

from __future__ import annotations

from typing import Final

from ledger import commands as c
from ledger import events as e
from ledger.executor.presence import Others, Sign
from ledger.executor.transact import Desk, state_of
from ledger.state import Running

__all__ = ["gone_owners", "orphan", "settle_the_dead"]

PAGE: Final = 500
CLAIM_MS: Final = 60_000


async def gone_owners(desk: Desk, others: Others) -> tuple[str, ...]:
    """Return the workers that are certainly dead and still own tasks."""
    owners = [owner for owner in await desk.store.owners() if owner is not None]
    return tuple([owner for owner in owners if await others.sign(owner) is Sign.GONE])


async def settle_the_dead(desk: Desk, others: Others) -> int:
    """Orphan every attempt in flight of a worker that is dead for sure; return how many there were.

    The tasks stay where they are: whoever met them by key, ``resume`` or ``worker`` goes on with them.
    """
    gone = await gone_owners(desk, others)
    claimed: list[str] = []
    orphaned = 0
    while gone and (page := await desk.store.claim(desk.worker, gone, len(claimed) + PAGE, CLAIM_MS)):
        new = [task_id for task_id in page if task_id not in set(claimed)]
        if not new:
            break
        claimed += new
        for task_id in new:
            state = state_of(await desk.store.read(task_id))
            if isinstance(state, Running) and state.started.worker in gone:
                await orphan(desk, task_id, state, "worker_gone")
                orphaned += 1
    await desk.store.unclaim(desk.worker, claimed)
    for worker in gone:
        await desk.store.leave(worker)
        others.forget(worker)
    return orphaned


async def orphan(desk: Desk, task_id: str, state: Running, cause: str) -> None:
    """Give an attempt up: what it cost is unknown, up to its bound; somebody else may have been first."""
    started = state.started
    orphaned = e.AttemptOrphaned.model_validate(
        {"attempt": started.attempt, "cause": cause, "exposure_nano_usd": started.upper_bound_nano_usd}
    )
    command = c.Orphan(orphaned, desk.seen(state.task.submitted.policy))
    desk.ports.passing("before orphan")
    await desk.transact(task_id, command, fence=state.task.fence)
    desk.ports.passing("after orphan")
