"""What can be asked of a task. Time, jitter and facts arrive inside the command; ``decide`` makes up nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ledger import events as e
from ledger.parts import BrakeSeen, BudgetSeen

__all__ = [
    "Brake",
    "Budget",
    "Cancel",
    "Choose",
    "Command",
    "Orphan",
    "Record",
    "Release",
    "Seen",
    "Settle",
    "Start",
    "Submit",
]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the executor saw besides the task's own events: the clock, a draw, other streams."""

    at_ms: int
    jitter_ppm: int = 0
    """The draw, within plus or minus the policy's jitter."""
    decider: int = 1
    """The version of the rules to decide by."""
    brakes: tuple[BrakeSeen, ...] = ()
    budgets: tuple[BudgetSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Submit:
    """Open a task's stream."""

    request: e.TaskRequest
    seen: Seen
    verdict: e.ValidationPassed | e.ValidationFailed | None = None
    """A person's, which ends the task at once; its request has no steps."""


@dataclass(frozen=True, slots=True)
class Start:
    """Claim the task and begin the attempt that its state calls for."""

    started: e.AttemptStarted
    at_ms: int


@dataclass(frozen=True, slots=True)
class Record:
    """Record how the running attempt ended, the verdict if it was a judge's, and choose what follows."""

    outcome: e.AttemptSucceeded | e.AttemptFailed
    fence: int
    seen: Seen
    verdict: e.ValidationPassed | e.ValidationFailed | None = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """Record that the running attempt's worker died, and choose what follows."""

    orphaned: e.AttemptOrphaned
    seen: Seen


@dataclass(frozen=True, slots=True)
class Settle:
    """Record what became known of an attempt after its end, and use its answer if the task still waits."""

    settled: e.AttemptSettled
    seen: Seen


@dataclass(frozen=True, slots=True)
class Choose:
    """Decide what an outcome that is already recorded leads to; what a verifier asks again."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Brake:
    """Keep off a step that nothing was tried on, as long as an open breaker that was seen stands before it."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Budget:
    """Refuse the next attempt, or have it wait, where it does not fit under the caps that were seen."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Release:
    """Let a held task go on."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Cancel:
    """Call a task off."""

    seen: Seen


Command = Submit | Start | Record | Orphan | Settle | Choose | Brake | Budget | Release | Cancel
