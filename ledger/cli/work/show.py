"""The work of ``show``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.advice import next_step
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.story import event_lines
from ledger.cli.work.words import clock, instant, plural
from ledger.envelope import Recorded, Stream
from ledger.executor.results import tell
from ledger.parts import Decision
from ledger.store.protocol import Projected, Store
from ledger.system_events import BreakerOpened

__all__ = ["event_record", "gathered", "show_task", "tell_task"]

SHORT: Final = 1_500
INDENT: Final = " " * 20
TEXTS: Final = (("system", "system"), ("prompt", "prompt"), ("output", "judged output"))

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that the ledger holds of a task."""

    task_id: str
    stream: Stream
    rows: Projected
    texts: Mapping[str, str]
    brakes: tuple[Recorded, ...] = ()
    """The openings of breakers that its decisions saw, in their order."""

    @property
    def task(self) -> Row:
        """Its row of ``tasks``; empty if that is missing."""
        return self.rows.tasks[0] if self.rows.tasks else {}

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return {str(row["key"]): str(row["value"]) for row in self.rows.task_labels}


def show_task(common: Common, part: str, *, full: bool) -> int:
    """Tell a task's story and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            store = await executor.ledger.store()
            found = await gathered(store, await one_task(store, part))
        if common.as_json:
            output.document(_document(found))
        else:
            tell_task(found, full=full or not output.is_terminal())
        return DONE

    return perform(work)


async def gathered(store: Store, task_id: str) -> Gathered:
    """Read everything of a task."""
    texts = {payload.slot: payload.content.decode() for payload in await store.payloads(task_id)}
    stream = await store.read(task_id)
    return Gathered(task_id, stream, await store.projected(task_id), texts, await _brakes(store, stream))


async def _brakes(store: Store, stream: Stream) -> tuple[Recorded, ...]:
    positions: set[int] = set()
    for recorded in stream:
        event = recorded.event()
        if isinstance(event, Decision):
            positions |= {seen.position for seen in event.inputs.brakes}
    found = [recorded for position in sorted(positions) for recorded in await store.page(position - 1, 1)]
    return tuple(one for one in found if one.type == BreakerOpened.TYPE and one.position in positions)


def _document(found: Gathered) -> dict[str, Any]:
    return {
        "task": {**found.task, "labels": found.labels},
        "events": [event_record(recorded) for recorded in found.stream],
        "attempts": [dict(row) for row in found.rows.attempts],
        "decisions": [dict(row) for row in found.rows.decisions],
        "validations": [dict(row) for row in found.rows.validations],
        "texts": dict(found.texts),
        "brakes": [event_record(recorded) for recorded in found.brakes],
    }


def event_record(recorded: Recorded) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return {
        "task_id": recorded.task_id,
        "version": recorded.version,
        "position": recorded.position,
        "event_id": recorded.event_id,
        "type": recorded.type,
        "schema_version": recorded.schema_version,
        "recorded_at_ms": recorded.recorded_at_ms,
        "actor": recorded.actor,
        "fence": recorded.fence,
        "data": json.loads(recorded.data),
        "hash": recorded.hash.hex(),
        "prev_hash": recorded.prev_hash.hex(),
    }


def tell_task(found: Gathered, *, full: bool) -> None:
    """Tell a task's story for people: its texts, then every event in order."""
    _head(found)
    for slot, name in TEXTS:
        _text(name, found.texts.get(slot), full=full)
    output.write("\n")
    brakes = [(recorded.position, recorded.event()) for recorded in found.brakes]
    openings = {position: event for position, event in brakes if isinstance(event, BreakerOpened)}
    for recorded in found.stream:
        first, *others = event_lines(recorded.event(), found.texts, openings)
        version = f"v{recorded.version}"
        head = f"  {version:<4} {clock(recorded.recorded_at_ms)} "
        output.write(output.wrapped(output.visible(first), first=head, rest=INDENT))
        for line in others:
            output.write(output.wrapped(output.visible(line), first=INDENT, rest=INDENT))
    _text("answer", _answer(found), full=full)


def _answer(found: Gathered) -> str | None:
    """Return the text of the task's answer, if it has one."""
    story = tell(found.task_id, found.stream)
    return None if story is None else found.texts.get(f"response/{story.answering}")


def _head(found: Gathered) -> None:
    task = found.task
    if not task:
        output.write("this stream has no row in `tasks`; `dispatch-ledger verify` says what is wrong\n")
        return
    state = task["state"] if task["waiting_for"] is None else f"{task['state']} for {task['waiting_for']}"
    if task["error_type"]:
        state = f"{state}: {task['error_type']}"
    tiers = " → ".join(dict.fromkeys(tier for tier in (task["tier_requested"], task["tier_final"]) if tier))
    cost = output.money(task["cost_known_nano_usd"], task["cost_unknown_attempts"])
    head = f"task {task['task_id']} {state} · {tiers} · {plural(task['attempts'], 'attempt')} · {cost}"
    output.write(output.wrapped(head, rest="  "))
    ended = "" if task["ended_at_ms"] is None else f", ended {instant(task['ended_at_ms'])}"
    output.write(output.wrapped(f"made {instant(task['created_at_ms'])}{ended} (UTC)", rest="  "))
    for name, value in (
        ("labels", ", ".join(f"{key}={text}" for key, text in found.labels.items())),
        ("key", task["idempotency_key"]),
        ("judges", task["judged_task_id"]),
        ("replay of", task["replay_of"]),
    ):
        if value:
            output.write(f"{name} {output.visible(str(value))}\n")
    if task["waiting_for"] == "person":
        output.write(output.wrapped(next_step(task["task_id"], "waiting", None)))


def _text(name: str, text: str | None, *, full: bool) -> None:
    if text is None:
        return
    output.write(f"\n{name}\n")
    shown = text if full else output.shortened(text, SHORT)
    output.write("".join(f"  {line}\n" for line in output.visible(shown).split("\n")))
