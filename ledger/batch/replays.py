"""Replaying many tasks side by side; each at most once, whoever else is at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from ledger.batch.hands import side_by_side
from ledger.batch.tally import Tally
from ledger.errors import RequestRefused
from ledger.executor.api import Executor
from ledger.executor.replay_plans import Replay
from ledger.executor.replaying import Replayed

__all__ = ["run_replays"]


async def run_replays(
    executor: Executor,
    task_ids: AsyncIterator[str],
    how: Replay,
    *,
    concurrency: int | None = None,
    on_finished: Callable[[Replayed], object],
    on_refused: Callable[[str, RequestRefused], object],
) -> Tally:
    """Replay every task, or bring the replay to its end that there is already.

    Args:
        executor: what dispatches.
        task_ids: which; taken one at a time, as there are hands.
        how: with which route and policy.
        concurrency: tasks under way at once; None is the sum of the providers' limits.
        on_finished: told of each replay at its end.
        on_refused: told of each task that cannot be replayed, and why.

    Raises:
        DispatchError: the ledger or the configuration cannot be used.
    """
    tally, turn = Tally(), asyncio.Lock()
    driven: set[str] = set()

    async def one() -> bool:
        async with turn:  # an iterator cannot be asked twice at once
            task_id = await anext(task_ids, None)
        if task_id is None:
            return False
        try:
            replay = await executor.replayed(task_id, how)
        except RequestRefused as refused:
            on_refused(task_id, refused)
            return True
        newest = replay.done.story.task_id
        if newest in driven:  # it answers for a task and for that task's earlier replays
            tally.count_again(replay.done)
        else:
            tally.count(replay.done, executor.worker)
        if any(start.worker == executor.worker for start in replay.done.story.started.values()):
            driven.add(newest)
        tally.submitted += replay.new
        on_finished(replay)
        return True

    await side_by_side(one, concurrency or executor.registry.usual_concurrency())
    return tally
