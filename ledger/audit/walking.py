"""Walking through a ledger, stream by stream, in bounded memory: by pages at one instant, where the store has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

from ledger.audit.checking import stray
from ledger.canonical import INT64_MAX
from ledger.envelope import Recorded, Stream
from ledger.errors import LedgerBusy, LedgerError, LedgerFull
from ledger.store.beside import Page, page_of_streams
from ledger.store.protocol import Problem, Projected, Store
from ledger.store.snapshots import Askable

__all__ = ["BUSY_OR_FULL", "Walk"]

PAGE: Final = 2000
BUSY_OR_FULL: Final = (LedgerBusy, LedgerFull)
"""Errors that say nothing about the ledger's content."""
STANDING: Final = "SELECT count(*) FROM events WHERE position <= :last"
"""Read by position: whoever has made an index by task that leaves some out is found."""


class Walk:
    """One walk through a ledger; what cannot be read becomes a finding, and past it nothing is.

    Args:
        store: the ledger.
        problems: where findings go.
    """

    def __init__(self, store: Store, problems: list[Problem]) -> None:
        self._store = store
        self._problems = problems
        self._looked_for_strays: str | None = None
        """The last id up to which rows without events were looked for."""

    async def pages(self) -> AsyncIterator[Page | Stream]:
        """Yield streams with what stands beside them at one instant; or a stream, to be read beside apart."""
        store = self._store
        after: str | None = None
        while isinstance(store, Askable):
            try:
                page = await store.snapshot(partial(page_of_streams, after=after, limit=PAGE))
            except BUSY_OR_FULL:
                raise
            except LedgerError:
                break  # something here is damaged: what and where is found stream by stream
            yield page
            before, after = after, page.after
            self._looked_for_strays = after
            if page.is_last or self._stands_still(before, after):
                return
        async for stream in self._one_by_one(after):
            yield stream

    async def look_for_hidden(self, found: int, last: int) -> None:
        """Note events that stand in the ledger, and in no stream that was walked through.

        Args:
            found: how many were, up to a position.
            last: that position; nothing was still to come at or before it when the walk began.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        store = self._store
        if not isinstance(store, Askable) or any(problem.kind == "damaged" for problem in self._problems):
            return  # past what cannot be read nothing was found
        ((standing,),) = await store.snapshot(lambda snapshot: snapshot.rows(STANDING, {"last": last}))
        if standing != found:
            detail = f"{standing} events stand up to position {last}, and reading by task finds {found} of them"
            self._problems.append(Problem("hidden", None, None, detail))

    async def look_for_strays(self) -> None:
        """Note the rows without events that no page has shown.

        Raises:
            LedgerError: the ledger cannot be read.
        """
        before, after = None, self._looked_for_strays
        if after is None:
            after = ""
            if await self._store.projected(after) != Projected() and not await self._store.read(after):
                self._problems.append(stray(after))
        while after != before and (ids := await self._store.projected_task_ids(after, PAGE)):
            for task_id in ids:
                if not await self._store.read(task_id):
                    self._problems.append(stray(task_id))
            before, after = after, ids[-1]

    def _stands_still(self, before: object, after: object) -> bool:
        """Say, and note, that an id is no text: it is read as another one, and its page would come again for ever."""
        if after != before:
            return False
        name = before[0] if isinstance(before, tuple) else before
        self._problems.append(Problem("damaged", str(name), None, "what follows this task's id was not checked"))
        return True

    async def _one_by_one(self, last: str | None) -> AsyncIterator[Stream]:
        """Yield the streams after an id, holding one page and one stream at a time."""
        held: list[Recorded] = []
        after = ("", -INT64_MAX) if last is None else (last, INT64_MAX)
        while page := await self._page(after):
            for recorded in page:
                if held and held[0].task_id != recorded.task_id:
                    yield tuple(held)
                    held = []
                held.append(recorded)
            before, after = after, (page[-1].task_id, page[-1].version)
            if self._stands_still(before, after):
                break
        if held:
            yield tuple(held)

    async def _page(self, after: tuple[str, int]) -> Sequence[Recorded]:
        try:
            return await self._store.streams(after, PAGE)
        except BUSY_OR_FULL:
            raise
        except LedgerError as error:
            detail = f"events cannot be read, and what follows them was not checked: {error}"
            self._problems.append(Problem("damaged", after[0] or None, None, detail))
            return ()
