"""Importing an exported ledger into an empty one: checked while it is read, all of it or nothing.

Events keep their positions, gaps included. Projections and keys are made from the events, so that a file cannot say
one thing in them and another in its events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from ledger.audit.lines import End, Header, LineInvalid, Text, numbered, opened, read_line
from ledger.audit.texts import digests_of, key_digest, payload_problems
from ledger.audit.told import told
from ledger.canonical import salted_digest
from ledger.envelope import FIRST_PREV_HASH, Payload, Recorded, Stream
from ledger.errors import EventInvalid, RequestRefused
from ledger.events import PayloadErased
from ledger.store import tables as t
from ledger.store.copying import End as Side
from ledger.store.copying import open_end, refuse_content, streams
from ledger.store.opening import open_store, parse_url
from ledger.store.projection import project_stream
from ledger.store.protocol import Problem

__all__ = ["Imported", "import_lines"]

EVENTS_AT_ONCE: Final = 1000
TEXT_BYTES_AT_ONCE: Final = 8 << 20
HEADS_MAX: Final = 10_000
KEYS: Final = "keys"


@dataclass(frozen=True, slots=True)
class Imported:
    """What was imported."""

    events: int
    tasks: int
    texts: int
    newest: int
    """The position of the newest event."""


async def import_lines(
    file: Path, target: str, *, now_ms: Callable[[], int], progress: Callable[[int], object] | None = None
) -> Imported:
    """Import what ``export_lines`` wrote into a ledger that is new or empty.

    Args:
        file: the export.
        target: the name of a ledger; it is made if there is none.
        now_ms: the clock that the ledger is opened with.
        progress: called with the number of events read so far.

    Raises:
        RequestRefused: a line is not as it was written; the message has its number, and nothing was kept.
        LedgerError: the ledger is not empty, or cannot be written.
    """
    place = parse_url(target)
    made = [place] if isinstance(place, Path) and not place.exists() else []
    try:
        with opened(file) as source:
            await (await open_store(target, create=True, now_ms=now_ms)).aclose()
            async with open_end(place, writes=True) as side:
                await refuse_content(side, place)
                reading = _Reading(file, source, side)
                await reading.read(progress)
                return await reading.concluded()
    except BaseException:
        for path in (path.with_name(f"{path.name}{end}") for path in made for end in ("", "-wal", "-shm")):
            path.unlink(missing_ok=True)
        raise


@dataclass(slots=True)
class _Reading:
    """One import: what was read and is not yet written, and what the next line is compared with."""

    file: Path
    source: BinaryIO
    side: Side
    header: Header | None = None
    last: Recorded | None = None
    wanted: dict[str, str] = field(default_factory=dict)
    """The digests of the last event, by slot, whose texts may follow it."""
    heads: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """The newest versions and hashes of some streams, the last used at the end."""
    events: list[Recorded] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    held: int = 0
    """The bytes of ``texts``."""
    counts: dict[str, int] = field(default_factory=lambda: {"events": 0, "texts": 0, "tasks": 0})

    async def read(self, progress: Callable[[int], object] | None) -> None:
        """Take in every line up to the end."""
        so_far = hashlib.sha256()
        for number, line in numbered(self.file, self.source):
            try:
                found = read_line(line)
                if isinstance(found, End):
                    self._refuse_end(found, so_far.hexdigest())
                    break
                await self._take(found)
            except LineInvalid as invalid:
                raise self._refused(number, str(invalid)) from invalid
            so_far.update(line)
            if progress is not None and isinstance(found, Recorded):
                progress(self.counts["events"])
        else:
            raise RequestRefused(f"{self.file} has no end: it was cut off; nothing was kept", field="file")
        await self._flush()

    async def _take(self, found: Header | Recorded | Text) -> None:
        match found:
            case Header():
                await self._begin(found)
            case _ if self.header is None:
                raise LineInvalid("stands before the header")
            case Recorded():
                await self._take_event(found)
            case Text():
                await self._take_text(found)
        if len(self.heads) > HEADS_MAX:
            del self.heads[next(iter(self.heads))]
        if len(self.events) >= EVENTS_AT_ONCE or self.held >= TEXT_BYTES_AT_ONCE:
            await self._flush()

    async def _begin(self, header: Header) -> None:
        if self.header is not None:
            raise LineInvalid("is a second header")
        if header.after or not header.texts:
            what = f"only events after position {header.after}" if header.after else "no texts"
            raise LineInvalid(f"says that {what} were exported; only a whole export can be imported")
        if set(header.salts) != {KEYS}:
            raise LineInvalid(f"has the salts {', '.join(sorted(header.salts)) or 'of nothing'}, expected {KEYS}")
        self.header = header
        await self.side.clear_salts()
        await self.side.put(t.salts, list(header.salts.items()))

    async def _take_event(self, recorded: Recorded) -> None:
        if recorded.position <= (self.last.position if self.last else 0):
            raise LineInvalid(f"has position {recorded.position}, which does not follow the one before")
        try:
            self.wanted = dict(digests_of(recorded.event()))
        except EventInvalid as error:
            raise LineInvalid(f"has an event that cannot be read: {error}") from error
        if (recorded.version - 1, recorded.prev_hash) != await self._head(recorded):
            raise LineInvalid(f"has version {recorded.version} of a task, which does not follow the one before")
        self.heads[recorded.task_id] = recorded.version, recorded.hash
        self.last = recorded
        self.events.append(recorded)
        self.counts["events"] += 1

    async def _head(self, recorded: Recorded) -> tuple[int, bytes]:
        """Return version and hash of the event before in its stream."""
        known = self.heads.pop(recorded.task_id, None)
        if known is not None or recorded.version <= 1:
            return known or (0, FIRST_PREV_HASH)
        await self._flush()
        found = await self.side.page(t.events, ["task_id", "version"], [recorded.task_id, recorded.version - 2], 1)
        before = [Recorded(*row) for row in found if row[2] == recorded.task_id]
        return (before[0].version, before[0].hash) if before else (0, FIRST_PREV_HASH)

    async def _take_text(self, text: Text) -> None:
        payload = text.payload
        digest = self.wanted.pop(payload.slot, None) if self.last and self.last.task_id == text.task_id else None
        if digest is None:
            raise LineInvalid(f"has a text {payload.slot} that the event before it does not know")
        if salted_digest(payload.salt, payload.content) != digest:
            raise LineInvalid(f"has a text {payload.slot} that is not the one its digest was made of")
        self.counts["texts"] += 1
        if self.last is not None and self.last.type == "attempt.settled":  # which may say a digest again
            await self._flush()
            if await self.side.texts([(text.task_id, payload.slot)]):
                return
        self.texts.append(text)
        self.held += len(payload.content)

    async def _flush(self) -> None:
        rows = [tuple(getattr(recorded, column.name) for column in t.events.c) for recorded in self.events]
        texts = [(text.task_id, text.payload.slot, text.payload.salt, text.payload.content) for text in self.texts]
        self.events, self.texts, self.held = [], [], 0
        if rows:
            await self.side.put(t.events, rows)
        if texts:
            await self.side.put(t.payloads, texts)

    def _refuse_end(self, end: End, digest: str) -> None:
        if self.header is None:
            raise LineInvalid("stands before the header")
        if (end.events, end.texts) != (self.counts["events"], self.counts["texts"]):
            raise LineInvalid(
                f"says {end.events} events and {end.texts} texts, and there are others; lines are missing"
            )
        if end.sha256 != digest:
            raise LineInvalid("has another SHA-256 than the lines before it; something was changed")
        if self.source.read(1):
            raise LineInvalid("is the end, and more follows")

    async def concluded(self) -> Imported:
        """Check each stream, and make its projections and key; what is wrong is told by the line of its event."""
        salt = self.header.salts[KEYS] if self.header else b""
        async for stream in streams(self.side):
            payloads = [Payload(*row[1:]) for row in await self.side.texts(_places(stream))]
            for problem in payload_problems(stream, told(stream), payloads):
                raise self._refused(self._line_of(problem), f"has {problem.kind} that is wrong: {problem.detail}")
            await self._project(stream, payloads, salt)
        newest = self.last.position if self.last else 0
        return Imported(self.counts["events"], self.counts["tasks"], self.counts["texts"], newest)

    async def _project(self, stream: Stream, payloads: list[Payload], salt: bytes) -> None:
        projected = project_stream(stream)
        self.counts["tasks"] += len(projected.tasks)
        for table in t.PROJECTIONS:
            rows = [tuple(row[column.name] for column in table.c) for row in getattr(projected, table.name)]
            if rows:
                await self.side.put(table, rows)
        digest = key_digest(told(stream[:1]), payloads, salt)
        if digest is not None and all(recorded.type != PayloadErased.TYPE for recorded in stream):
            await self.side.put(t.keys, [(digest, stream[0].task_id)])

    def _line_of(self, problem: Problem) -> int:
        """Return the number of the line that a finding is about."""
        self.source.seek(0)
        place = problem.task_id, problem.version or 1
        for number, line in numbered(self.file, self.source):
            found = read_line(line)
            if isinstance(found, Recorded) and (found.task_id, found.version) == place:
                return number
        return 0

    def _refused(self, number: int, what: str) -> RequestRefused:
        return RequestRefused(f"{self.file}, line {number}: {what}; nothing was kept", field="file")


def _places(stream: Stream) -> list[tuple[str, str]]:
    return sorted({(recorded.task_id, slot) for recorded in stream for slot, _ in digests_of(recorded.event())})
