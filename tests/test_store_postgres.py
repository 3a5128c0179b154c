"""What only the store in PostgreSQL can do wrong: guards, positions, sessions that break, several hosts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.envelope import Append, Limit, Payload, Recorded
from ledger.errors import (
    ConfigurationError,
    DispatchError,
    EventInvalid,
    LedgerBusy,
    LedgerCorrupt,
    LedgerError,
    LedgerFull,
    LedgerMissing,
    VersionConflict,
)
from ledger.store.memory import MemoryStore
from ledger.store.opening import open_store, parse_url
from ledger.store.postgres import PostgresStore
from ledger.store.postgres_connection import connect
from ledger.store.postgres_guards import GUARD_BROKEN
from ledger.store.postgres_opening import open_postgres
from ledger.store.postgres_schema import problems
from ledger.store.postgres_url import PostgresUrl
from ledger.store.protocol import KeyTaken, LimitReached, Store
from tests.contracts.appends import Clock, submission, task, tick, ticks, whole
from tests.contracts.test_stores import appends as any_appends
from tests.contracts.test_stores import contents, fate
from tests.histories import History, request
from tests.postgres_server import database, own_database, rooted, server, sql, with_option

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parent.parent
REPLICA: Final = "SET session_replication_role = replica; "
KEY: Final = b"k" * 32


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Give a database with an empty ledger."""
    async with database() as made:
        yield made


@pytest.fixture
async def own_url() -> AsyncIterator[str]:
    """Give one that may be spoilt."""
    async with own_database() as made:
        yield made


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    """Open a ledger for a while."""
    store = await open_postgres(PostgresUrl.parse(url), create=False, **options)
    try:
        yield store
    finally:
        await store.aclose()


