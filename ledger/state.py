"""The states of a task: a closed sum, folded from its events by ``ledger.evolve``.

::

    Absent ──submitted──► Ready ──started──► Running ──outcome──► Undecided ──decision──► Ready, Waiting, Held or Ended
                            ▲                                                               │
                            └───────────────────────── started when due ◄───────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from ledger import events as e
from ledger.parts import Answered
from ledger.policy import ErrorType, Purpose, Step

__all__ = [
    "CLOCK_SET_BACK_MS",
    "INITIAL",
    "Absent",
    "Ended",
    "Given",
    "Held",
    "Loose",
    "Ready",
    "Running",
    "State",
    "Task",
    "Undecided",
    "Waiting",
]

CLOCK_SET_BACK_MS: Final = 60_000
"""A clock this far before the instant a wait was set has been set back: the wait counts as over."""


class Loose(NamedTuple):
    """An ended attempt of which something is unknown: its outcome (orphaned) or its cost."""

    attempt: int
    purpose: Purpose
    step: int
    orphaned: bool


class Given(NamedTuple):
    """An answer: the attempt that gave it and the step it was made on."""

    attempt: int
    step: int


class Task(NamedTuple):
    """What every state of a submitted task knows; a tuple, since each event makes a new one."""

    submitted: e.TaskSubmitted
    purpose: Purpose
    step: int
    attempts: int = 0
    """Numbers spent, of every purpose."""
    tries: int = 0
    """Of this purpose on this step; orphaned and interrupted attempts do not count."""
    errors: tuple[ErrorType, ...] = ()
    """What those of these tries that failed ended with."""
    orphans: int = 0
    """In a row."""
    made: int = 0
    """Attempts of any end begun on this step since the task came to it; only a task with none can be braked."""
    fence: int = 0
    worker: str | None = None
    owner: str | None = None
    """Whose the task is: the submission's owner, then the newest attempt's worker; None where it is nobody's."""
    answer: Given | None = None
    """The newest answer of a generating attempt."""
    late: Given | None = None
    """An orphan's answer that came while the next attempt runs; used unless that one answers too."""
    loose: tuple[Loose, ...] = ()
    """Attempts that ``attempt.settled`` may still follow."""

    def loose_end(self, attempt: int) -> Loose | None:
        """Return the open account of an attempt, if it has one."""
        return next((loose for loose in self.loose if loose.attempt == attempt), None)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps that the current purpose counts on."""
        if self.purpose == "validate":
            return self.submitted.judge
        route, ladder = self.submitted.route, self.submitted.ladder
        return route + ladder if ladder else route

    @property
    def judged_attempt(self) -> int | None:
        """The attempt that a judge is asked about; None for a free text, and while there is no answer."""
        if self.submitted.kind == "validation":
            return self.submitted.judged_attempt
        return self.answer.attempt if self.answer else None

    @property
    def spent(self) -> bool:
        """All attempts of the task are used up."""
        return self.attempts >= self.submitted.limits.attempts

    @property
    def at(self) -> Step:
        """The step the task is on."""
        return self.steps[self.step - 1]

    @property
    def next_step(self) -> int | None:
        """Where a fallback goes; the ladder is for verdicts only, and nothing leads backwards."""
        return self.step + 1 if self.step < self.last_step else None

    @property
    def last_step(self) -> int:
        """Where fallbacks end."""
        return len(self.submitted.judge if self.purpose == "validate" else self.submitted.route)


@dataclass(frozen=True, slots=True)
class Absent:
    """No event yet."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The next attempt may start at once."""

    task: Task


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt is in flight, as far as the ledger knows."""

    task: Task
    started: e.AttemptStarted


@dataclass(frozen=True, slots=True)
class Undecided:
    """An outcome is recorded and nothing yet chosen; never the last state of a whole transaction."""

    task: Task
    outcome: Answered
    retryable: bool = False
    retry_after_ms: int | None = None
    passed: bool | None = None
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """The next attempt may start at an instant."""

    task: Task
    not_before_ms: int
    set_at_ms: int

    def due(self, now_ms: int) -> bool:
        """Say whether the wait is over, also for a clock that was set back since."""
        return now_ms >= self.not_before_ms or now_ms < self.set_at_ms - CLOCK_SET_BACK_MS


@dataclass(frozen=True, slots=True)
class Held:
    """A person has to say how it goes on."""

    task: Task


@dataclass(frozen=True, slots=True)
class Ended:
    """Succeeded, failed or cancelled; nothing changes it."""

    task: Task
    end: e.TaskSucceeded | e.TaskFailed | e.TaskCancelled


State = Absent | Ready | Running | Undecided | Waiting | Held | Ended
INITIAL: Final[State] = Absent()
