"""Checking breakers: that their streams make sense, and that what decisions saw of them was so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ledger.audit.told import Told, decisions
from ledger.envelope import Recorded, Stream
from ledger.errors import EventInvalid
from ledger.parts import BrakeSeen
from ledger.store.protocol import Problem, Store
from ledger.system_events import BreakerClosed, BreakerOpened

__all__ = ["BrakeSight", "Sights", "brake_sights", "breaker_problems"]

PREFIX: Final = "breaker:"


class BrakeSight(NamedTuple):
    """What one decision says that it saw of one breaker."""

    task_id: str
    version: int
    position: int
    seen: BrakeSeen


def brake_sights(stream: Stream, events: Told) -> Iterator[BrakeSight]:
    """Yield what the decisions of a task saw of breakers."""
    for recorded, decision in decisions(stream, events):
        for seen in decision.inputs.brakes:
            yield BrakeSight(recorded.task_id, recorded.version, recorded.position, seen)


def breaker_problems(stream: Stream, events: Told) -> Iterator[Problem]:
    """Check that a breaker's stream is about what its name says, and closes only what was opened."""
    if not stream[0].task_id.startswith(PREFIX):
        return
    is_open = False
    for recorded, event in zip(stream, events, strict=True):
        if not isinstance(event, BreakerOpened | BreakerClosed):
            continue  # one that cannot be read is reported as a schema problem
        if f"{PREFIX}{event.provider}/{event.model}" != recorded.task_id:
            yield _problem(recorded, f"{event.TYPE} is about {event.provider}/{event.model}")
        trial = isinstance(event, BreakerClosed) or event.cause == "trial_failed"
        if trial and not is_open:
            yield _problem(recorded, f"{event.TYPE} tells of a trial, and the breaker was closed")
        is_open = isinstance(event, BreakerOpened)


class Sights:
    """What decisions saw of breakers, against the breakers' streams; each of those is read about once.

    Args:
        store: the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, list[tuple[int, int | None]]] = {}
        """By stream: the position of each event, and until when the breaker was open from there on."""

    async def problems(self, sights: Iterable[BrakeSight]) -> list[Problem]:
        """Check every breaker that a decision says it saw open.

        Raises:
            LedgerError: a breaker's stream cannot be read.
        """
        found: list[Problem] = []
        for sight in sights:
            wrong = await self._wrong(sight.seen, sight.position)
            if wrong is not None:
                found.append(_problem(sight, wrong))
        return found

    async def _wrong(self, seen: BrakeSeen, position: int) -> str | None:
        what = f"the breaker of {seen.provider}/{seen.model} open until {seen.until_ms}"
        if seen.position >= position:
            return f"the decision saw {what} at position {seen.position}, which is not before it"
        until_ms = await self._until_ms(seen)
        if until_ms == seen.until_ms:
            return None
        stood = "closed" if until_ms is None else f"open until {until_ms}"
        return f"the decision saw {what}, at position {seen.position} it was {stood}"

    async def _until_ms(self, seen: BrakeSeen) -> int | None:
        """Return until when a breaker was open by the events up to a position; None where it was closed."""
        name = f"{PREFIX}{seen.provider}/{seen.model}"
        known = self._known.get(name, [])
        if not known or known[-1][0] < seen.position:
            known = self._known[name] = [_place(recorded) for recorded in await self._store.read(name)]
        newest = bisect_right(known, seen.position, key=lambda place: place[0])
        return known[newest - 1][1] if newest else None


def _place(recorded: Recorded) -> tuple[int, int | None]:
    try:
        event = recorded.event()
    except EventInvalid:
        return recorded.position, None  # reported as a schema problem
    return recorded.position, event.until_ms if isinstance(event, BreakerOpened) else None


def _problem(place: Recorded | BrakeSight, detail: str) -> Problem:
    return Problem("brake", place.task_id, place.version, detail)