class TestGuards:
    @pytest.mark.parametrize("role", [pytest.param("", id="as usual"), pytest.param(REPLICA, id="as a replica")])
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE events SET actor = 'somebody'",
            "DELETE FROM events WHERE version = 2",
            "TRUNCATE events",
            "TRUNCATE events CASCADE",
            "INSERT INTO events SELECT 9, 'x', task_id, 4, type, 1, 1, actor, 0, data, hash, hash FROM events LIMIT 1",
            "INSERT INTO events SELECT 9, 'x', task_id, 3, type, 1, 1, actor, 0, data, hash, hash FROM events LIMIT 1",
            "INSERT INTO events SELECT 9, 'x', 'u', 1, type, 1, 1, actor, 0, data, hash, hash FROM events LIMIT 1",
            (
                "INSERT INTO events SELECT 2, 'x', 'u', 1, type, 1, 1, actor, 0, data, prev_hash, hash FROM events "
                "WHERE version = 1"
            ),
            (
                "INSERT INTO events SELECT 9, event_id, task_id, 3, type, 1, 1, actor, 0, data, hash, hash FROM events "
                "WHERE version = 2 ON CONFLICT (event_id) DO UPDATE SET actor = 'somebody'"
            ),
            "MERGE INTO events USING (SELECT 1) AS one ON version = 1 WHEN MATCHED THEN DELETE",
        ],
        ids=lambda statement: statement[:40],
    )
    async def test_events_are_only_appended(self, url: str, statement: str, role: str) -> None:
        """Whoever may write, also past the triggers of a replica: refused, and everything is as it was."""
        async with opened(url) as store:
            stream = await store.append(ticks("s", 0, 2))
            with pytest.raises(asyncpg.PostgresError) as refused:
                await sql(url, role + statement)
            assert refused.value.sqlstate == GUARD_BROKEN
            assert (stream, ()) == (await store.read("s"), await store.check())

    @pytest.mark.parametrize(
        ("statement", "kind"),
        [
            ("ALTER TABLE events DISABLE TRIGGER events_no_update", "guard_changed"),
            ("ALTER TABLE events ENABLE TRIGGER events_no_truncate", "guard_changed"),
            ("ALTER TABLE events ENABLE REPLICA TRIGGER events_no_delete", "guard_changed"),
            ("DROP TRIGGER events_only_append ON events", "guard_missing"),
            ("DROP FUNCTION events_never_change CASCADE", "guard_missing"),
            (
                (
                    "CREATE OR REPLACE FUNCTION events_never_change() RETURNS trigger LANGUAGE plpgsql "
                    "SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NEW; END'"
                ),
                "guard_changed",
            ),
            ("ALTER FUNCTION events_only_append RESET ALL", "guard_changed"),
            (
                (
                    "DROP TRIGGER events_no_update ON events; CREATE TRIGGER events_no_update BEFORE UPDATE ON events "
                    "FOR EACH ROW WHEN (false) EXECUTE FUNCTION events_never_change(); "
                    "ALTER TABLE events ENABLE ALWAYS TRIGGER events_no_update"
                ),
                "guard_changed",
            ),
            (
                (
                    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
                    "CREATE TRIGGER a_swallow BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION swallow()"
                ),
                "guard_unexpected",
            ),
            ("CREATE RULE swallow AS ON INSERT TO events DO INSTEAD NOTHING", "guard_unexpected"),
            ("ALTER TABLE events ENABLE ROW LEVEL SECURITY", "guard_unexpected"),
            ("ALTER TABLE events DROP CONSTRAINT events_stream", "guard_missing"),
            ("DROP VIEW tasks_iso; ALTER TABLE tasks DROP COLUMN worker", "schema"),
            ("ALTER TABLE events SET UNLOGGED", "schema"),
            (
                "ALTER TABLE events DISABLE TRIGGER USER; UPDATE events SET position = 99; "
                + "; ".join(
                    f"ALTER TABLE events ENABLE ALWAYS TRIGGER events_{name}"
                    for name in ("only_append", "no_update", "no_delete", "no_truncate")
                ),
                "schema",
            ),
        ],
        ids=lambda text: text[:60],
    )
    async def test_fallen_guards_are_found(self, url: str, statement: str, kind: str) -> None:
        """The check says which."""
        async with opened(url) as store:
            await store.append(ticks("s", 0))
        connection = await connect(PostgresUrl.parse(url))
        await connection.execute(f"BEGIN; {statement}")
        found = {problem.kind for problem in await problems(connection)}
        await connection.execute("ROLLBACK")
        assert ({kind}, []) == (found, await problems(connection))
        connection.terminate()

    async def test_nobody_writes_past_fallen_guards(self, own_url: str) -> None:
        """The ledger is opened by those only who look at it."""
        await sql(own_url, "ALTER TABLE events DISABLE TRIGGER events_no_update")
        with pytest.raises(LedgerCorrupt, match="events_no_update is not always enabled"):
            async with opened(own_url):
                pass
        async with opened(own_url, guarded=False) as store:
            assert ["guard_changed"] == [problem.kind for problem in await store.check()]


class TestPositions:
    async def test_a_smaller_position_is_waited_for(self, url: str) -> None:
        """Nobody sees an event while one before it may still be committed."""
        async with opened(url) as store, opened(url) as reader:
            await store.append(ticks("a", 0))
            slow = await asyncpg.connect(url)
            transaction = slow.transaction()
            await transaction.start()
            columns = "event_id, task_id, version, type, schema_version, recorded_at_ms, actor, fence, data"
            await slow.execute(
                f"INSERT INTO events ({columns}, prev_hash, hash) SELECT 'b/1', 'b', version, type, schema_version, "
                "recorded_at_ms, actor, fence, data, prev_hash, hash FROM events"
            )
            await store.append(ticks("c", 0))
            paging = asyncio.create_task(reader.page(0, 10))
            asking = asyncio.create_task(reader.newest())
            done, _ = await asyncio.wait((paging, asking), timeout=0.2)
            assert done == set()
            await transaction.commit()
            page, newest = await paging, await asking
            assert ([1, 2, 3], 3) == ([recorded.position for recorded in page], newest)
            await slow.close()

    async def test_nothing_is_missed(self, url: str) -> None:
        """Three hosts append, some of it in vain, while somebody reads on from the last position seen."""
        total = 240
        seen: list[Recorded] = []
        async with opened(url) as one, opened(url) as two, opened(url) as three, opened(url) as reader:

            async def write(store: PostgresStore, name: str) -> None:
                for number in range(total // 3):
                    await store.append(ticks(f"{name}{number}", 0))
                    if number % 10 == 0:
                        with suppress(EventInvalid):
                            await store.append(Append(f"{name}!{number}", 0, (tick(f"{name}{number}", 1),)))

            async def read() -> None:
                while len(seen) < total:
                    after = seen[-1].position if seen else 0
                    seen.extend(await reader.page(after, 7))

            await asyncio.gather(write(one, "a"), write(two, "b"), write(three, "c"), read())
            positions = [recorded.position for recorded in seen]
            assert sorted(set(positions)) == positions
            assert positions[-1] > total, "what was refused has left gaps"
            assert tuple(seen) == await reader.page(0, 2 * total)


class Wire:
    """Stands between a store and its server, and can lose an answer."""

    def __init__(self, to: str) -> None:
        self._to = to
        self.loses = b""
        """After a message with these bytes the answer is thrown away, and the connection closed."""
        self.lost = 0

    @asynccontextmanager
    async def at(self, folder: Path) -> AsyncIterator[str]:
        """Listen, and give the URL's host."""
        listener = await asyncio.start_unix_server(self._carry, str(folder / ".s.PGSQL.5432"))
        try:
            yield str(folder)
        finally:
            listener.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._to)
        answers = asyncio.create_task(_pipe(from_server, writer))
        try:
            while message := await reader.read(65536):
                to_server.write(message)
                if self.loses and self.loses in message:
                    self.loses, self.lost = b"", self.lost + 1
                    answers.cancel()
                    await from_server.read(65536)
                    break
        finally:
            answers.cancel()
            to_server.close()
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while message := await reader.read(65536):
        writer.write(message)
    writer.close()


