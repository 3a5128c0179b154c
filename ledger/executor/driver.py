"""The loop: read the task's events, fold, act on the state. Nothing is kept between two turns but the caller's ears."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from ledger import commands as c
from ledger.breakers import HalfOpen, Open
from ledger.envelope import Stream
from ledger.errors import CommandRefused, LedgerCorrupt, TaskNotFound, VersionConflict
from ledger.executor.attempt import Attempt
from ledger.executor.bench import Bench
from ledger.executor.calling import LEASE_GRACE_MS
from ledger.executor.presence import Sign
from ledger.executor.recovery import orphan
from ledger.executor.starting import Braked
from ledger.executor.transact import state_of
from ledger.state import CLOCK_SET_BACK_MS, Absent, Ended, Held, Ready, Running, Undecided, Waiting
from ledger.store.protocol import LimitReached

__all__ = ["Driver"]

POLL_S: Final = 0.1
"""How often another worker's task is looked at."""
NAP_S: Final = 30.0
"""The longest sleep without a look at the ledger."""


@dataclass(frozen=True, slots=True)
class Driver:
    """Brings one task to its end, or to where a person is needed."""

    bench: Bench
    attempt: Attempt

    async def drive(self, task_id: str, stream: Stream, *, patient: bool = True) -> Stream:
        """Act until the task has ended or is held; follow it while another living worker has it.

        Not ``patient``, it comes back also where there is nothing to do but to wait, for an instant or for a worker.
        """
        desk = self.bench.desk
        while True:
            state = state_of(stream)
            match state:
                case Ended() | Held():
                    return stream
                case Absent():
                    raise TaskNotFound(f"the ledger holds no task {task_id}")
                case Undecided():
                    stream = await self._decided(task_id, stream, state)
                    continue
                case Running():
                    if await self._given_up(task_id, stream, state):
                        stream = await desk.store.read(task_id)
                        continue
                    wait_s = POLL_S
                case Ready() | Waiting():
                    wait_s = await self._wait_s(state)
                    if not wait_s:
                        stream = await self._acted(task_id, stream, state)
                        continue
                case _:
                    assert_never(state)
            if not patient:
                return stream
            await desk.ports.sleep(wait_s)
            stream = await desk.store.read(task_id)

    async def _wait_s(self, state: Ready | Waiting) -> float:
        """Return how long to leave the task alone: its wait is not over, or it is another living worker's; 0 is not."""
        owner, now = state.task.owner, self.bench.desk.ports.now_ms()
        if owner is not None and owner != self.bench.desk.worker and await self._lives(owner):
            return POLL_S
        if isinstance(state, Waiting) and not state.due(now):
            return min((state.not_before_ms - now) / 1000, NAP_S)
        return 0.0

    async def _lives(self, worker: str) -> bool:
        return await self.bench.others.sign(worker) is Sign.LIVES

    async def _acted(self, task_id: str, stream: Stream, state: Ready | Waiting) -> Stream:
        """Make the next attempt, unless an open breaker keeps a task off a step that it has not tried yet."""
        desk, task = self.bench.desk, state.task
        standing = None if task.made else await self.bench.brakes.standing(task.at.provider, task.at.model)
        if isinstance(standing, Open):
            return await self._braked(task_id, stream, state)
        try:
            return await self.attempt.next(task_id, stream, trial=isinstance(standing, HalfOpen))
        except (Braked, VersionConflict):
            pass
        except LimitReached:
            await desk.ports.sleep(POLL_S)  # somebody else's trial decides what becomes of this task
        except CommandRefused as refused:
            if refused.why != "not_due":  # the clock was set back while the client was made ready
                raise
        return await desk.store.read(task_id)

    async def _decided(self, task_id: str, stream: Stream, state: Undecided) -> Stream:
        desk = self.bench.desk
        seen = desk.seen(state.task.submitted.policy)
        decided = await desk.transact(task_id, c.Choose(seen), fence=state.task.fence)
        if len(decided) == len(stream):
            raise LedgerCorrupt(f"nothing follows the newest outcome of task {task_id}; run `verify`")
        return decided

    async def _given_up(self, task_id: str, stream: Stream, state: Running) -> bool:
        """Record another worker's attempt as orphaned once it is dead, or the lease is over."""
        started = state.started
        now = await self.bench.desk.store.now_ms()
        begun_ms = next(recorded.recorded_at_ms for recorded in reversed(stream) if recorded.event() == started)
        sign = await self.bench.others.sign(started.worker)
        over = now > begun_ms + state.task.at.timeout_ms + LEASE_GRACE_MS
        # A clock that was set back says nothing about a worker that is heard of.
        set_back = now < begun_ms - CLOCK_SET_BACK_MS and sign is not Sign.LIVES
        if sign is Sign.GONE or over or set_back:
            await orphan(self.bench.desk, task_id, state, "worker_gone" if sign is Sign.GONE else "lease_expired")
            return True
        return False

    async def _braked(self, task_id: str, stream: Stream, state: Ready | Waiting) -> Stream:
        """Hand the task over to a step that nothing keeps it from, or let it wait; it spends no attempt."""
        desk, brakes, task = self.bench.desk, self.bench.brakes, state.task
        steps = task.steps[task.step - 1 : task.last_step]
        ahead = [await brakes.standing(step.provider, step.model) for step in steps]
        seen = tuple(standing.seen for standing in ahead if isinstance(standing, Open))
        command = c.Brake(replace(desk.seen(task.submitted.policy), brakes=seen))
        return await desk.transact(task_id, command, fence=task.fence, known=stream)
