"""The loop: read the task's events, fold, act on the state. Nothing is kept between two turns but the caller's ears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from ledger import commands as c
from ledger import events as e
from ledger.envelope import Stream
from ledger.errors import CommandRefused, LedgerCorrupt, TaskNotFound, VersionConflict
from ledger.executor.attempt import Attempt
from ledger.executor.calling import END_S, GRACE_S
from ledger.executor.transact import Desk, state_of
from ledger.state import Absent, Ended, Held, Ready, Running, Undecided, Waiting

__all__ = ["Driver"]

POLL_S: Final = 0.1
"""How often another worker's attempt is looked at."""
NAP_S: Final = 30.0
"""The longest sleep without a look at the ledger."""
LEASE_GRACE_MS: Final = round((GRACE_S + END_S) * 1000) + 5_000
"""How long after its deadline an attempt without an outcome is given up as orphaned."""


@dataclass(frozen=True, slots=True)
class Driver:
    """Brings one task to its end, or to where a person is needed."""

    desk: Desk
    attempt: Attempt

    async def drive(self, task_id: str, stream: Stream) -> Stream:
        """Act until the task has ended or is held; follow it while another worker has it."""
        while True:
            state = state_of(stream)
            match state:
                case Ended() | Held():
                    return stream
                case Waiting() if not state.due(now := self.desk.ports.now_ms()):
                    await self.desk.ports.sleep(min((state.not_before_ms - now) / 1000, NAP_S))
                    stream = await self.desk.store.read(task_id)
                case Ready() | Waiting():
                    try:
                        stream = await self.attempt.next(task_id, stream)
                    except VersionConflict:
                        stream = await self.desk.store.read(task_id)
                    except CommandRefused as refused:
                        if refused.why != "not_due":  # the clock was set back while the client was made ready
                            raise
                case Running():
                    stream = await self._follow(task_id, state)
                case Undecided():
                    seen = self.desk.seen(state.task.submitted.policy)
                    decided = await self.desk.transact(task_id, c.Choose(seen), fence=state.task.fence)
                    if len(decided) == len(stream):
                        raise LedgerCorrupt(f"nothing follows the newest outcome of task {task_id}; run `verify`")
                    stream = decided
                case Absent():
                    raise TaskNotFound(f"the ledger holds no task {task_id}")
                case _:
                    assert_never(state)

    async def _follow(self, task_id: str, state: Running) -> Stream:
        """Wait for another worker's attempt; give it up when its lease is over."""
        started = state.started
        now = self.desk.ports.now_ms()
        if now <= started.deadline_ms + LEASE_GRACE_MS:
            await self.desk.ports.sleep(POLL_S)
            return await self.desk.store.read(task_id)
        orphaned = e.AttemptOrphaned(
            attempt=started.attempt, cause="lease_expired", exposure_nano_usd=started.upper_bound_nano_usd
        )
        command = c.Orphan(orphaned, self.desk.seen(state.task.submitted.policy))
        return await self.desk.transact(task_id, command, fence=state.task.fence)