class TestSessions:
    @pytest.mark.parametrize("answer_to", [b"COMMIT", b"BEGIN", b"INSERT INTO events"], ids=str)
    async def test_a_lost_answer(self, url: str, tmp_path: Path, answer_to: bytes) -> None:
        """Whether it was committed or not: the append is done once, and its caller told."""
        rooted(url)
        folder = tmp_path / "w"
        folder.mkdir()
        wire = Wire(parse_qs(urlsplit(url).query)["host"][0] + "/.s.PGSQL.5432")
        async with wire.at(folder) as host, opened(f"{url.partition('?')[0]}?host={host}") as store:
            await store.append(ticks("warm", 0))
            wire.loses = answer_to
            stream = await store.append(replace(submission("t"), payloads=(Payload("p", b"", b""),), key_digest=KEY))
            assert (1, 1) == (wire.lost, len(stream))
        async with opened(url) as store:
            assert (stream, "t") == (await store.read("t"), await store.task_of_key(KEY))

    async def test_a_session_that_was_ended(self, url: str) -> None:
        """An administrator ends every session of ours; the next call makes new ones."""
        async with opened(url) as store:
            await store.append(ticks("s", 0))
            await sql(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database()",
            )
            assert len(await store.append(ticks("s", 1))) == 2 == await store.newest()

    async def test_a_server_that_crashes(self, url: str) -> None:
        """It is killed and started again while appends are under way: all are written, each once."""
        ours = rooted(url)
        async with opened(url) as store:

            async def write(name: str) -> None:
                for number in range(30):
                    await store.append(ticks(name, number))

            writing = [asyncio.create_task(write(f"s{number}")) for number in range(20)]
            await asyncio.sleep(0.05)
            ours.stop()
            ours.start()
            await asyncio.gather(*writing)
            assert [30] * 20 == [len(await store.read(f"s{number}")) for number in range(20)]

    async def test_a_server_that_stays_away(self, url: str) -> None:
        """After the deadline the callers are told that they may try again later; then they can."""
        ours = rooted(url)
        async with opened(url, busy_deadline_s=0.3) as store:
            ours.stop()
            try:
                for asked in (store.append(ticks("s", 0)), store.read("s")):
                    with pytest.raises(LedgerBusy, match="cannot be reached"):
                        await asked
            finally:
                ours.start()
            assert len(await store.append(ticks("s", 0))) == 1

    async def test_a_lock_that_is_held(self, url: str) -> None:
        """Whoever holds the table for long is waited for, then named as what stands in the way."""
        async with opened(url, busy_deadline_s=0.1) as store:
            holder = await asyncpg.connect(url)
            async with holder.transaction():
                await holder.execute("LOCK TABLE events")
                with pytest.raises(LedgerBusy, match="another session holds a lock"):
                    await store.append(ticks("s", 0))
            await holder.close()
            assert len(await store.append(ticks("s", 0))) == 1

    async def test_settings_that_could_lose_events_are_overruled(self, url: str) -> None:
        """What a database says about commits does not count for a ledger's sessions."""
        async with own_database() as spoilt:
            name = urlsplit(spoilt).path[1:]
            await sql(spoilt, f"ALTER DATABASE {name} SET synchronous_commit = off")
            await sql(spoilt, f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
            async with opened(spoilt) as store:
                found = await store.run(lambda driver: driver.fetchrow("SELECT current_setting('synchronous_commit')"))
                assert found[0] == "on"


class TestHosts:
    async def test_rivals_on_one_stream(self, url: str) -> None:
        """Two hosts that append to the same streams: one of each version wins, and nothing else fails."""
        async with opened(url) as one, opened(url) as two:
            won = lost = 0
            for version in range(10):
                rivals = [
                    store.append(Append(f"s{stream}", version, (tick(f"{name}{stream}", version),)))
                    for stream in range(8)
                    for name, store in (("a", one), ("b", two))
                ]
                for outcome in await asyncio.gather(*rivals, return_exceptions=True):
                    won += isinstance(outcome, tuple)
                    lost += isinstance(outcome, VersionConflict)
            assert (80, 80, 80) == (won, lost, len(await one.page(0, 1000)))

    async def test_one_key_wanted_by_two_hosts(self, url: str) -> None:
        """One gets it, the others are told whose it is."""
        async with opened(url) as one, opened(url) as two:
            wanting = [
                store.append(replace(submission(f"{name}{number}"), key_digest=KEY))
                for number in range(5)
                for name, store in (("a", one), ("b", two))
            ]
            outcomes = await asyncio.gather(*wanting, return_exceptions=True)
            owner = await one.task_of_key(KEY)
            told = [outcome.task_id for outcome in outcomes if isinstance(outcome, KeyTaken)]
            assert ([owner] * 9, 1) == (told, len(await one.page(0, 100)))

    async def test_a_limit_holds_across_hosts(self, url: str) -> None:
        """Of ten that start at once on two hosts three may."""
        limit, clock = (Limit("simulated", 3),), Clock()
        async with opened(url, now_ms=clock) as one, opened(url, now_ms=clock) as two:
            starts = [replace(whole(f"t{n}", History(request()).start()), limits=limit) for n in range(10)]
            asked = [store.append(append) for append, store in zip(starts, (one, two) * 5, strict=True)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            refused = [outcome for outcome in outcomes if isinstance(outcome, LimitReached)]
            assert (7, 3) == (len(refused), sum(isinstance(outcome, tuple) for outcome in outcomes))

    async def test_nobody_is_starved(self, url: str) -> None:
        """Two hosts that append as fast as they can get like shares."""
        async with opened(url) as one, opened(url) as two:
            counts = {"a": 0, "b": 0}
            ends = asyncio.get_running_loop().time() + 0.8

            async def write(store: Store, name: str, caller: int) -> None:
                while asyncio.get_running_loop().time() < ends:
                    await store.append(ticks(f"{name}{caller}-{counts[name]}", 0))
                    counts[name] += 1

            hosts = (("a", one), ("b", two))
            await asyncio.gather(*(write(store, name, caller) for caller in range(10) for name, store in hosts))
            assert min(counts.values()) > 0.3 * max(counts.values())

    async def test_times_are_the_servers(self, url: str) -> None:
        """The clock of the machine that appends does not matter."""
        async with opened(url) as store:
            before = await store.now_ms()
            (recorded,) = await store.append(ticks("s", 0))
            assert before <= recorded.recorded_at_ms <= await store.now_ms()


class TestRefusals:
    @pytest.mark.parametrize(
        "append",
        [
            pytest.param(Append("a\0b", 0, (tick("t", 1),)), id="the task's id"),
            pytest.param(Append("t", 0, (replace(tick("t", 1), event_id="\0"),)), id="the event's id"),
            pytest.param(replace(ticks("t", 0), payloads=(Payload("\0", b"", b""),)), id="a slot"),
            pytest.param(submission("t", labels={"team": "\0"}), id="a label"),
        ],
    )
    async def test_a_text_with_nul(self, url: str, append: Append) -> None:
        """The server has no such texts: refused, and the neighbours in the group are written."""
        async with opened(url) as store:
            neighbours = [store.append(ticks(f"s{number}", 0)) for number in range(5)]
            outcomes = await asyncio.gather(store.append(append), *neighbours, return_exceptions=True)
            assert [EventInvalid] == [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
            assert len(await store.page(0, 10)) == 5

    @pytest.mark.parametrize(
        ("code", "error", "words"),
        [
            ("53100", LedgerFull, "the disk of the ledger's server is full"),
            ("25006", LedgerFull, "name the primary server"),
            ("42501", LedgerFull, "its owner grants it"),
            ("57014", LedgerBusy, "cancelled a statement"),
            ("40P01", LedgerBusy, "others are at work"),
            ("58030", LedgerFull, "cannot use its disk"),
            ("XX001", LedgerCorrupt, "found its data damaged"),
            ("0A000", LedgerError, "the ledger cannot be used"),
        ],
    )
    async def test_failures_of_the_server(self, url: str, code: str, error: type[LedgerError], words: str) -> None:
        """Told apart by the server's code, with what may be done; nothing is written."""
        async with opened(url, busy_deadline_s=0.05) as store:
            raises = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END"
            await sql(url, f"CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ {raises} $$")
            await sql(url, "CREATE TRIGGER fails BEFORE INSERT ON keys FOR EACH ROW EXECUTE FUNCTION fails()")
            with pytest.raises(error, match=words) as told:
                await store.append(replace(submission("t"), key_digest=KEY))
            await sql(url, "DROP FUNCTION fails CASCADE")
            assert code in str(told.value)
            assert await store.read("t") == ()

    async def test_a_database_that_may_only_be_read(self, own_url: str) -> None:
        """Reading goes on, writing says what is wrong."""
        await sql(own_url, f"ALTER DATABASE {urlsplit(own_url).path[1:]} SET default_transaction_read_only = on")
        async with opened(own_url) as store:
            assert await store.newest() == 0
            with pytest.raises(LedgerFull, match="may only be read"):
                await store.append(ticks("s", 0))

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda _url: server().of("nowhere"), LedgerMissing, "no such database"),
            (lambda _url: "postgresql://me@/name?host=/nowhere", LedgerBusy, "cannot be reached"),
            (lambda url: url.replace("postgres@", "nobody:s3cret-@"), LedgerError, "does not let this user in"),
            (lambda url: with_option(url, "sslmode=perhaps"), ConfigurationError, "cannot be used"),
            (lambda url: with_option(url, "search_path=nowhere"), LedgerMissing, "CREATE SCHEMA"),
            (lambda url: with_option(url, "no_such_setting=1"), LedgerError, "no_such_setting"),
        ],
        ids=["no database", "no server", "no user", "a wrong option", "no schema", "no setting"],
    )
    async def test_what_cannot_be_opened(
        self, url: str, change: Callable[[str], str], error: type[DispatchError], words: str
    ) -> None:
        """At once, in clear words, and without the password."""
        with pytest.raises(error, match=words) as told:
            await open_store(change(url), create=True, now_ms=Clock())
        assert "s3cret" not in str(told.value)

    async def test_a_standby(self, url: str) -> None:
        """Refused, since positions do not follow commits there."""
        ours = rooted(url)
        assert ours.folder is not None
        signalled = ours.folder / "data" / "standby.signal"
        ours.stop(signal.SIGINT)
        signalled.touch()
        try:
            ours.start()
            with pytest.raises(LedgerFull, match="name the primary server"):
                async with opened(url):
                    pass
        finally:
            ours.stop(signal.SIGINT)
            signalled.unlink()
            ours.start()

    async def test_an_encoding_that_cannot_keep_every_text(self) -> None:
        """Refused before anything is made."""
        await sql(server().url, "CREATE DATABASE ascii_only ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(LedgerError, match="kept in SQL_ASCII"):
                await open_store(server().of("ascii_only"), create=True, now_ms=Clock())
        finally:
            await sql(server().url, "DROP DATABASE ascii_only WITH (FORCE)")

    def test_a_driver_that_is_not_installed(self) -> None:
        """Said with the command that installs it."""
        code = (
            "import asyncio, sys; sys.modules['asyncpg'] = None\n"
            "from ledger.store.opening import open_store\n"
            "asyncio.run(open_store('postgresql://h/d', create=True, now_ms=int))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
        )
        assert "ConfigurationError" in done.stderr
        assert "pip install 'dispatch-ledger[postgres]'" in done.stderr

    def test_nobody_else_loads_the_driver(self) -> None:
        """A ledger in a file costs no import of it."""
        code = "import ledger.cli, ledger.store.opening, sys; sys.exit('asyncpg' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class TestUrls:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("postgresql://host/name", "postgresql://host/name"),
            ("postgresql+asyncpg://me@host:5433/name", "postgresql://me@host:5433/name"),
            ("postgresql://me:s3cret@host/name", "postgresql://me:…@host/name"),
            ("postgresql://me:s3cr%40et@host/name?sslmode=require", "postgresql://me:…@host/name?sslmode=require"),
            ("postgresql:///name?host=/run/pg&user=me", "postgresql:///name?host=/run/pg&user=me"),
            ("postgresql://host/name?user=me&password=s3cret", "postgresql://host/name?user=me&password=…"),
            ("postgresql://host/name?sslPassword=s3cret", "postgresql://host/name?sslPassword=…"),
        ],
    )
    def test_no_password_is_shown(self, text: str, shown: str) -> None:
        place = parse_url(text)
        assert (shown, True) == (str(place), "s3cr" not in repr(place))
        assert isinstance(place, PostgresUrl)
        assert place.hide("they said s3cret and s3cr@et") == "they said s3cret and s3cr@et".replace(
            "s3cr%40et" if "%40" in text else "s3cret" if "s3cret" in text else "\0", "…"
        ).replace("s3cr@et" if "%40" in text else "\0", "…")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("postgresql+psycopg://host/name", "no driver"),
            ("postgresql://me:s3#cret@host/name", "%23"),
            ("postgresql://me:s3@cret@host/name", "%40"),
            ("postgresql://host:s3cret/name", "cannot be understood"),
            ("postgresql://[::1/name", "cannot be understood"),
            ("postgresql://host/%00", "NUL"),
        ],
    )
    def test_what_is_no_url(self, text: str, words: str) -> None:
        """Refused without being repeated: a slip in a URL is often one in its password."""
        with pytest.raises(ConfigurationError, match=words) as refused:
            parse_url(text)
        assert "cret" not in str(refused.value)


