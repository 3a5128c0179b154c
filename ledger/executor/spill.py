"""Answers that the ledger would not take: kept in a file beside it until the next start brings them in, once."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ledger import commands as c
from ledger import events as e
from ledger.canonical import digest_of
from ledger.envelope import Payload
from ledger.errors import CommandRefused, EventInvalid, LedgerFull
from ledger.executor.outcomes import Ended
from ledger.executor.transact import Desk, state_of
from ledger.state import Absent
from ledger.upcasting import decode

__all__ = ["Spilled", "bring_in", "places", "read_spilled", "spill"]

SPILL: Final = ".spill"


@dataclass(frozen=True, slots=True)
class Spilled:
    """An outcome that waits in a file."""

    task_id: str
    fence: int
    ended: Ended


def spill(folder: Path, spilled: Spilled) -> Path:
    """Write an outcome down, synced, for our eyes only; where the ledger's disk takes nothing, among temporary files.

    Raises:
        LedgerFull: it can be written nowhere.
    """
    content = _encoded(spilled)
    name = f"{spilled.task_id}.{spilled.ended.outcome.attempt}{SPILL}"
    for place in _places(folder):
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            return _written(place, name, content)
    raise LedgerFull(f"the answer of task {spilled.task_id} could be written nowhere and is lost; its call is recorded")


async def bring_in(desk: Desk, folder: Path) -> int:
    """Record what was spilled, each once whoever else does the same, and remove the files; return how many there were.

    A file that is none of this ledger's, or cannot be read, stays where it is.

    Raises:
        LedgerError: the ledger cannot be used; nothing was removed that it does not hold.
    """
    brought = 0
    for path in _files(folder):
        try:
            spilled = read_spilled(path.read_bytes())
        except (OSError, EventInvalid):
            continue
        stream = await desk.store.read(spilled.task_id)
        state = state_of(stream)
        if isinstance(state, Absent):
            continue
        ended = spilled.ended
        desk.ports.passing("before bring in")
        command = c.Record(ended.outcome, spilled.fence, desk.seen(state.task.submitted.policy), ended.verdict)
        try:
            await desk.transact(spilled.task_id, command, fence=spilled.fence, payloads=ended.payloads, known=stream)
        except CommandRefused:
            continue
        desk.ports.passing("after bring in")
        path.unlink(missing_ok=True)
        brought += 1
    return brought


def read_spilled(content: bytes) -> Spilled:
    """Read a file's content.

    Raises:
        EventInvalid: it is none, or was cut off.
    """
    try:
        document = orjson.loads(content)
        if digest_of(document["outcome"]) != document["digest"]:
            raise EventInvalid("the spilled answer is not as it was written")
        told = document["outcome"]
        outcome, verdict = _event(told["event"]), told["verdict"] and _event(told["verdict"])
        if not isinstance(outcome, e.AttemptSucceeded | e.AttemptFailed):
            raise EventInvalid(f"a spilled {outcome.TYPE} is no outcome")
        if verdict is not None and not isinstance(verdict, e.ValidationPassed | e.ValidationFailed):
            raise EventInvalid(f"a spilled {verdict.TYPE} is no verdict")
        payloads = tuple(
            Payload(slot, bytes.fromhex(salt), bytes.fromhex(text)) for slot, salt, text in told["payloads"]
        )
        return Spilled(told["task_id"], told["fence"], Ended(outcome, verdict, payloads))
    except (ValueError, KeyError, TypeError) as error:
        raise EventInvalid(f"this is no spilled answer: {error}") from error


def _encoded(spilled: Spilled) -> bytes:
    ended = spilled.ended
    told = {
        "task_id": spilled.task_id,
        "fence": spilled.fence,
        "event": _told(ended.outcome),
        "verdict": None if ended.verdict is None else _told(ended.verdict),
        "payloads": [[payload.slot, payload.salt.hex(), payload.content.hex()] for payload in ended.payloads],
    }
    return orjson.dumps({"outcome": told, "digest": digest_of(told)})


def _told(event: e.Event) -> dict[str, str | int]:
    return {"type": event.TYPE, "schema_version": event.SCHEMA_VERSION, "data": event.data().decode()}


def _event(told: dict[str, str]) -> e.Event:
    return decode(told["type"], int(told["schema_version"]), told["data"])


def places(folder: Path) -> tuple[Path, ...]:
    """Return where spilled answers may lie."""
    return _places(folder)


def _places(folder: Path) -> tuple[Path, ...]:
    """Return where spilled answers may lie; the second is for a disk that takes nothing at all."""
    elsewhere = digest_of({"folder": str(folder)})[:16]
    return folder, Path(tempfile.gettempdir()) / f"dispatch-ledger-{elsewhere}"


def _files(folder: Path) -> Iterable[Path]:
    for place in _places(folder):
        if place.is_dir() and place.stat().st_uid == os.getuid():  # the temporary folder is open to everybody
            yield from sorted(place.glob(f"*{SPILL}"))


def _written(folder: Path, name: str, content: bytes) -> Path:
    """Write the file under its name only when all of it is on the disk.

    Raises:
        OSError: it cannot be written there, or the folder is somebody else's, who could take it away.
    """
    made = folder.lstat()
    if not stat.S_ISDIR(made.st_mode) or made.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not our own folder")
    descriptor, unfinished = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path = folder / name
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
    return path
