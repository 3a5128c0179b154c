"""The loop: read the task's events, fold, act on the state. Nothing is kept between two turns but the caller's ears."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, assert_never

from ledger import commands as c
from ledger.breakers import HalfOpen, Open
from ledger.envelope import Stream
from ledger.errors import CommandRefused, LedgerCorrupt, TaskNotFound, VersionConflict
from ledger.events import RetryScheduled
from ledger.executor.attempt import Attempt
from ledger.executor.bench import Bench
from ledger.executor.budgets import LOOK_S
from ledger.executor.calling import LEASE_GRACE_MS
from ledger.executor.presence import Sign
from ledger.executor.recovery import orphan
from ledger.executor.starting import Braked
from ledger.executor.transact import state_of
from ledger.obstacles import BUDGET
from ledger.state import CLOCK_SET_BACK_MS, Absent, Ended, Held, Ready, Running, Undecided, Waiting
from ledger.store.protocol import CapReached, LimitReached

__all__ = ["Driver"]

POLL_S: Final = 0.1
"""How often another worker's task is looked at."""
LEFT_MS: Final = 60_000
"""A task that was due for so long has been left by its owner, whether that lives or not."""
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
                    if self.bench.telemetry is not None:
                        self.bench.telemetry.tell(stream, desk.worker)
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
                    wait_s = await self._wait_s(stream, state)
                    if not wait_s:
                        acted = await self._acted(task_id, stream, state)
                        if acted is not None:
                            stream = acted
                            continue
                        wait_s = LOOK_S
                case _:
                    assert_never(state)
            if not patient:
                return stream
            self.bench.pool.refuse_closed()  # two who each kept an answer back would wait for each other
            await desk.ports.sleep(wait_s)
            stream = await desk.store.read(task_id)

    async def _wait_s(self, stream: Stream, state: Ready | Waiting) -> float:
        """Return how long to leave the task alone: its wait is not over, or it is another living worker's; 0 is not."""
        task, now = state.task, self.bench.desk.ports.now_ms()
        if task.owner is not None and task.owner != self.bench.desk.worker and await self._is_cared_for(stream, state):
            return POLL_S
        if not isinstance(state, Waiting):
            return 0.0
        until_ms = state.not_before_ms
        if state.due(now):
            # It waited for a breaker that has opened again: that is no news to record, only longer to wait.
            standing = None if task.made else await self.bench.brakes.standing(task.at.provider, task.at.model)
            until_ms = standing.until_ms if isinstance(standing, Open) else now
        return min(max(until_ms - now, 0) / 1000, NAP_S)

    async def _is_cared_for(self, stream: Stream, state: Ready | Waiting) -> bool:
        """Say whether its owner lives and has not left it lying: a caller may be gone whose process goes on."""
        due_ms = state.not_before_ms if isinstance(state, Waiting) else 0
        overdue_ms = await self.bench.desk.store.now_ms() - max(stream[-1].recorded_at_ms, due_ms)
        return overdue_ms < LEFT_MS and await self.bench.others.sign(state.task.owner or "") is Sign.LIVES

    async def _acted(self, task_id: str, stream: Stream, state: Ready | Waiting) -> Stream | None:
        """Make the next attempt, unless a breaker or a cap keeps the task off it; None where it can but wait on."""
        desk, task = self.bench.desk, state.task
        standing = None if task.made else await self.bench.brakes.standing(task.at.provider, task.at.model)
        if isinstance(standing, Open):
            return await self._braked(task_id, stream, state)
        try:
            return await self.attempt.next(task_id, stream, trial=isinstance(standing, HalfOpen))
        except (Braked, VersionConflict):
            pass  # read again, decide again
        except CapReached as reached:
            return await self._capped(task_id, stream, state, reached)
        except LimitReached:
            await desk.ports.sleep(POLL_S)  # somebody else's trial decides what becomes of this task
            await self.bench.sweep()  # if that somebody still lives
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
        """Record an attempt as orphaned once its worker is dead, or its lease is over and nothing is heard of it."""
        started = state.started
        now = await self.bench.desk.store.now_ms()
        begun_ms = next(recorded.recorded_at_ms for recorded in reversed(stream) if recorded.event() == started)
        sign = await self.bench.others.sign(started.worker)
        over = now > begun_ms + state.task.at.timeout_ms + LEASE_GRACE_MS or now < begun_ms - CLOCK_SET_BACK_MS
        # A clock that jumped says nothing about a worker that is heard of; our own calls we know.
        mine = started.worker == self.bench.desk.worker
        unheard = task_id not in self.bench.pool.flying if mine else sign is Sign.SILENT
        if sign is Sign.GONE or (over and unheard):
            await orphan(self.bench.desk, task_id, state, "worker_gone" if sign is Sign.GONE else "lease_expired")
            return True
        return False

    async def _capped(self, task_id: str, stream: Stream, state: Ready | Waiting, reached: CapReached) -> Stream | None:
        """Refuse the attempt, or let the task wait for what running ones have reserved; a wait is recorded once."""
        desk, newest = self.bench.desk, stream[-1].event()
        waits = isinstance(newest, RetryScheduled) and newest.rule == BUDGET
        if waits and not any(seen.refuses for seen in reached.budgets):
            await self.bench.sweep()  # what a dead worker has reserved is given up, and counts as unknown
            return None
        seen = desk.seen(state.task.submitted.policy, reached.budgets)
        return await desk.transact(task_id, c.Budget(seen), fence=state.task.fence, known=stream)

    async def _braked(self, task_id: str, stream: Stream, state: Ready | Waiting) -> Stream:
        """Hand the task over to a step that nothing keeps it from, or let it wait; it spends no attempt."""
        desk, brakes, task = self.bench.desk, self.bench.brakes, state.task
        steps = task.steps[task.step - 1 : max(task.step, task.last_step)]  # no fallback leads on from the ladder
        ahead = [await brakes.standing(step.provider, step.model) for step in steps]
        seen = tuple(standing.seen for standing in ahead if isinstance(standing, Open))
        command = c.Brake(replace(desk.seen(task.submitted.policy), brakes=seen))
        return await desk.transact(task_id, command, fence=task.fence, known=stream)