def storable(append: Append) -> bool:
    """Say whether the server can keep the texts: it knows no NUL."""
    return "\\u0000" not in "".join(new.event.data().decode() for new in append.events)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    drawn=st.lists(any_appends.filter(storable), max_size=8),
    jumps=st.lists(st.integers(-5, 5), min_size=8, max_size=8),
)
def test_it_does_what_memory_does(drawn: list[Append], jumps: list[int]) -> None:
    """Any appends of any events: the same streams but for gaps in the positions, the same refusals, the same rows."""

    async def compare() -> None:
        clock = Clock()
        memory = MemoryStore(now_ms=clock)
        async with database() as url, opened(url, now_ms=clock) as store:
            for append, jump in zip(drawn, jumps, strict=False):
                clock.now_ms += jump
                known = len(await memory.read(append.task_id))
                likely = append if append.expected_version == 3 else replace(append, expected_version=known)
                assert unplaced(await fate(memory, likely)) == unplaced(await fate(store, likely))
            assert unplaced(await contents(memory)) == unplaced(await contents(store))

    asyncio.run(compare())


def unplaced(found: Any) -> Any:
    """Leave positions out: what was refused by a constraint leaves a gap on a server."""
    if isinstance(found, Recorded):
        return found._replace(position=0)
    return [unplaced(part) for part in found] if isinstance(found, tuple | list) else found


async def test_a_repeated_task_reads_the_same(url: str) -> None:
    """What append returns is what is read: positions too."""
    async with opened(url) as store:
        written = await store.append(task("t"))
        assert written == await store.read("t") == await store.page(0, 100) == await store.append(task("t"))
