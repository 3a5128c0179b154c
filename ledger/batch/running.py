"""Running a batch: a bounded number of tasks side by side, each provider with its share, each line counted once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from ledger.batch.hands import side_by_side
from ledger.batch.lines import Asked, BatchRefused, LineProblem
from ledger.batch.tally import Finished, Tally
from ledger.errors import IdempotencyConflict, PromptRefused, RequestRefused
from ledger.executor.api import Executor
from ledger.executor.intake import Dispatched
from ledger.executor.listening import Listener
from ledger.executor.replay_plans import Replay
from ledger.executor.requests import fingerprint, key_digest
from ledger.registry import ModelRegistry
from ledger.state import Ended

__all__ = ["refuse_taken_keys", "run_batch"]


async def refuse_taken_keys(executor: Executor, batch: Sequence[Asked], name: str) -> None:
    """Look every written key up in the ledger, before anything is submitted.

    Raises:
        BatchRefused: a key names another request there.
    """
    store = await executor.ledger.store()
    salt = await store.key_salt()
    problems = []
    for asked in batch:
        request = asked.request
        digest = None if request.key is None else key_digest(request, salt)
        task_id = None if digest is None else await store.task_of_key(digest)
        payload = None if task_id is None else await store.payload(task_id, "fingerprint")
        if request.key is None or task_id is None or payload is None:
            continue
        if payload.content != fingerprint(request):
            problems.append(LineProblem(asked.lines[0], str(IdempotencyConflict(request.key, task_id))))
    if problems:
        raise BatchRefused(name, sorted(problems, key=lambda problem: problem.line))


async def run_batch(
    executor: Executor,
    batch: Sequence[Asked],
    *,
    concurrency: int | None = None,
    on_finished: Callable[[Finished], object] | None = None,
    retry: Replay | None = None,
) -> Tally:
    """Bring every request to its end.

    A line that its client refuses does not stop the others. When the ledger fails, no new task is begun, and what is
    in flight may end within a bound.

    Args:
        executor: what dispatches.
        batch: the requests.
        concurrency: tasks under way at once; None is the sum of the providers' limits.
        on_finished: told of each request at its end.
        retry: how to replay the tasks that had failed before; None leaves them failed, but for replays there are.

    Raises:
        DispatchError: the ledger or the configuration cannot be used.
    """
    run = _Run(executor, batch, on_finished, retry)
    tiers = {asked.request.tier for asked in batch}
    workers = min(len(batch), concurrency or executor.registry.usual_concurrency(tiers))
    if workers:
        await side_by_side(run.one, workers)
    return run.tally


class _Run:
    """A batch under way."""

    def __init__(
        self,
        executor: Executor,
        batch: Sequence[Asked],
        on_finished: Callable[[Finished], object] | None,
        retry: Replay | None,
    ) -> None:
        self._executor = executor
        self._lanes = _Lanes(executor.registry, batch)
        self._on_finished = on_finished
        self._retry = retry
        self.tally = Tally()

    async def one(self) -> bool:
        """Bring one request to its end; False when none is left."""
        taken = self._lanes.take()
        if taken is None:
            return False
        lane, asked = taken
        try:
            finished = await self._dispatched(asked)
        finally:
            self._lanes.leave(lane)
        self.tally.add(finished)
        if self._on_finished is not None:
            self._on_finished(finished)
        return True

    async def _dispatched(self, asked: Asked) -> Finished:
        worker = self._executor.worker
        try:
            done = await self._executor.dispatch(asked.request, Listener())
            return Finished(asked, await self._answering(done), None, worker)
        except (PromptRefused, RequestRefused, IdempotencyConflict) as refusal:
            return Finished(asked, None, refusal, worker)

    async def _answering(self, done: Dispatched) -> Dispatched:
        """Return what answers for a line: of a task that had failed before, its newest replay."""
        had_ended = isinstance(done.story.state, Ended) and len(done.story.started) == done.attempts_before
        if done.result.success or not had_ended:
            return done
        if self._retry is not None and done.story.state_name == "failed":
            return (await self._executor.replayed(done.story.task_id, self._retry)).done
        return await self._executor.standing(done.story.task_id) or done


class _Lanes:
    """What waits, by the provider that it begins with, so that a slow provider's queue keeps nobody else waiting."""

    def __init__(self, registry: ModelRegistry, batch: Sequence[Asked]) -> None:
        self._waiting: dict[str, deque[Asked]] = {}
        for asked in batch:
            self._waiting.setdefault(registry.entry(asked.request.tier).provider, deque()).append(asked)
        self._limits = {provider: registry.concurrency(provider) for provider in self._waiting}
        self._running: Counter[str] = Counter()

    def take(self) -> tuple[str, Asked] | None:
        """Return the next request of the provider whose limit is least used; None when nothing waits."""
        lanes = [provider for provider, waiting in self._waiting.items() if waiting]
        if not lanes:
            return None
        lane = min(lanes, key=lambda provider: self._running[provider] / self._limits[provider])
        self._running[lane] += 1
        return lane, self._waiting[lane].popleft()

    def leave(self, lane: str) -> None:
        """Say that a request has come to its end."""
        self._running[lane] -= 1
