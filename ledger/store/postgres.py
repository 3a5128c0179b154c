"""The store in a PostgreSQL database: one writer, a few readers, everything else in the modules beside this one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from ledger.envelope import Append, Cap, Payload, Recorded, Stream
from ledger.errors import LedgerError
from ledger.store import postgres_reads as reads
from ledger.store import postgres_workers as crew
from ledger.store.groups import Groups, Outcome
from ledger.store.postgres_append import append_group
from ledger.store.postgres_connection import Driver
from ledger.store.postgres_limits import spent
from ledger.store.postgres_schema import furnishing_problems, problems
from ledger.store.postgres_sessions import Sessions
from ledger.store.postgres_snapshot import in_snapshot
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import Problem, Projected, Spent, TaskQuery, Worker
from ledger.store.sealing import check
from ledger.store.snapshots import Snapshot

__all__ = ["PostgresStore"]

T = TypeVar("T")

READERS: Final = 4
WRITERS: Final = 2
"""Groups under way at once: while the server writes one, the next is put together here."""
CLOSE_WITHIN_S: Final = 10.0


class PostgresStore:
    """An open ledger; made by ``ledger.store.postgres_opening.open_postgres``.

    Args:
        url: the database, which has the schema.
        busy_deadline_s: how long locks and a server that is away are waited for before ``LedgerBusy``.
        now_ms: a clock instead of the server's, for tests.
    """

    def __init__(self, url: PostgresUrl, *, busy_deadline_s: float, now_ms: Callable[[], int] | None = None) -> None:
        self._url = url
        self._busy_deadline_s = busy_deadline_s
        self._clock = now_ms
        self._pid = os.getpid()
        self._closed = False
        self._key_salt: bytes | None = None
        self._closed_up_to = 0
        self._readers = Sessions(url, READERS)
        self._writers = Sessions(url, WRITERS)
        self._groups = Groups(self._write, str(url), WRITERS)

    async def append(self, append: Append) -> Stream:
        """Append all events or none, durably, and return the whole stream."""
        self._refuse_unusable()
        check(append)
        return await self._groups.append(append)

    async def _write(self, appends: Sequence[Append], waited_s: float) -> Sequence[Outcome]:
        """Write a group; when its connection broke, again: what had been committed is recognised by its ids."""
        at_ms = None if self._clock is None else self._clock()
        return await self._writers.run(
            partial(append_group, appends=appends, now_ms=at_ms), self._busy_deadline_s - waited_s
        )

    async def read(self, task_id: str) -> Stream:
        """Return the stream."""
        return await self.run(partial(reads.stream, task_id=task_id))

    async def payload(self, task_id: str, slot: str) -> Payload | None:
        """Return one text of a task."""
        return next(iter(await self.run(partial(reads.payloads, task_id=task_id, slot=slot))), None)

    async def payloads(self, task_id: str) -> tuple[Payload, ...]:
        """Return all texts of a task, by slot."""
        return await self.run(partial(reads.payloads, task_id=task_id, slot=None))

    async def task_of_key(self, key_digest: bytes) -> str | None:
        """Return the task that a key names."""
        return await self.run(partial(reads.task_of_key, digest=key_digest))

    async def key_salt(self) -> bytes:
        """Return the salt of the keys; it never changes, so it is read once."""
        if self._key_salt is None:
            self._key_salt = await self.run(reads.key_salt)
        return self._key_salt

    async def page(self, after_position: int, limit: int) -> Sequence[Recorded]:
        """Return events by position; none is given while a smaller position may still come."""
        read = partial(reads.page, after=after_position, limit=limit)
        found = await self.run(partial(read, up_to=reads.INT64_MAX))
        if not found or found[-1].position <= self._closed_up_to:
            return found
        return await self.run(partial(read, up_to=await self.newest()))

    async def newest(self) -> int:
        """Return the position of the newest event; nothing will be committed before it."""
        self._closed_up_to = max(self._closed_up_to, await self.run(reads.closed_newest))
        return self._closed_up_to

    async def streams(self, after: tuple[str, int], limit: int) -> Sequence[Recorded]:
        """Return events by stream."""
        return await self.run(partial(reads.streams, after=after, limit=limit))

    async def find(self, part: str) -> Sequence[str]:
        """Return at most two tasks; a whole id is found alone."""
        return await self.run(partial(reads.find, part=part))

    async def tasks(self, query: TaskQuery) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``tasks``, newest first."""
        return await self.run(partial(reads.tasks, query=query))

    async def projected(self, task_id: str) -> Projected:
        """Return the projections' rows of one task."""
        return await self.run(partial(reads.projected, task_id=task_id))

    async def projected_task_ids(self, after: str, limit: int) -> Sequence[str]:
        """Return the ids that anything but an event names, sorted."""
        return await self.run(partial(reads.projected_task_ids, after=after, limit=limit))

    async def now_ms(self) -> int:
        """Return the server's clock."""
        return await self.run(crew.now_ms) if self._clock is None else self._clock()

    async def beat(self, worker: str) -> None:
        """Say, durably, that a worker lives."""
        await self.run(partial(crew.beat, at_ms=await self.now_ms(), worker=worker))

    async def leave(self, worker: str) -> None:
        """Forget a worker and what it had claimed."""
        await self.run(partial(crew.leave, worker=worker))

    async def workers(self) -> Sequence[Worker]:
        """Return who has beaten and not left, by name."""
        return await self.run(partial(crew.workers, at_ms=await self.now_ms()))

    async def owners(self) -> Sequence[str | None]:
        """Return whose the open tasks are."""
        return await self.run(crew.owners)

    async def claim(self, worker: str, owners: Sequence[str | None], limit: int, for_ms: int) -> Sequence[str]:
        """Reserve due tasks of these owners for a while, and return their ids."""
        at_ms = await self.now_ms()
        wish = partial(crew.claim, at_ms=at_ms, worker=worker, of=owners, limit=limit, for_ms=for_ms)
        return await self.run(wish)

    async def unclaim(self, worker: str, task_ids: Sequence[str]) -> None:
        """Give claims back."""
        await self.run(partial(crew.unclaim, worker=worker, task_ids=task_ids))

    async def ended_attempts(self, provider: str, model: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return rows of ``attempts``, the last to end first."""
        return await self.run(partial(crew.ended_attempts, provider=provider, model=model, limit=limit))

    async def spent(self, cap: Cap, task_id: str, at_ms: int) -> Spent:
        """Return what stands against a cap."""
        return await self.run(partial(spent, cap=cap, task_id=task_id, at_ms=at_ms))

    async def check(self) -> Sequence[Problem]:
        """Return what is wrong with the guards and the schema."""
        return (*await self.run(problems), *await self.run(furnishing_problems))

    async def snapshot(self, work: Callable[[Snapshot], Awaitable[T]]) -> T:
        """Do a piece of work on the ledger as it stands at one instant; see ``Askable``."""
        return await self.run(partial(in_snapshot, work=work))

    async def run(self, work: Callable[[Driver], Awaitable[T]]) -> T:
        """Do a piece of work on a reader's connection; it may be done twice.

        Raises:
            LedgerError: the server cannot be reached, or says no.
        """
        self._refuse_unusable()
        return await self._readers.run(work, self._busy_deadline_s)

    async def aclose(self) -> None:
        """Write what waits, then let go of the server, within a bound."""
        if self._closed or self._pid != os.getpid():
            return
        self._closed = True
        await self._groups.aclose(CLOSE_WITHIN_S)
        try:
            await self._writers.aclose(CLOSE_WITHIN_S)
        finally:
            await self._readers.aclose(CLOSE_WITHIN_S)

    def _refuse_unusable(self) -> None:
        if self._closed:
            raise LedgerError(f"{self._url}: the ledger is closed")
        if self._pid != os.getpid():
            raise LedgerError(f"{self._url} was opened before this process was forked; open it again in the child")
