"""A task that is killed in the middle of its retries and begun again: how many calls it makes, what is kept of them."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.measuring import Plan, Table, folder_in
from benchmarks.peers import SCRIPTS, Unavailable, environment

__all__ = ["measure"]

TRIES: Final = 5
KILLED_AT: Final = 3
"""The call at which the process is killed."""
PAUSE_S: Final = 1.0
"""Between two tries."""
END_S: Final = 60.0
ERROR: Final = json.dumps({"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}).encode()
OVERLOADED: Final = 529
COLUMNS: Final = ("of", "killed", "calls", "after the kill", "rows kept")
MOMENTS: Final[Mapping[str, bool]] = {"after call 3": False, "during call 3": True}
"""Whether the call is still waiting for its answer."""


class Contender(NamedTuple):
    """Who takes part."""

    script: str
    """Begins the task, or goes on with it."""
    wanted: tuple[str, ...]
    """Packages of an environment of its own; none is this one."""
    tables: tuple[str, ...]
    """Where it keeps what it knows of the calls."""


CONTENDERS: Final[Mapping[str, Contender]] = {
    "dispatch-ledger": Contender("crash_dispatch_ledger.py", (), ("attempts", "events")),
    "DBOS": Contender("crash_dbos.py", ("dbos", "anthropic"), ("operation_outputs", "workflow_status")),
}


class Overloaded(ThreadingHTTPServer):
    """A provider that refuses every call, and keeps one of them waiting until it is let go."""

    daemon_threads = True

    def __init__(self, waiting: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url: Final = f"http://127.0.0.1:{self.server_address[1]}"
        self.waiting: Final = waiting
        self.let_go: Final = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def count(self) -> int:
        """Count a call."""
        with self._lock:
            self.calls += 1
            return self.calls


class _Connection(BaseHTTPRequestHandler):
    server: Overloaded

    def do_POST(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["content-length"]))
        if self.server.count() == self.server.waiting:
            self.server.let_go.wait()
        with contextlib.suppress(OSError):
            self.send_response(OVERLOADED)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(ERROR)))
            self.end_headers()
            self.wfile.write(ERROR)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@contextlib.contextmanager
def overloaded(waiting: int | None) -> Iterator[Overloaded]:
    """Have such a provider for a while."""
    with Overloaded(waiting) as provider:
        thread = threading.Thread(target=provider.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            provider.let_go.set()
            provider.shutdown()
            thread.join()


def measure(plan: Plan) -> str:
    """Return the table."""
    title = f"a task of {TRIES} tries against a provider that fails every call, killed with SIGKILL and begun again"
    table = Table(title, COLUMNS)
    for name, contender in CONTENDERS.items():
        try:
            python = environment(contender.wanted) if contender.wanted else Path(sys.executable)
            for moment, waiting in MOMENTS.items():
                with folder_in(plan.folder) as folder, overloaded(KILLED_AT if waiting else None) as provider:
                    version = _killed_and_begun_again(python, contender.script, provider, folder)
                    rows = _kept(folder / "kept.db", contender.tables)
                    after = provider.calls - KILLED_AT
                    table.rows.append((f"{name} {version}", moment, str(provider.calls), str(after), rows))
        except Unavailable as why:
            table.notes.append(f"{name}: skipped, {why}")
    return str(table)


def _killed_and_begun_again(python: Path, script: str, provider: Overloaded, folder: Path) -> str:
    """Return the version of what was killed.

    Raises:
        Unavailable: it does not get so far.
    """
    command = [str(python), str(SCRIPTS / script), provider.url, str(folder), str(TRIES), str(PAUSE_S)]
    ours = python == Path(sys.executable)
    env = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent.parent)} if ours else dict(os.environ)
    with _started(command, env, folder) as process:
        _wait(process, lambda: provider.calls >= KILLED_AT)
        time.sleep(PAUSE_S / 2)
        process.kill()
    if provider.calls < KILLED_AT:
        raise Unavailable(f"it made {provider.calls} calls: {_last_words(folder)}")
    with _started(command, env, folder) as process:
        ended = _wait(process, lambda: False)
        process.kill()
    if not ended or process.returncode:
        raise Unavailable(f"begun again, it does not end: {_last_words(folder)}")
    return (folder / "stdout").read_text(encoding="utf-8").split()[0]


def _started(command: Sequence[str], env: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """Start our own script; what it says goes to files."""
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)  # noqa: S603 - ours


def _wait(process: subprocess.Popen[bytes], enough: Callable[[], bool]) -> bool:
    """Wait, within a bound, until there is enough or the process has ended; say whether that was in time and well."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        if enough():
            return True
        if process.poll() is not None:
            return process.returncode == 0
        time.sleep(0.02)
    return False


def _last_words(folder: Path) -> str:
    return ((folder / "stderr").read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"])[-1]


def _kept(path: Path, tables: Sequence[str]) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        counts = [database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # noqa: S608 - our words
    return ", ".join(f"{table} {count}" for table, count in zip(tables, counts, strict=True))
