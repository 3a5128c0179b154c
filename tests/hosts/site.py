"""A small site: a database's host, a provider's host, and hosts of workers, each with a home of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.hosts.network import Host, Network
from tests.postgres_server import Server, sql, started

__all__ = ["Call", "Site", "Worker", "site"]

ROOT: Final = Path(__file__).parents[2]
PORT: Final = 8080
WAIT_S: Final = 30.0
# A process that ends with the thread that started it, whatever ends that.
MORTAL: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass(frozen=True)
class Call:
    """One call that the provider received."""

    index: int
    prompt: str
    at: float
    delay_s: float


@dataclass(frozen=True)
class Worker:
    """``dispatch-ledger worker`` on a host."""

    host: Host
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str | None:
        """Its name in the ledger, told by its lock file, which nobody else's home has; None until it is there."""
        locks = [path.stem for path in self.home.rglob("*.lock")]
        return f"worker:{locks[0]}" if locks else None

    @property
    def said(self) -> str:
        """What it has said on standard error."""
        return (self.home / "stderr").read_text()

    def stopped(self, within_s: float = WAIT_S) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


@dataclass
class Site:
    """Hosts, and what runs on them."""

    network: Network
    folder: Path
    config: str
    server: Server
    database: Host
    provider: Host
    stack: ExitStack
    workers: list[Worker] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The ledger's, as hosts name it."""
        return f"postgresql://postgres@{self.database.addresses['db']}/postgres"

    @property
    def calls(self) -> list[Call]:
        """What the provider has received so far."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [Call(**json.loads(line)) for line in lines]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the ledger, past every network: by the server's socket."""
        return asyncio.run(sql(self.server.url, query))

    def worker(self, name: str, *options: str, plugged: bool = True) -> Worker:
        """Start a worker on a new host."""
        host = self.network.host(name)
        if not plugged:
            self.network.cut(host)
        home = self.home(name)
        process = self.run(host, home, "-m", "ledger", "worker", "--ledger", self.url, *options)
        made = Worker(host, home, process)
        self.workers.append(made)
        return made

    def home(self, name: str) -> Path:
        """Make the folder that a host has for itself, with the configuration."""
        home = self.folder / name
        home.mkdir()
        (home / "dispatch.toml").write_text(self.config)
        return home

    def submit(self, worker: Worker, prompts: Sequence[str]) -> list[str]:
        """Queue prompts from a worker's host; return the tasks' ids."""
        process = self.run(worker.host, worker.home, "-m", "tests.hosts.submitting", self.url, name="submitting")
        out, _ = process.communicate("\n".join(prompts).encode(), timeout=WAIT_S)
        assert process.returncode == 0, (worker.home / "submitting").read_text()
        return out.decode().split()

    def run(self, host: Host, home: Path, *argv: str, name: str = "stderr") -> subprocess.Popen[bytes]:
        """Start Python on a host."""
        where = {"HOME": home, "TMPDIR": home, "XDG_STATE_HOME": home / "state", "PYTHONPATH": ROOT}
        provider = f"http://{self.provider.addresses['api']}:{PORT}"
        env = {
            **os.environ,
            **{key: str(path) for key, path in where.items()},
            "ANTHROPIC_API_KEY": "canary-anthropic",
            "ANTHROPIC_BASE_URL": provider,
        }
        with host.space.inside(), (home / name).open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", MORTAL, *argv],
                cwd=home,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.stack.callback(_ended, process)
        return process

    def until(self, condition: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
        """Wait for something that hosts do; a worker that ended meanwhile will not do it."""
        deadline = time.monotonic() + within_s
        while not condition():
            for worker in self.workers:
                assert worker.process.poll() is None, worker.said
            assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
            time.sleep(0.1)


@contextmanager
def site(folder: Path, config: str) -> Iterator[Site]:
    """Have a site without workers.

    Raises:
        NoHosts: this machine does not make hosts.
    """
    with Network("db", "api") as network, ExitStack() as stack:
        database, provider = network.host("base", "db"), network.host("model", "api")
        with database.space.inside():
            server = started("fsync=off", listen=database.addresses["db"])
        stack.callback(server.stop)
        _let_in(server)
        made = Site(network, folder, config, server, database, provider, stack)
        (folder / "calls.jsonl").touch()
        argv = ("-m", "tests.hosts.provider", provider.addresses["api"], str(PORT), str(folder / "calls.jsonl"))
        serving = made.run(provider, made.home("model"), *argv)
        assert serving.stdout is not None
        assert serving.stdout.readline() == b"serving\n", (folder / "model" / "stderr").read_text()
        yield made


def _let_in(server: Server) -> None:
    """Let the other hosts in; a server of the tests' own knows only this machine."""
    assert server.folder is not None
    with (server.folder / "data" / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/24 trust\n")
    asyncio.run(sql(server.url, "SELECT pg_reload_conf()"))


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(WAIT_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
