"""The work of ``replay --check``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.words import plural
from ledger.events import TaskSubmitted
from ledger.replay.derivation import Difference, difference
from ledger.replay.selection import Selection, selected
from ledger.store.protocol import Store

__all__ = ["check_tasks"]

KEPT_MAX: Final = 1000
SHOWN_MAX: Final = 20
NOTHING: Final = "(nothing)"


def check_tasks(common: Common, parts: Sequence[str], selection: Selection | None) -> int:
    """Derive tasks' histories again and return the exit code."""

    async def work() -> int:
        found: list[tuple[str, Difference]] = []
        tasks = events = different = 0
        async with opened(common, create=False, guarded=False) as executor:
            store = await executor.ledger.store()
            async for task_id in _chosen(store, parts, selection):
                stream = await store.read(task_id)
                if not stream or stream[0].type != TaskSubmitted.TYPE:
                    continue
                tasks, events = tasks + 1, events + len(stream)
                parted = difference(stream)
                if parted is not None:
                    different += 1
                    found += [(task_id, parted)][: KEPT_MAX - len(found)]
        if common.as_json:
            told = [_document(task_id, parted) for task_id, parted in found]
            output.document({"ok": not different, "tasks": tasks, "events": events, "differences": told})
        else:
            _tell(found, tasks, events, different)
        return FOUND if different else DONE

    return perform(work)


async def _chosen(store: Store, parts: Sequence[str], selection: Selection | None) -> AsyncIterator[str]:
    if selection is None:
        for task_id in dict.fromkeys([await one_task(store, part) for part in parts]):
            yield task_id
        return
    async for row in selected(store, selection):
        yield row["task_id"]


def _document(task_id: str, parted: Difference) -> dict[str, Any]:
    fields = [{"field": name, "recorded": before, "derived": now} for name, before, now in parted.fields]
    types = {"version": parted.version, "recorded": parted.recorded, "derived": parted.derived}
    return {"task_id": task_id, **types, "fields": fields, "why": parted.why}


def _tell(found: Sequence[tuple[str, Difference]], tasks: int, events: int, different: int) -> None:
    for task_id, parted in found[:SHOWN_MAX]:
        recorded, derived = parted.recorded or NOTHING, parted.derived or NOTHING
        types = f"{recorded} stands there, {derived} is derived" if recorded != derived else f"{recorded} is another"
        why = f": {output.visible(parted.why)}" if parted.why else ""
        output.write(f"task {task_id}, version {parted.version}: {types}{why}\n")
        for name, before, now in parted.fields:
            output.write(output.visible(f"  {name}: {before!r} is recorded, {now!r} is derived") + "\n")
    if different > SHOWN_MAX:
        output.write(f"… and {different - SHOWN_MAX:,} more; --json has up to {KEPT_MAX:,}\n")
    looked = f"{plural(events, 'event')} of {plural(tasks, 'task')}"
    if different:
        output.write(f"{plural(different, 'task')} would go another way today ({looked})\n")
    else:
        output.write(f"ok: {looked}; today's rules derive every history again, byte for byte\n")
