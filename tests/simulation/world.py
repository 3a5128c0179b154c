"""A world of hosts, a store that they share and a provider that keeps a log; nothing in it is left to chance."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from clients.base import ExecutionResult
from ledger import Config, Executor
from ledger import commands as c
from ledger.envelope import Append, Recorded
from ledger.errors import LedgerError, LedgerFull
from ledger.executor.books import built
from ledger.executor.listening import Listener
from ledger.executor.requests import Judged, Request
from ledger.executor.transact import Desk
from ledger.policy import Tier
from ledger.ports import Ports
from tests.simulation.invariants import Checker, Violation
from tests.simulation.loop import HOST, Choices, Host, SimLoop
from tests.simulation.machine import Folder
from tests.simulation.provider import UPWARDS, VERDICT, answer
from tests.simulation.shared import SimClient, SimLedger, SimStore
from tests.simulation.styles import STYLES, Fault, Style, configured

__all__ = ["Job", "World"]

START_MS: Final = 1_790_000_000_000
CHAOS_S: Final = 120.0
"""When the faults stop."""
REST_S: Final = 900.0
"""When all tasks have to be at rest, counted from there."""
STEPS_MAX: Final = 10_000
AUDITED: Final = 4
DOWN_S: Final = (0.1, 1.0, 5.0, 30.0)
PAUSE_S: Final = (0.2, 40.0, 90.0)
TIERS: Final[tuple[Tier, ...]] = ("flash", "haiku", "sonnet")
VALIDATED_EVERY: Final = 3
"""One job in so many has its answer judged."""
ACCEPTED_FROM: Final = 5
"""The first attempt whose verdict passes; those before send the task up."""
KINDS: Final[tuple[Kind, ...]] = ("shell", "shell", "worker", "resume")
SKEWS_MS: Final = (0, 0, 2_000, -2_000, 100_000, -100_000)
JUMPS_MS: Final = (5, -5, 3_000, -3_000, -100_000, -86_400_000, 3_600_000)
Kind = Literal["shell", "worker", "resume"]
JOB: Final = re.compile(r"job (\d+)")

built({})  # no thread may make it while a world's clock stands still


@dataclass(frozen=True, slots=True)
class Job:
    """A request under its key."""

    number: int
    request: Request
    poison: bool = False
    """Whoever sends it dies."""
    queued: bool = False
    """Submitted for whoever works."""

    def __str__(self) -> str:
        return f"job {self.number}"


@dataclass(slots=True)
class Slot:
    """A place for a process: whatever stops there before its time is started again to do the same."""

    number: int
    kind: Kind
    jobs: tuple[Job, ...]
    machine: Folder
    skew_ms: int = 0
    starts: int = 0
    finished: bool = False
    host: Host | None = None
    main: asyncio.Task[None] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class World:
    """Everything around the executors."""

    choices: Choices
    client: type[SimClient] = SimClient
    kept: type[SimStore] = SimStore
    story: list[str] | None = None
    """What happened, if somebody wants to read it."""
    loop: SimLoop = field(init=False)
    style: Style = field(init=False)
    config: Config = field(init=False)
    slots: list[Slot] = field(init=False)
    audited: bool = field(init=False)
    """The whole ledger is verified at the end; not in each world, since it takes a while."""
    full: bool = False
    outage: bool = False
    asked: int = 0
    """What a person has asked for, and is not done yet."""
    resting: bool = False
    """Nothing is left to do; the workers are told to stop."""
    jumps: int = 0
    offset_ms: int = 0
    faults: int = 0
    serial: int = 0

    def __post_init__(self) -> None:
        draw = self.choices
        self.checker = Checker(self)
        self.loop = SimLoop(draw, lambda what: self.checker.fail("nothing is raised", what))
        self.style = draw.one_of(STYLES)
        self.config = configured(
            draw.one_of(("retry", "retry", "retry", "hold", "fail")),
            draw.one_of((5, 1, 2, 0)),
            draw.one_of((2, 1)),
            draw.one_of((20, 3, 2, 0)),
            draw.one_of((None, None, None, 0.05, 0.025)),
        )
        self.audited = draw.below(AUDITED) == 0
        jobs = [self._job(number) for number in range(1 + draw.below(3))]
        self.slots = self._slots(jobs)
        self.store = self.kept(self)

    def _slots(self, jobs: Sequence[Job]) -> list[Slot]:
        """Put processes on one machine, or each on its own; the first has every job, the others what they draw."""
        draw = self.choices
        kinds: list[Kind] = ["shell"]
        kinds += [draw.one_of(KINDS) for _ in range(draw.one_of((1, 1, 0, 2)))]
        if any(job.queued for job in jobs) and "worker" not in kinds:
            kinds.append("worker")
        together = draw.one_of((True, False))
        machines = [
            Folder(f"machine {number}", lambda: self.full, elsewhere=Folder(f"machine {number}, another disk"))
            for number in range(1 if together else len(kinds))
        ]
        return [
            Slot(
                number,
                kind,
                tuple(job for job in jobs if kind == "shell" and (number == 0 or not draw.chance(300))),
                machines[number % len(machines)],
                0 if together else draw.one_of(SKEWS_MS),
            )
            for number, kind in enumerate(kinds)
        ]

    def _job(self, number: int) -> Job:
        draw = self.choices
        tier = draw.one_of(TIERS)
        judged = Judged("an output") if tier == "sonnet" else None
        queued = judged is None and draw.chance(300)
        request = Request(
            tier=tier,
            prompt=f"job {number}",
            retry_count=draw.one_of((2, 0, 1)),
            key=f"key {number}",
            judged=judged,
            validated=judged is None and number % VALIDATED_EVERY == 0,
        )
        return Job(number, request, poison=draw.chance(self.style.poison), queued=queued)

    def run(self) -> Violation | None:
        """Live until all is done or a rule is broken; return what was broken."""
        try:
            for slot in self.slots:
                self._boot(slot)
            self.loop.create_task(self._chaos())
            restless = self.loop.run(STEPS_MAX, CHAOS_S + REST_S)
            if restless:
                self.checker.fail("progress", restless)
            if self.checker.violation is None:
                self.checker.over()
            return self.checker.violation
        finally:
            self.loop.close()

    def _boot(self, slot: Slot) -> None:
        if self.resting and slot.kind == "worker" and not slot.machine.kept():
            self._finished(slot)
            return
        slot.starts += 1
        host = slot.host = Host(f"{slot.kind} {slot.number}.{slot.starts}", slot.skew_ms)
        slot.stop = asyncio.Event()
        if self.resting:
            slot.stop.set()
        context = copy_context()
        context.run(HOST.set, host)
        slot.main = self.loop.create_task(self._program(slot, host), context=context)
        slot.main.add_done_callback(lambda main: self._ended(slot, host, main))
        self.tell(f"{host.name} starts")

    async def _program(self, slot: Slot, host: Host) -> None:
        """Do what a command does: open the ledger, work, close."""
        ports = self.ports(host)
        executor = Executor(
            SimLedger(self.store, ports, slot.machine),
            self.config,
            ports=ports,
            build=lambda _, model, __: self.client(self, model),
        )
        self.checker.hosts[executor.worker] = host
        async with executor:
            match slot.kind:
                case "shell":
                    ends = await asyncio.gather(*(self._do(executor, job) for job in slot.jobs), return_exceptions=True)
                    for end in ends:
                        if end is not None:
                            raise end
                case "worker":
                    await executor.work(stop=slot.stop)
                case "resume":
                    await executor.resume()

    async def _do(self, executor: Executor, job: Job) -> None:
        request = job.request
        if job.queued:
            await executor.submit(
                request.tier, request.prompt, retry_count=request.retry_count, idempotency_key=request.key
            )
        else:
            self.checker.told(job, await executor.dispatch(request, Listener()))

    def _ended(self, slot: Slot, host: Host, main: asyncio.Task[None]) -> None:
        host.alive = False
        error = None if main.cancelled() else main.exception()
        if error is not None and not isinstance(error, LedgerError):
            self.checker.fail("nothing is raised", f"{host.name}: {error!r}")
        how = "was interrupted" if main.cancelled() else f"ends with {error}" if error is not None else "is done"
        self.tell(f"{host.name} {how}")
        if how == "is done" and (slot.kind != "worker" or self.resting):
            self._finished(slot)
        else:
            self.loop.call_later(self.choices.one_of(DOWN_S), self._boot, slot, context=Context())

    def _finished(self, slot: Slot) -> None:
        slot.finished = True
        self.look_for_rest()
        if all(other.finished for other in self.slots):
            self.loop.stopped = True

    def look_for_rest(self) -> None:
        """Send the workers home once all else is done and no task is open."""
        others = [slot for slot in self.slots if slot.kind != "worker"]
        if not self.asked and all(slot.finished for slot in others) and not self.checker.open_tasks():
            self.resting = True
            for slot in self.slots:
                slot.stop.set()

    def ports(self, host: Host) -> Ports:
        """Return the outside world as a host sees it."""
        return Ports(
            now_ms=lambda: self.now_ms() + host.skew_ms,
            sleep=asyncio.sleep,
            new_id=self._new_id,
            draw_ppm=lambda limit: self.choices.one_of((0, limit, -limit)),
            new_salt=lambda: self._new_id().encode(),
            passing=self._passing,
        )

    def now_ms(self) -> int:
        """Return what the store's clock on the wall shows."""
        return START_MS + round(self.loop.time() * 1000) + self.offset_ms

    def _new_id(self) -> str:
        self.serial += 1
        return f"01990000-0000-7000-8000-{self.serial:012x}"

    async def point(self, name: str) -> None:
        """Pass a point at which the host may be struck."""
        host = HOST.get()
        if host is None:
            return
        if host.alive:
            self._passing(name)
        if not host.alive or host.paused:
            await asyncio.sleep(0)  # the dead never come back from here, the others late

    def _passing(self, name: str) -> None:
        host = HOST.get()
        if host is None or not host.alive or host.paused or self.faults >= self.style.most:
            return
        if self.choices.chance(self.style.at_points):
            self.faults += 1
            self._strike(self.choices.one_of(self.style.strikes), host, name)

    async def _chaos(self) -> None:
        while self.style.timed and self.faults < self.style.most and self.loop.time() < CHAOS_S:
            await asyncio.sleep(self.choices.one_of(self.style.gaps_s))
            hosts = [slot.host for slot in self.slots if slot.host is not None and slot.host.alive]
            self.faults += 1
            if hosts:
                self._strike(self.choices.one_of(self.style.timed), self.choices.one_of(hosts), "anywhere")
        self.faults = self.style.most

    def _strike(self, fault: Fault, host: Host, where: str) -> None:
        self.tell(f"{fault} ({where}, {host.name})")
        draw, later = self.choices, self.loop.call_later
        match fault:
            case "crash":
                self.crash(host)
            case "pause" if not host.paused:
                host.paused = True
                host.pauses += 1
                later(draw.one_of(PAUSE_S), self.loop.resume, host, context=Context())
            case "interrupt":
                slot = next(slot for slot in self.slots if slot.host is host)
                if slot.kind == "worker" and draw.below(2):
                    slot.stop.set()
                elif slot.main is not None:
                    slot.main.cancel()
            case "jump":
                self.jumps += 1
                self.offset_ms += draw.one_of(JUMPS_MS)
            case "full":
                self.full = True
                later(draw.one_of((2.0, 0.1, 20.0)), self._heal, "full", context=Context())
            case "outage":
                self.outage = True
                later(draw.one_of((5.0, 30.0)), self._heal, "outage", context=Context())
            case "cancel" if open_tasks := self.checker.open_tasks():
                self._ask(c.Cancel, draw.one_of(open_tasks))
            case "release" if (held := self.checker.held_tasks()) and self._somebody_works():
                self._ask(c.Release, draw.one_of(held))
            case _:
                return

    def _somebody_works(self) -> bool:
        return not self.resting and any(slot.kind == "worker" for slot in self.slots)

    def _ask(self, command: type[c.Cancel | c.Release], task_id: str) -> None:
        """Do what a person asks for; nothing is at rest before it is done."""
        self.asked += 1
        desk = Desk(self.store, self.ports(Host("a person")), "person")
        asked = desk.transact(task_id, command(c.Seen(at_ms=desk.ports.now_ms())))
        self.loop.create_task(asked, context=Context()).add_done_callback(self._answered)

    def _answered(self, asked: asyncio.Task[Any]) -> None:
        self.asked -= 1
        error = asked.exception()
        if error is not None and not isinstance(error, LedgerFull):
            self.checker.fail("nothing is raised", f"a person is told {error!r}")
        self.look_for_rest()

    def _heal(self, what: str) -> None:
        setattr(self, what, False)

    def crash(self, host: Host) -> None:
        """End a host in the middle of whatever it does; another starts in its place."""
        host.alive = False
        host.lost = True
        slot = next(slot for slot in self.slots if slot.host is host)
        later = self.choices.one_of(DOWN_S)
        self.loop.call_later(later, self._boot, slot, context=Context())

    def tell(self, what: str) -> None:
        """Put a line into the story, if somebody wants to read it."""
        if self.story is not None:
            self.story.append(f"{self.loop.time():9.2f} s  {what}")

    def committed(self, append: Append, fresh: Sequence[Recorded]) -> None:
        """Have a transaction checked."""
        for payload in append.payloads:
            if payload.slot == "prompt" and (found := JOB.search(payload.content.decode())):
                self.checker.submitted(int(found[1]), append.task_id)
        self.tell(f"{append.task_id[-4:]} {' + '.join(recorded.type for recorded in fresh)}")
        self.checker.committed(fresh)
        self.look_for_rest()

    async def request(self, model: str, prompt: str, timeout_s: float, *, judge: bool) -> ExecutionResult:
        """Answer a request, and write it down before anything else."""
        host = HOST.get()
        found = JOB.search(prompt)
        if host is None or found is None:
            raise TypeError(f"nobody asks for {prompt}")
        if not host.alive:
            await asyncio.sleep(0)
        job = next(job for slot in self.slots for job in slot.jobs if job.number == int(found[1]))
        call = self.checker.sending(host, job)
        self.tell(f"{host.name} calls {model} for {job}, attempt {call.attempt}")
        if judge:
            call.text = UPWARDS if job.request.validated and call.attempt < ACCEPTED_FROM else VERDICT
        try:
            if job.poison:
                self.crash(host)
            await self.point("sent")
            trouble = 1000 if self.outage else self.style.trouble
            result = await answer(self.choices, trouble, timeout_s, model, call.tokens, call.text)
            call.billed = result.usage_source != "not_billed"
            await self.point("answered")
        finally:
            call.flying = False
        call.delivered = True
        return result
