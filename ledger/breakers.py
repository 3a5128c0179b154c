"""Breakers: when a provider's model is left alone, and until when. Pure; the stream is ``breaker:<provider>/<model>``.

::

    closed ──a 429 that asks for it, or failures in a row──► open ──its time is over──► half-open
      ▲                                                       ▲                             │
      └────────────────── a trial call went through ──────────┼─────────────────────────────┤
                                                              └──── a trial call failed ────┘

A *trial* is a call that began after the breaker had opened: what was in flight at that time says nothing new, unless it
goes through when the time is over. Of calls only those count that ended after the breaker's newest event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from ledger.calls import ANSWERS, FAILURES, Call, resets
from ledger.envelope import Recorded
from ledger.parts import BrakeSeen
from ledger.state import CLOCK_SET_BACK_MS
from ledger.system_events import BreakerClosed, BreakerOpened

__all__ = [
    "CLOSED",
    "HALF_OPEN",
    "TASKS_MIN",
    "UNTOUCHED",
    "Breaker",
    "BreakerSettings",
    "BreakerState",
    "Closed",
    "HalfOpen",
    "Open",
    "Standing",
    "fold_breaker",
]

TASKS_MIN: Final = 3
"""Tasks that failures in a row come from, so that one bad prompt opens nothing."""
LONGER_MS: Final = 1000
"""How much further an open breaker's end must be moved to be worth an event."""


class BreakerSettings(NamedTuple):
    """``[breakers]``, in milliseconds; ``failures`` 0 is none at all."""

    failures: int
    open_ms: int
    open_max_ms: int


class BreakerState(NamedTuple):
    """What a breaker's stream has come to."""

    version: int = 0
    position: int = 0
    """Of its newest event."""
    until_ms: int | None = None
    """None: closed."""
    open_ms: int = 0

    def is_open(self, now_ms: int) -> bool:
        """Say whether calls are held back; an opening that lies a minute ahead was made by a clock set back since."""
        if self.until_ms is None:
            return False
        return self.until_ms - self.open_ms - CLOCK_SET_BACK_MS <= now_ms < self.until_ms


UNTOUCHED: Final = BreakerState()


@dataclass(frozen=True, slots=True)
class Closed:
    """Calls go through."""


@dataclass(frozen=True, slots=True)
class Open:
    """Calls of tasks that have not begun here are held back until an instant."""

    until_ms: int
    seen: BrakeSeen


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One trial call may go through."""


Standing = Closed | Open | HalfOpen
CLOSED: Final = Closed()
HALF_OPEN: Final = HalfOpen()


def fold_breaker(stream: Iterable[Recorded], state: BreakerState = UNTOUCHED) -> BreakerState:
    """Return the state after more of the stream; what it has come to already is passed over."""
    for recorded in stream:
        if recorded.version > state.version:
            state = _evolved(state, recorded)
    return state


def _evolved(state: BreakerState, recorded: Recorded) -> BreakerState:
    place = {"version": recorded.version, "position": recorded.position}
    match recorded.event():
        case BreakerOpened() as opened:
            return BreakerState(**place, until_ms=opened.until_ms, open_ms=opened.open_ms)
        case BreakerClosed():
            return BreakerState(**place)
        case _:
            return state._replace(**place)


@dataclass(frozen=True, slots=True)
class Breaker:
    """The rules of one provider's model."""

    provider: str
    model: str
    settings: BreakerSettings

    @property
    def stream(self) -> str:
        """The stream that it is folded from."""
        return f"breaker:{self.provider}/{self.model}"

    def standing(self, state: BreakerState, now_ms: int) -> Standing:
        """Say how it stands at an instant."""
        if state.until_ms is None:
            return CLOSED
        if not state.is_open(now_ms):
            return HALF_OPEN
        until_ms = state.until_ms
        return Open(
            until_ms, BrakeSeen(provider=self.provider, model=self.model, until_ms=until_ms, position=state.position)
        )

    def closed(self, state: BreakerState, call: Call, now_ms: int) -> BreakerClosed | None:
        """Return what follows the end of a call: the end of the brake, if this call went through and is news."""
        if state.until_ms is None or call.error_type not in ANSWERS or call.ended <= state.position:
            return None
        if state.is_open(now_ms) and call.started <= state.position:
            return None
        return BreakerClosed(provider=self.provider, model=self.model, trial_event_id=call.event_id)

    def counts(self, state: BreakerState, call: Call) -> bool:
        """Say whether it takes the failures in a row to tell what follows the end of a call."""
        fresh = state.until_ms is None and call.ended > state.position
        return fresh and call.error_type in FAILURES and call.asked_ms is None

    def opened(self, state: BreakerState, call: Call, run: Sequence[Call], now_ms: int) -> BreakerOpened | None:
        """Return what follows the end of a call: a brake, or nothing.

        Args:
            state: what the breaker's stream has come to.
            call: the call.
            run: where failures in a row count, these, ``call`` among them.
            now_ms: the instant.
        """
        if call.error_type not in FAILURES or call.ended <= state.position:
            return None
        if call.asked_ms is not None:
            if state.is_open(now_ms) and now_ms + call.asked_ms < (state.until_ms or 0) + LONGER_MS:
                return None
            return self._opening("retry_after", call.asked_ms, (call,), now_ms)
        if state.until_ms is None:
            fresh = [failure for failure in run if failure.ended > state.position]
            if not self._enough([failure.task_id for failure in fresh]):
                return None
            return self._opening("failures", min(self.settings.open_ms, self.settings.open_max_ms), fresh, now_ms)
        if state.is_open(now_ms) or call.started <= state.position:
            return None
        longer_ms = min(max(2 * state.open_ms, self.settings.open_ms), self.settings.open_max_ms)
        return self._opening("trial_failed", longer_ms, (call,), now_ms)

    def _opening(
        self,
        cause: Literal["failures", "retry_after", "trial_failed"],
        open_ms: int,
        failures: Iterable[Call],
        now_ms: int,
    ) -> BreakerOpened:
        open_ms = max(1, open_ms)
        return BreakerOpened(
            provider=self.provider,
            model=self.model,
            cause=cause,
            until_ms=now_ms + open_ms,
            open_ms=open_ms,
            failures=tuple(call.event_id for call in sorted(failures, key=lambda call: call.ended)),
        )

    @property
    def rows_max(self) -> int:
        """How many ended attempts are looked at: some of them are neither failures nor answers."""
        return 2 * max(self.settings.failures, TASKS_MIN) + 20

    def run(self, rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
        """Return task and attempt of the newest failures in a row, newest first; () if they are too few to open.

        Args:
            rows: of ``attempts``, ended ones, the newest first.
        """
        found: list[tuple[str, int]] = []
        for row in rows:
            if resets(row):
                break
            if row["state"] == "failed" and row["error_type"] in FAILURES:
                found.append((row["task_id"], row["attempt"]))
                if self._enough([task_id for task_id, _ in found]):
                    return tuple(found)
        return ()

    def _enough(self, task_ids: Sequence[str]) -> bool:
        return len(task_ids) >= self.settings.failures and len(set(task_ids)) >= TASKS_MIN
