"""The work of ``redact``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ledger import Executor
from ledger.audit.redaction import Chosen, chosen, erase, erase_files, labelled, open_tasks, refuse_reason
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.words import plural
from ledger.errors import RequestRefused
from ledger.executor.spill import bring_in, places
from ledger.executor.transact import Desk
from ledger.ports import Ports
from ledger.store.opening import parse_url
from ledger.store.scrubbing import scrub

__all__ = ["Wanted", "redact_tasks"]

SHOWN: Final = 20
INTERRUPTED: Final = "what was erased stays erased; the same command again does the rest"
NOBODY: Final = "no task has this label: look whether it is written as it was given; an erased task has no subject"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    parts: tuple[str, ...]
    labels: Mapping[str, str]
    reason: str
    linked: bool
    vacuum: bool
    sure: bool


@dataclass(slots=True)
class Done:
    """What was erased."""

    erased: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By task, the slots of its texts."""
    already: list[str] = field(default_factory=list)
    files: tuple[Path, ...] = ()


def redact_tasks(common: Common, wanted: Wanted) -> int:
    """Erase the texts of tasks and return the exit code."""
    found = Chosen((), ())

    async def look() -> int:
        nonlocal found
        refuse_reason(wanted.reason)
        async with opened(common, create=False) as executor:
            found = await _found(executor, wanted)
        return DONE

    code = perform(look)
    if code != DONE:
        return code
    if not wanted.sure and sys.stdin.isatty() and output.is_terminal(sys.stderr):
        _tell_plan(found, wanted)
        click.confirm("Erase their texts for good?", abort=True, err=True)
    return perform(partial(_redact, common, wanted, found), interrupted=INTERRUPTED)


async def _found(executor: Executor, wanted: Wanted) -> Chosen:
    """Find the tasks, and refuse all of them while one has not ended."""
    store = await executor.ledger.store()
    named = [await one_task(store, part) for part in wanted.parts]
    if wanted.labels:
        named += await labelled(store, wanted.labels)
    found = await chosen(store, named)
    unended = await open_tasks(store, _to_erase(found, wanted))
    if unended:
        raise RequestRefused(
            f"{plural(len(unended), 'task')} not ended, so nothing was erased: {_listed(unended)}; wait for them, or "
            "`dispatch-ledger cancel` them first",
            field="task",
        )
    return found


def _to_erase(found: Chosen, wanted: Wanted) -> list[str]:
    return [*found.task_ids, *(found.linked if wanted.linked else ())]


async def _redact(common: Common, wanted: Wanted, found: Chosen) -> int:
    ids, done, ports = _to_erase(found, wanted), Done(), Ports()
    async with opened(common, create=False) as executor:
        url, store = executor.ledger.url, await executor.ledger.store()
        folder = (await executor.ledger.nearby()).spills
        if folder is not None:
            take = partial(bring_in, Desk(store, ports, "person"), folder)
            done.files = await erase_files(places(folder), ids, take)
        for task_id in ids:
            slots = await erase(store, ports, task_id, wanted.reason)
            if slots:
                done.erased[task_id] = slots
            else:
                done.already.append(task_id)
    scrubbed = await scrub(url, vacuum=wanted.vacuum)
    left = () if wanted.linked else found.linked
    copies = _copies(url)
    remark = scrubbed.remark or (None if ids else NOBODY)
    if common.as_json:
        output.document(_document(done, left, copies, complete=scrubbed.done, remark=remark))
    else:
        _tell(done, left, copies, remark)
    return DONE if scrubbed.done else FOUND


def _document(
    done: Done, left: tuple[str, ...], copies: list[str], *, complete: bool, remark: str | None
) -> dict[str, Any]:
    return {
        "erased": [{"task_id": task_id, "slots": list(slots)} for task_id, slots in done.erased.items()],
        "already": done.already,
        "linked_left": list(left),
        "files_removed": [str(path) for path in done.files],
        "copies_not_reached": copies,
        "complete": complete,
        "remark": remark,
    }


def _tell(done: Done, left: tuple[str, ...], copies: list[str], remark: str | None) -> None:
    texts = sum(len(slots) for slots in done.erased.values())
    output.write(f"erased {plural(texts, 'text')} of {plural(len(done.erased), 'task')}\n")
    if done.already:
        output.note(f"{plural(len(done.already), 'task')} had no text left")
    if left:
        output.note(f"the same texts stay in tasks linked to these: {_listed(left)}")
    for path in done.files:
        output.note(f"removed {path}: an answer that the ledger had not taken")
    if copies:
        output.note(f"copies made before still hold the texts: {', '.join(copies)}; so do exports and other backups")
    if remark:
        output.note(remark)


def _tell_plan(found: Chosen, wanted: Wanted) -> None:
    output.note(f"{plural(len(found.task_ids), 'task')} named: {_listed(found.task_ids)}")
    if found.linked:
        what = "erased with them" if wanted.linked else "NOT erased (--only)"
        output.note(f"{plural(len(found.linked), 'task')} with the same texts, {what}: {_listed(found.linked)}")


def _listed(task_ids: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(task_ids) - SHOWN:,} more" if len(task_ids) > SHOWN else ""
    return f"{', '.join(task_ids[:SHOWN])}{more}" or "none"


def _copies(url: str) -> list[str]:
    """Return the copies that upgrades and backups left beside the ledger."""
    place = parse_url(url)
    if not isinstance(place, Path):
        return []
    return [str(path) for path in sorted(place.parent.glob(f"{place.name}.*backup*")) if path.is_file()]
