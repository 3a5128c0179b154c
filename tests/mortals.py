"""Processes that can be killed at any instant, a provider that remembers every call, and what connects them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import ledger.cli.work.batch
import ledger.cli.work.queue
import ledger.cli.work.run
import ledger.cli.work.tasks
import ledger.executor.api  # noqa: F401 - and all of them so that a forked process has them
from clients.base import ErrorType, ExecutionResult, ModelClient, OnText
from ledger import Config, Executor, Ledger
from ledger.cli import main
from ledger.envelope import Append, Stream
from ledger.errors import DispatchError, LedgerFull
from ledger.ports import Ports
from ledger.store.protocol import Store
from tests import processes
from tests.command_line import Ended
from tests.emulator import Emulator, Reply, Request
from tests.processes import SPAWNED, said

__all__ = [
    "Caller",
    "Commanded",
    "Fault",
    "Full",
    "FullLedger",
    "HastyLoop",
    "Mortal",
    "Witness",
    "caller",
    "commanded",
    "configured",
    "dispatching",
    "mortals",
    "toml",
    "working",
]

SPAWNED.set_forkserver_preload([processes.__name__, __name__])
PROVIDER: Final = f"{__name__}:caller"
PATIENCE_S: Final = 60.0
ERRORS: Final[Mapping[int, ErrorType]] = {429: "rate_limited", 529: "overloaded", 400: "invalid_request"}
POISON: Final = "poison"
"""A prompt that says so kills the process that sends it."""


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop whose time flies, since a heartbeat has to be watched for a while before it is said to have stopped."""

    def time(self) -> float:
        """Return a hundred seconds a second."""
        return super().time() * 100


@dataclass
class Here:
    """What a process's clients know of it."""

    worker: str = ""
    passing: Callable[[str], None] = lambda _: None


HERE: Final = Here()


class Witness(Emulator):
    """A provider whose log says who asked what; what is not in ``plays`` is answered at once."""

    def __init__(self) -> None:
        super().__init__()
        self.plays: dict[str, Callable[[int], Reply]] = {}
        """By prompt: what is answered to the n-th call, counted from one."""
        self.latency_s = 0.0
        self.route("POST", "/call", self._answered)

    def calls(self) -> list[tuple[str, str]]:
        """Return what was asked so far: the worker and the prompt."""
        return [(request.headers["x-worker"], request.body.decode()) for request in self.log]

    def asked(self) -> Counter[str]:
        """Count the calls of each prompt."""
        return Counter(prompt for _, prompt in self.calls())

    def most_flying(self) -> int:
        """Return how many calls were under way at once, if each took as long as the latency says."""
        times = [request.received_at for request in self.log]
        return max(sum(0 <= at - other < self.latency_s for other in times) for at in times)

    def _answered(self, request: Request) -> Reply:
        prompt = request.body.decode()
        play = self.plays.get(prompt)
        if play is not None:
            return play(self.asked()[prompt])
        return Reply(body=f"answer to {prompt}".encode(), delay_s=self.latency_s)


