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
from ledger.cli.work.standing import state_lines, state_record, texts_until, until
from ledger.cli.work.story import event_lines
from ledger.cli.work.verdict_words import judged_since, since_line
from ledger.cli.work.words import clock, instant, plural
from ledger.envelope import Recorded, Stream
from ledger.events import PayloadErased
from ledger.executor.results import tell
from ledger.executor.transact import state_of
from ledger.parts import Decision
from ledger.store.projection import project_stream
from ledger.store.protocol import Projected, Store
from ledger.system_events import BreakerOpened

__all__ = ["event_record", "gathered", "show_task", "tell_task"]

SHORT: Final = 1_500
INDENT: Final = " " * 20
ERASED: Final = "(erased)"
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
    of: int | None = None
    """The events that there are, where only the first of them are told."""
    judged: tuple[Row, ...] = ()
    """The verdicts on its answer that are tasks of their own."""

    @property
    def task(self) -> Row:
        """Its row of ``tasks``; empty if that is missing."""
        return self.rows.tasks[0] if self.rows.tasks else {}

    def erased(self, slot: str) -> str | None:
        """Return what is shown in place of a text that was erased; None where there was none."""
        events = (recorded.event() for recorded in self.stream if recorded.type == PayloadErased.TYPE)
        return ERASED if any(isinstance(event, PayloadErased) and event.slot == slot for event in events) else None

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return {str(row["key"]): str(row["value"]) for row in self.rows.task_labels}


def show_task(common: Common, part: str, *, full: bool, at: int | None = None) -> int:
    """Tell a task's story, up to one of its versions if that is given, and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            store = await executor.ledger.store()
            found = await gathered(store, await one_task(store, part), at)
        if common.as_json:
            output.document(_document(found))
        else:
            tell_task(found, full=full or not output.is_terminal())
        return DONE

    return perform(work)


async def gathered(store: Store, task_id: str, at: int | None = None) -> Gathered:
    """Read everything of a task; or what there was of it after the event of version ``at``.

    Raises:
        RequestRefused: the task has no such version.
    """
    texts = {payload.slot: payload.content.decode() for payload in await store.payloads(task_id)}
    stream = await store.read(task_id)
    if at is not None:
        known = until(task_id, stream, at)
        brakes = await _brakes(store, known)
        return Gathered(task_id, known, project_stream(known), texts_until(known, texts), brakes, of=len(stream))
    rows, brakes = await store.projected(task_id), await _brakes(store, stream)
    return Gathered(task_id, stream, rows, texts, brakes, judged=await judged_since(store, task_id))


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
        "judged_since": [dict(row) for row in found.judged],
        **({} if found.of is None else {"at": {"version": len(found.stream), "of": found.of, **_state(found)}}),
    }


def _state(found: Gathered) -> dict[str, Any]:
    return {"state": state_record(state_of(found.stream))}


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
        _text(name, found.texts.get(slot, found.erased(slot)), full=full)
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
    if found.of is not None:
        output.write(f"\nwhat the executor knew at version {len(found.stream)} of {found.of}\n")
        for line in state_lines(state_of(found.stream)):
            output.write(output.wrapped(output.visible(line), first="  ", rest="  "))
    if found.judged:
        output.write("\njudged since\n")
        for row in found.judged:
            output.write(output.wrapped(since_line(row), first="  ", rest="    "))
    _text("answer", _answer(found), full=full)


def _answer(found: Gathered) -> str | None:
    """Return the text of the task's answer, if it has one."""
    story = tell(found.task_id, found.stream)
    slot = f"response/{story.answering}" if story is not None else ""
    return found.texts.get(slot, found.erased(slot))


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
