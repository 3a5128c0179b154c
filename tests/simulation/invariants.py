"""What must be true after every step of a world: a second bookkeeping beside the ledger and the provider's log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger import events as e
from ledger.audit import verify
from ledger.audit.decisions import asked_again, may_not_start
from ledger.audit.streams import projection_problems
from ledger.audit.told import told
from ledger.envelope import Recorded
from ledger.evolve import evolve, fold
from ledger.executor.calling import LEASE_GRACE_MS
from ledger.executor.intake import Dispatched
from ledger.parts import Decision
from ledger.state import CLOCK_SET_BACK_MS, INITIAL, Absent, Ended, Held, Ready, State, Undecided, Waiting
from ledger.system_events import BreakerClosed, BreakerOpened
from tests.simulation.loop import Host

if TYPE_CHECKING:
    from tests.simulation.world import Job, World

__all__ = ["Book", "Call", "Checker", "Violation"]

Accounts = e.AttemptSucceeded | e.AttemptFailed | e.AttemptSettled
DAY_MS: Final = 86_400_000
STALE_S: Final = 0.5
"""How old a look at a breaker may be."""
AFTER_THE_END = (e.AttemptSettled, e.PayloadErased)


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that did not hold, and where."""

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(slots=True)
class Call:
    """A request as the provider saw it."""

    serial: int
    task_id: str
    attempt: int
    host: Host
    pauses: int
    """How often its host had stood still when the attempt was started."""
    tokens: tuple[int, int]
    """Input and output, of this call alone: an answer that is booked elsewhere is noticed."""
    text: str
    billed: bool = True
    flying: bool = True
    delivered: bool = False
    """The executor was given the answer."""

    @property
    def steady(self) -> bool:
        """Its host has lived and run without a pause since."""
        return self.host.alive and not self.host.paused and self.host.pauses == self.pauses


class Opened(NamedTuple):
    """A breaker that was opened: when and until when by its opener's clock, and the second and the jump."""

    set_ms: int
    until_ms: int
    at_s: float
    jumps: int


@dataclass(slots=True)
class Book:
    """What the checker itself remembers of a task."""

    task_id: str
    state: State = INITIAL
    started: dict[int, e.AttemptStarted] = field(default_factory=dict)
    ended: dict[int, e.Event] = field(default_factory=dict)
    settled: dict[int, e.AttemptSettled] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    pauses: dict[int, int] = field(default_factory=dict)
    """By attempt: how often its host had stood still when it was started."""
    tries: dict[tuple[str, int], int] = field(default_factory=dict)
    """By purpose and step."""
    orphans: int = 0
    """In a row."""
    not_before_ms: int = 0
    waits_since_ms: int = 0
    jumps: int = 0
    """How often the clock had jumped when the wait was set."""
    ends: int = 0