@dataclass
class Caller(ModelClient):
    """Asks the witness; HTTP in its plainest form."""

    model: str
    url: str

    async def aclose(self) -> None:
        """Hold nothing."""

    async def execute(
        self,
        prompt: str,
        max_tokens: int = 4096,
        *,
        system: str | None = None,
        timeout_s: float | None = None,
        on_text: OnText | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> ExecutionResult:
        host, _, port = self.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        with closing(writer):
            body = prompt.encode()
            head = f"POST /call HTTP/1.1\r\nhost: witness\r\nx-worker: {HERE.worker}\r\nx-model: {self.model}\r\n"
            writer.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            if POISON in prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            HERE.passing("after send")
            told = (await reader.readuntil(b"\r\n\r\n")).decode()
            HERE.passing("after headers")
            text = (await reader.read()).decode()
            HERE.passing("after body")
        status = int(told.split()[1])
        if status == 200:
            return ExecutionResult(model=self.model, response=text, success=True, finish_reason="end_turn")
        return ExecutionResult(
            model=self.model,
            success=False,
            error=text,
            error_type=ERRORS[status],
            status_code=status,
            usage_source="not_billed",
        )


def caller(model: str, **settings: Any) -> Caller:
    """Make the client that a configuration names."""
    return Caller(model, **settings)


def toml(url: str, *, concurrency: int = 8, retry: str = "", tiers: str = "") -> str:
    """Write a configuration: flash falls back to haiku, both are the witness's."""
    return f"""
[retry]
{retry}
[tiers.flash]
provider = "{PROVIDER}"
model = "quick"
{tiers}
[tiers.haiku]
provider = "{PROVIDER}"
model = "plain"
[providers."{PROVIDER}"]
url = "{url}"
concurrency = {concurrency}
[breakers]
failures = 0
"""


def configured(url: str, **retry: Any) -> Config:
    """Make the same for Python."""
    tiers = {"flash": {"provider": PROVIDER, "model": "quick"}, "haiku": {"provider": PROVIDER, "model": "plain"}}
    return Config.model_validate(
        {
            "retry": retry,
            "tiers": tiers,
            "providers": {PROVIDER: {"url": url, "concurrency": 8}},
            "breakers": {"failures": 0},
        }
    )


@dataclass(frozen=True)
class Fault:
    """What happens to a process at a point that it passes."""

    point: str = ""
    how: str = "nothing"
    """kill, raise, or pause: it stands still until it is told to go on."""
    full: bool = False
    """The ledger takes no outcome."""


class Full:
    """A store that takes everything but outcomes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.full = True
        self.refused = 0
        self.refused_most: int | None = None
        """So many times there is no room; None is for ever."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, append: Append) -> Stream:
        """Refuse what ends an attempt, as a disk does that had room for the start."""
        full = self.full and self.refused != self.refused_most
        if full and any(new.event.TYPE in {"attempt.succeeded", "attempt.failed"} for new in append.events):
            self.refused += 1
            raise LedgerFull("the disk is full")
        return await self._store.append(append)


@dataclass
class FullLedger(Ledger):
    """A ledger on such a store."""

    def __init__(self, url: Path, ports: Ports) -> None:
        super().__init__(str(url), ports=ports)
        self.filling: Full | None = None

    async def store(self) -> Store:
        """Return the store that refuses."""
        if self.filling is None:
            self.filling = Full(await super().store())
        return cast("Store", self.filling)


class Mortal:
    """A process of ours, forked from one that has imported everything."""

    def __init__(self, work: Callable[..., Any], *arguments: Any) -> None:
        self.pipe, theirs = SPAWNED.Pipe()
        self.process = SPAWNED.Process(target=work, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def lives(self) -> bool:
        """Say whether it has not ended yet."""
        return self.process.is_alive()

    def signal(self, number: int) -> None:
        """Send it a signal, if it is there to get it."""
        if self.process.pid is not None and self.lives:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def said(self) -> Any:
        """Wait for what it says."""
        return said(self.pipe)

    def ended(self) -> int:
        """Wait for its end; return its exit code, a signal as a negative number."""
        self.process.join(PATIENCE_S)
        code = self.process.exitcode
        assert code is not None, "it does not end"
        self.pipe.close()
        return code


@contextmanager
def mortals() -> Iterator[list[Mortal]]:
    """Keep a list of processes, none of which outlives the block."""
    living: list[Mortal] = []
    try:
        yield living
    finally:
        for mortal in living:
            mortal.signal(signal.SIGKILL)
            mortal.ended()


def dispatching(pipe: Connection, path: Path, url: str, fault: Fault, key: str = "k") -> None:
    """Dispatch one prompt under a key; meet the fault on the way."""
    met = False

    def passing(point: str) -> None:
        nonlocal met
        if met or point != fault.point:
            return
        met = True
        match fault.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "raise":
                raise RuntimeError(point)
            case "pause":
                pipe.send(point)
                pipe.recv()

    async def at_once(seconds: float) -> None:
        await asyncio.sleep(0 if fault.full or fault.how == "raise" else seconds)

    async def dispatch() -> str:
        ports = Ports(passing=passing, sleep=at_once)
        ledger = FullLedger(path, ports) if fault.full else Ledger.open(path, ports=ports)
        async with ledger, Executor(ledger, configured(url), ports=ports) as executor:
            HERE.worker, HERE.passing = executor.worker, passing
            try:
                return (await executor.execute("haiku", "hello", idempotency_key=key)).response
            except (DispatchError, RuntimeError) as error:
                return type(error).__name__

    pipe.send(asyncio.run(dispatch()))


def _command(pipe: Connection, folder: Path, name: str, argv: tuple[str, ...]) -> None:
    os.chdir(folder)
    for stream, number in (("out", 1), ("err", 2)):
        descriptor = os.open(folder / f"{name}.{stream}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    pipe.send("begun")
    raise SystemExit(main(argv))


@dataclass
class Commanded:
    """A command as a process of its own, started in some milliseconds."""

    folder: Path
    name: str
    mortal: Mortal
    begun_s: float = field(default_factory=time.monotonic)

    def ended(self) -> Ended:
        """Wait for its end."""
        code = self.mortal.ended()
        out, err = ((self.folder / f"{self.name}.{stream}").read_text() for stream in ("out", "err"))
        return Ended(code, out, err)


def commanded(folder: Path, name: str, *argv: str) -> Commanded:
    """Start ``dispatch-ledger`` in a folder; its output goes to files of this name."""
    mortal = Mortal(_command, folder, name, argv)
    assert mortal.said() == "begun"
    return Commanded(folder, name, mortal)


def working(pipe: Connection, place: str, home: Path, url: str, concurrency: int) -> None:
    """Work as ``worker --drain`` does, under a name that the witness is told; state is kept in a home of the test's."""
    os.environ["XDG_STATE_HOME"] = str(home)

    async def work() -> None:
        async with Ledger.open(place, create=False) as ledger, Executor(ledger, configured(url)) as executor:
            HERE.worker = executor.worker
            await executor.work(drain=True, concurrency=concurrency)

    asyncio.run(work())
    pipe.send("drained")
