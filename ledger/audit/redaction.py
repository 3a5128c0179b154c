"""Erasing the texts of tasks: out of `payloads` and `keys` in the transaction that says so, and out of spilled files.

Erased are all texts of a task: prompt, system, answers, judged output, issues, providers' messages, subject, a batch's
default key and the fingerprint, each with its salt, so that no digest can be confirmed any more. The events stay,
and with them every figure.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.canonical import salted_digest
from ledger.concealment import conceal
from ledger.envelope import Append, NewEvent
from ledger.errors import LedgerError, RequestRefused, VersionConflict
from ledger.events import PayloadErased
from ledger.ports import Ports
from ledger.store.protocol import Store, TaskQuery
from ledger.store.snapshots import Askable, Snapshot

__all__ = [
    "REASON_CHARACTERS_MAX",
    "Chosen",
    "chosen",
    "erase",
    "erase_files",
    "labelled",
    "open_tasks",
    "refuse_reason",
]

REASON_CHARACTERS_MAX: Final = 500
PAGE: Final = 500
SPILL: Final = "*.spill"
ENDED: Final = ("succeeded", "failed", "cancelled")
LINKS: Final = (
    "SELECT task_id FROM tasks WHERE replay_of = :of OR judged_task_id = :of",
    "SELECT replay_of FROM tasks WHERE task_id = :of AND replay_of IS NOT NULL",
    "SELECT judged_task_id FROM tasks WHERE task_id = :of AND judged_task_id IS NOT NULL",
)
"""Replays and judgements hold the texts of the task that they name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Tasks whose texts are to be erased, and those that hold the same texts."""

    task_ids: tuple[str, ...]
    linked: tuple[str, ...]
    """Their replays, judgements and originals, and those of these, in the order in which they were found."""


async def labelled(store: Store, labels: Mapping[str, str]) -> list[str]:
    """Return the tasks that have all these labels, `subject` among them."""
    found: list[str] = []
    after: tuple[int, str] | None = None
    while page := await store.tasks(TaskQuery(labels=labels, limit=PAGE, after=after)):
        found += [row["task_id"] for row in page]
        after = page[-1]["created_at_ms"], page[-1]["task_id"]
    return found


async def chosen(store: Store, task_ids: Iterable[str]) -> Chosen:
    """Find all that hold the texts of these tasks, along every link in both directions.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    named = tuple(dict.fromkeys(task_ids))

    async def follow(snapshot: Snapshot) -> tuple[str, ...]:
        known, open_ends = set(named), list(named)
        linked: list[str] = []
        while open_ends:
            wanted = [{"of": task_id} for task_id in open_ends]
            answers = [rows for link in LINKS for rows in await snapshot.each(link, wanted)]
            open_ends = [one for one in dict.fromkeys(row[0] for rows in answers for row in rows) if one not in known]
            known.update(open_ends)
            linked += open_ends
        return tuple(linked)

    if not isinstance(store, Askable):
        raise LedgerError("this store cannot be asked for the links between tasks; use a ledger in a file or a server")
    return Chosen(named, await store.snapshot(follow))


async def open_tasks(store: Store, task_ids: Sequence[str]) -> list[str]:
    """Return those of the tasks that have not ended: what runs would need its texts, and bring new ones."""
    return [task_id for task_id in task_ids if not _has_ended(await _row(store, task_id))]


async def _row(store: Store, task_id: str) -> Mapping[str, Any]:
    rows = (await store.projected(task_id)).tasks
    return rows[0] if rows else {}


def _has_ended(row: Mapping[str, Any]) -> bool:
    return row.get("state") in ENDED


async def erase(store: Store, ports: Ports, task_id: str, reason: str) -> tuple[str, ...]:
    """Erase all texts of an ended task, and say so, in one transaction; return their slots, () if there are none.

    Raises:
        RequestRefused: the task has not ended, or the reason cannot be kept; nothing was written.
        LedgerError: the ledger cannot be used.
    """
    refuse_reason(reason)
    reason = conceal(reason)
    while True:
        stream = await store.read(task_id)
        if not _has_ended(await _row(store, task_id)):
            raise RequestRefused(f"task {task_id} has not ended; `dispatch-ledger cancel` ends it", field="task")
        texts = await store.payloads(task_id)
        if not texts:
            return ()
        gone = [
            PayloadErased(slot=text.slot, digest=salted_digest(text.salt, text.content), reason=reason)
            for text in texts
        ]
        new = tuple(NewEvent(ports.new_id(), event, "person") for event in gone)
        try:
            await store.append(Append(task_id, len(stream), new))
        except VersionConflict:
            continue  # a late outcome came between; its text goes as well
        return tuple(event.slot for event in gone)


def refuse_reason(reason: str) -> None:
    """Refuse what cannot stand in an event as a reason.

    Raises:
        RequestRefused: it is empty, too long, or no plain text.
    """
    if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX or not reason.isprintable():
        raise RequestRefused(
            f"--reason is kept in the ledger for ever: write 1 to {REASON_CHARACTERS_MAX} printable characters, "
            "and no name in it",
            field="reason",
        )


async def erase_files(
    folders: Iterable[Path], task_ids: Sequence[str], bring_in: Callable[[], Awaitable[object]]
) -> tuple[Path, ...]:
    """Take spilled answers in, so that their money is kept, and remove what still holds texts of these tasks.

    Args:
        folders: where answers may lie that the ledger did not take.
        task_ids: the tasks.
        bring_in: records what was spilled.

    Raises:
        LedgerError: the ledger cannot be used.
    """
    places = [folder for folder in folders if folder.is_dir()]
    if not any(_of(task_ids, path) for folder in places for path in _candidates(folder)):
        return ()
    await bring_in()
    left = [path for folder in places for path in _candidates(folder) if _of(task_ids, path)]
    for path in left:
        _removed(path)
    return tuple(left)


def _candidates(folder: Path) -> list[Path]:
    """Return spilled answers, and what was left of some whose writer died before they had their name."""
    return [path for pattern in (SPILL, ".*") for path in sorted(folder.glob(pattern)) if path.is_file()]


def _of(task_ids: Sequence[str], path: Path) -> bool:
    if path.name.split(".", 1)[0] in task_ids:
        return True
    if not path.name.startswith("."):
        return False
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        return any(task_id.encode() in content for task_id in task_ids)
    return False


def _removed(path: Path) -> None:
    """Overwrite a file, then remove it; a file system that writes elsewhere keeps the old bytes until it needs room."""
    with contextlib.suppress(FileNotFoundError):
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