class Checker:
    """Looks at every commit and every call of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violation: Violation | None = None
        self.books: dict[str, Book] = {}
        self.tasks: dict[int, str] = {}
        """By job."""
        self.calls: list[Call] = []
        self.hosts: dict[str, Host] = {}
        """By worker."""
        self.brakes: dict[tuple[str, str], Opened] = {}
        """By provider and model: the breakers that are not closed."""
        self.owed: dict[tuple[int, str, int], int] = {}
        """By day, task and attempt: what it cost, or may have cost at the most."""
        self.seen: set[str] = set()
        """What has happened at all: types of events, and the rules of decisions."""

    def fail(self, rule: str, detail: str) -> None:
        """Note the first rule that does not hold; the world stops at it."""
        if self.violation is None:
            self.violation = Violation(rule, detail)
            self._world.loop.stopped = True

    def sending(self, host: Host, job: Job) -> Call:
        """Find the attempt that a request belongs to: the newest of its worker, started before and not sent yet."""
        serial = len(self.calls) + 1
        book = self.books.get(self.tasks.get(job.number, ""))
        mine = [] if book is None else [n for n, began in book.started.items() if self.hosts.get(began.worker) is host]
        attempt = max(mine, default=0)
        task_id = "" if book is None else book.task_id
        pauses = 0 if book is None else book.pauses.get(attempt, 0)
        call = Call(serial, task_id, attempt, host, pauses, (1000 + serial, 10 + serial), f"answer {serial}")
        self.calls.append(call)
        if book is None or not attempt:
            self.fail(
                "a start before each call", f"{host.name} calls for {job} and no start of its stands in the ledger"
            )
        elif attempt in book.calls:
            self.fail("one call an attempt", f"{host.name} calls a second time for attempt {attempt} of {task_id}")
        else:
            for other in book.calls.values():
                if call.steady and other.flying and other.steady and other.host is not host:
                    detail = (
                        f"{host.name} and {other.host.name} call at once for {task_id}, and neither has stood still"
                    )
                    self.fail("one living worker a task", detail)
            book.calls[attempt] = call
        return call

    def committed(self, fresh: Sequence[Recorded]) -> None:
        """Check what a transaction has added to a stream: by our own books first, then by asking ``decide`` again."""
        task_id = fresh[0].task_id
        if task_id.startswith("breaker:"):
            self._braked(fresh)
        if ":" in task_id:
            return
        book = self.books.setdefault(task_id, Book(task_id))
        before = book.state
        for recorded in fresh:
            event = recorded.event()
            self.seen.add(event.rule if isinstance(event, Decision) else event.TYPE)
            self._event(book, event)
            self._owes(recorded, event)
            book.state = evolve(book.state, event)
        self._rests(book)
        for recorded in fresh:
            self._decided_rightly(before, recorded)
            before = evolve(before, recorded.event())
        stream, projected = self._world.store.standing(task_id)
        for problem in projection_problems(stream, told(stream), projected):
            self.fail("fold equals projection", problem.detail)

    def _owes(self, recorded: Recorded, event: e.Event) -> None:
        """Add up by our own figures what each day may have cost; a day never has more than its cap."""
        match event:
            case e.AttemptStarted():
                day = recorded.recorded_at_ms // DAY_MS
                self.owed[day, recorded.task_id, event.attempt] = event.upper_bound_nano_usd or 0
            case e.AttemptSucceeded() | e.AttemptFailed() | e.AttemptSettled() if event.cost_nano_usd is not None:
                for key in self.owed:
                    if key[1:] == (recorded.task_id, event.attempt):
                        self.owed[key] = event.cost_nano_usd
        cap = self._world.config.budget.max_usd_per_day
        for day in {day for day, *_ in self.owed}:
            owed = sum(amount for (of, *_), amount in self.owed.items() if of == day)
            if cap is not None and owed > cap * 10**9:
                self.fail("no cap is passed", f"{recorded.task_id} makes it {owed} of {cap} USD")

    def _braked(self, fresh: Sequence[Recorded]) -> None:
        for recorded in fresh:
            event = recorded.event()
            self.seen.add(event.TYPE)
            match event:
                case BreakerOpened():
                    opened = Opened(
                        event.until_ms - event.open_ms, event.until_ms, self._world.loop.time(), self._world.jumps
                    )
                    self.brakes[event.provider, event.model] = opened
                case BreakerClosed():
                    self.brakes.pop((event.provider, event.model), None)

    def _rests(self, book: Book) -> None:
        """Check that a transaction leaves nothing half done."""
        state = book.state
        if isinstance(state, Undecided):
            self.fail("a consequence in its transaction", f"{book.task_id} stands undecided")
        if not isinstance(state, Absent | Ended) and book.orphans > state.task.submitted.policy.max_orphans:
            most = state.task.submitted.policy.max_orphans
            self.fail("orphans within the limit", f"{book.orphans} in a row of {book.task_id}, {most} are allowed")

    def _decided_rightly(self, state: State, recorded: Recorded) -> None:
        event = recorded.event()
        where = f"{recorded.task_id} version {recorded.version}"
        if isinstance(state, Ended):
            if not isinstance(event, AFTER_THE_END):
                self.fail("one end", f"{event.TYPE} after it: {where}")
            return
        wrong = asked_again(state, event)
        if wrong is None and isinstance(event, e.AttemptStarted):
            wrong = may_not_start(state, event, recorded.recorded_at_ms)
        if wrong is not None:
            self.fail("decisions can be asked again", f"{where}: {wrong}")

    def _event(self, book: Book, event: e.Event) -> None:
        match event:
            case e.AttemptStarted():
                self._started(book, event)
            case e.AttemptSucceeded() | e.AttemptFailed():
                self._ended(book, event)
            case e.AttemptOrphaned():
                self._orphaned(book, event)
            case e.AttemptSettled():
                self._settled(book, event)
            case e.EscalationSelected():
                book.tries.clear()  # another answer: its judge has its tries anew
            case e.RetryScheduled():
                book.not_before_ms, book.waits_since_ms = event.not_before_ms, event.inputs.decided_at_ms
                book.jumps = self._world.jumps
            case e.TaskSucceeded() | e.TaskFailed() | e.TaskCancelled():
                book.ends += 1
                if book.ends > 1:
                    self.fail("one end", f"{book.task_id} ends twice")

    def _started(self, book: Book, event: e.AttemptStarted) -> None:
        if event.attempt in book.started or event.attempt != len(book.started) + 1:
            self.fail(
                "no number twice", f"attempt {event.attempt} of {book.task_id} follows {len(book.started)} others"
            )
        elif len(book.started) > len(book.ended):
            self.fail(
                "no start over a start", f"attempt {event.attempt} of {book.task_id} begins while one is in flight"
            )
        book.started[event.attempt] = event
        host = self.hosts.get(event.worker)
        book.pauses[event.attempt] = 0 if host is None else host.pauses
        now = self._world.now_ms() + (0 if host is None else host.skew_ms)
        early = book.not_before_ms > now > book.waits_since_ms - CLOCK_SET_BACK_MS
        if early and book.jumps == self._world.jumps:
            self.fail("no start before its time", f"{book.task_id} waits {book.not_before_ms - now} ms more")
        book.not_before_ms = 0
        self._crowded(book, event)
        if host is not None and not host.pauses:
            self._against_a_brake(book, event, now)

    def _flying(self, provider: str, model: str | None = None) -> int:
        """Count the attempts in flight, of all hosts, those left out whose lease is over."""
        now = self._world.now_ms()
        return sum(
            began.provider == provider
            and model in (None, began.request_model)
            and number not in book.ended
            and began.deadline_ms + LEASE_GRACE_MS > now
            for book in self.books.values()
            for number, began in book.started.items()
        )

    def _crowded(self, book: Book, event: e.AttemptStarted) -> None:
        most = self._world.config.providers.named(event.provider).concurrency
        if self._flying(event.provider) > most:
            self.fail("limits hold across hosts", f"{book.task_id} flies to {event.provider} beside {most} others")

    def _against_a_brake(self, book: Book, event: e.AttemptStarted, now_ms: int) -> None:
        """Check that a task which has not tried its step yet keeps off it, or makes the one trial."""
        opened = self.brakes.get((event.provider, event.request_model))
        new_here = isinstance(book.state, Ready | Waiting) and not book.state.task.made
        if opened is None or not new_here or opened.jumps != self._world.jumps:
            return
        if self._world.loop.time() - opened.at_s < STALE_S:
            return
        if opened.set_ms - CLOCK_SET_BACK_MS <= now_ms < opened.until_ms:
            self.fail("an open breaker is kept off", f"{book.task_id} starts {opened.until_ms - now_ms} ms too early")
        elif self._flying(event.provider, event.request_model) > 1:
            self.fail("one trial at a time", f"{book.task_id} tries {event.request_model} beside another attempt")

    def _ended(self, book: Book, event: e.AttemptSucceeded | e.AttemptFailed) -> None:
        started = book.started.get(event.attempt)
        if started is None or event.attempt in book.ended:
            self.fail("one outcome an attempt", f"{event.TYPE} of attempt {event.attempt} of {book.task_id}")
            return
        book.ended[event.attempt] = event
        self._accounts(book, event)
        if isinstance(event, e.AttemptFailed) and event.error_type == "interrupted":
            return
        book.orphans = 0
        place = (started.purpose, started.step)
        book.tries[place] = book.tries.get(place, 0) + 1
        if not isinstance(book.state, Absent) and book.tries[place] > book.state.task.steps[started.step - 1].tries:
            self.fail("tries within the limit", f"{book.tries[place]} tries of {book.task_id} at {place}")

    def _orphaned(self, book: Book, event: e.AttemptOrphaned) -> None:
        if event.attempt not in book.started or event.attempt in book.ended:
            self.fail("one outcome an attempt", f"{event.TYPE} of attempt {event.attempt} of {book.task_id}")
            return
        book.ended[event.attempt] = event
        book.orphans += 1
        call = book.calls.get(event.attempt)
        if call is not None and call.flying and call.steady and event.cause != "cancelled":
            self.fail(
                "a lease stands", f"attempt {event.attempt} of {book.task_id} is given up while {call.host.name} calls"
            )

    def _settled(self, book: Book, event: e.AttemptSettled) -> None:
        if event.attempt in book.settled or event.attempt not in book.ended:
            self.fail("settled once", f"attempt {event.attempt} of {book.task_id}")
        book.settled[event.attempt] = event
        self._accounts(book, event)
        if event.error_type != "interrupted":
            book.orphans = 0

    def _accounts(self, book: Book, event: Accounts) -> None:
        """Compare what an outcome says was used with the provider's own log."""
        call = book.calls.get(event.attempt)
        used = [(row.input_uncached_tokens, row.output_tokens) for row in event.usage]
        if used and (call is None or used != [call.tokens]):
            self.fail("tokens add up", f"attempt {event.attempt} of {book.task_id} books {used}, the provider {call}")
        if event.cost_nano_usd == 0 and call is not None and call.billed:
            self.fail(
                "unknown is never zero", f"attempt {event.attempt} of {book.task_id} was billed, and is booked as 0"
            )

    def submitted(self, number: int, task_id: str) -> None:
        """Note the task that a job became; a key names one for ever."""
        known = self.tasks.setdefault(number, task_id)
        if known != task_id:
            self.fail("one task a key", f"job {number} is {known} and {task_id}")

    def told(self, job: Job, done: Dispatched) -> None:
        """Check what a caller was told against what the provider said."""
        state = fold(recorded.event() for recorded in done.stream)
        calls = self.books[self.tasks[job.number]].calls
        end = state.end if isinstance(state, Ended) else None
        answer = calls.get(end.attempt or 0) if isinstance(end, e.TaskSucceeded) else None
        expected = (answer is not None, "" if answer is None else answer.text)
        if end is None and not isinstance(state, Held):
            self.fail("a result is an end", f"{job} was told of {type(state).__name__}")
        elif (done.result.success, done.result.response) != expected:
            self.fail("the answer is the provider's", f"{job} was told {done.result.response!r}, it was {expected}")

    def open_tasks(self) -> list[str]:
        """Name the tasks that are not at rest; those that wait for a person are."""
        return [book.task_id for book in self.books.values() if not isinstance(book.state, Ended | Held)]

    def held_tasks(self) -> list[str]:
        """Name the tasks that wait for a person."""
        return [book.task_id for book in self.books.values() if isinstance(book.state, Held)]

    def over(self) -> None:
        """Check what must be true once everything has come to rest."""
        for call in self.calls:
            self._recorded(call)
        for book in self.books.values():
            if not isinstance(book.state, Ended | Held):
                self.fail("progress", f"{book.task_id} rests in {type(book.state).__name__}")
            self._sums(book)
        if self._world.audited:
            for problem in asyncio.run(verify(self._world.store)).problems:
                self.fail("verify finds nothing", str(problem))

    def _recorded(self, call: Call) -> None:
        """An answer that reached a worker which did not die is in the ledger, whoever had the task by then."""
        book = self.books[call.task_id]
        ended = book.ended.get(call.attempt)
        known = isinstance(ended, Accounts) or call.attempt in book.settled
        if call.delivered and not known and not call.host.lost:
            self.fail("no answer is dropped", f"attempt {call.attempt} of {call.task_id} on {call.host.name}")

    def _sums(self, book: Book) -> None:
        """Tokens of the projections are those of the provider's log, as far as anybody was told of them."""
        _, projected = self._world.store.standing(book.task_id)
        booked = sum((row["tokens_input"] or 0) + (row["tokens_output"] or 0) for row in projected.attempts)
        told = [event for event in (*book.ended.values(), *book.settled.values()) if isinstance(event, Accounts)]
        heard = {event.attempt for event in told if event.usage}
        used = sum(sum(call.tokens) for attempt, call in book.calls.items() if attempt in heard)
        if booked != used:
            self.fail("tokens add up", f"{book.task_id} books {booked} tokens, the provider counts {used}")
