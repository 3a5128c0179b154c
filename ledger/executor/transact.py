"""Load, decide, append; on a version conflict load and decide again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.canonical import salted_digest
from ledger.commands import Command, Seen
from ledger.dispatch import decide
from ledger.envelope import ISSUES, Append, Cap, Limit, NewEvent, Payload, Stream
from ledger.errors import VersionConflict
from ledger.events import Event, PayloadErased
from ledger.evolve import fold
from ledger.parts import BudgetSeen, Verdict
from ledger.policy import Policy
from ledger.ports import Ports
from ledger.state import INITIAL, State
from ledger.store.protocol import Store

__all__ = ["Desk", "state_of"]


def state_of(stream: Stream) -> State:
    """Fold a stored stream, from the newest of its events whose state is known already."""
    folded, state = 0, INITIAL
    for length in range(len(stream), 0, -1):
        known = stream[length - 1].state
        if known is not None:
            folded, state = length, known
            break
    if folded < len(stream):
        state = fold((recorded.event() for recorded in stream[folded:]), state)
        stream[-1].state = state
    return state


@dataclass(frozen=True, slots=True)
class Desk:
    """Where one worker decides: its ledger, its ports, its name."""

    store: Store
    ports: Ports
    worker: str
    """``worker:<uuid>``."""

    def seen(self, policy: Policy, budgets: tuple[BudgetSeen, ...] = ()) -> Seen:
        """Look at the clock and draw the jitter."""
        return Seen(self.ports.now_ms(), self.ports.draw_ppm(policy.jitter_ppm), budgets=budgets)

    def sealed(
        self,
        task_id: str,
        version: int,
        events: Iterable[Event],
        *,
        fence: int,
        payloads: Sequence[Payload] = (),
        key: bytes | None = None,
        limits: tuple[Limit, ...] = (),
        caps: tuple[Cap, ...] = (),
        known: Stream = (),
    ) -> Append:
        """Put events into an append of this worker's, with ids that make repeating it harmless."""
        new = tuple(NewEvent(self.ports.new_id(), event, self.worker, fence) for event in events)
        return Append(task_id, version, new, tuple(payloads), key, limits, caps, known)

    async def transact(
        self,
        task_id: str,
        command: Command,
        *,
        fence: int = 0,
        payloads: Sequence[Payload] = (),
        known: Stream = (),
    ) -> Stream:
        """Append what the command leads to; return the stream as it stands.

        ``known`` is the stream as an append of ours has returned it: what others have added since is a conflict.
        """
        stream = known or await self.store.read(task_id)
        while True:
            events = decide(state_of(stream), command)
            if not events:
                return stream
            kept, gone = _kept(stream, _told(events, payloads))
            try:
                return await self.store.append(
                    self.sealed(task_id, len(stream), (*events, *gone), fence=fence, payloads=kept, known=stream)
                )
            except VersionConflict:
                stream = await self.store.read(task_id)


def _told(events: Sequence[Event], payloads: Sequence[Payload]) -> Sequence[Payload]:
    """Return the texts that events tell of: a judge's answer that comes late is money, and no verdict any more."""
    if any(isinstance(event, Verdict) for event in events):
        return payloads
    return [text for text in payloads if not text.slot.startswith(ISSUES)]


def _kept(stream: Stream, payloads: Sequence[Payload]) -> tuple[Sequence[Payload], tuple[PayloadErased, ...]]:
    """Return the texts to keep; a task that was redacted gets none back by a late answer, and says which it was."""
    erased = [recorded for recorded in stream if recorded.type == PayloadErased.TYPE] if payloads else []
    event = erased[-1].event() if erased else None
    if not isinstance(event, PayloadErased):
        return payloads, ()
    reason = event.reason
    return (), tuple(
        PayloadErased(slot=text.slot, digest=salted_digest(text.salt, text.content), reason=reason) for text in payloads
    )
