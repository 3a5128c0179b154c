"""What is decided on a stream at hand holds only if nobody has added to it since; and the ports' defaults."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ledger import commands as c
from ledger.envelope import Append, NewEvent, Payload, Stream, seal
from ledger.executor.transact import Desk, state_of
from ledger.ports import Ports
from ledger.state import Ready, Running
from ledger.store.memory import MemoryStore
from tests.histories import START_MS, WORKER, History, orphaned, seen, started, succeeded, validation, verdict

TASK = "01990000-0000-7000-8000-000000000002"


def desk() -> Desk:
    """Sit down before an empty ledger."""
    return Desk(MemoryStore(now_ms=lambda: START_MS), Ports(now_ms=lambda: START_MS), WORKER)


async def running(desk: Desk) -> Stream:
    """Submit a task and start its first attempt; return the stream as the append gave it."""
    history = History().start()
    return await desk.store.append(desk.sealed(TASK, 0, history.events, fence=1))


def types(stream: Stream) -> list[str]:
    """Name the events."""
    return [recorded.type for recorded in stream]


async def test_a_decision_on_the_stream_at_hand_reads_nothing() -> None:
    """What an append has returned is enough to decide the next one."""
    own = desk()
    known = await running(own)
    done = await own.transact(TASK, c.Record(succeeded(), 1, seen()), fence=1, known=known)
    assert types(done) == ["task.submitted", "attempt.started", "attempt.succeeded", "task.succeeded"]
    assert done == await own.store.read(TASK)


async def test_what_others_have_added_since_is_read_and_decided_anew() -> None:
    """An attempt that was given up meanwhile is settled late, as if it had been known from the start."""
    own = desk()
    known = await running(own)
    await own.transact(TASK, c.Orphan(orphaned(), seen()), fence=1)
    done = await own.transact(TASK, c.Record(succeeded(), 1, seen()), fence=1, known=known)
    assert types(done)[2:] == ["attempt.orphaned", "retry.scheduled", "attempt.settled", "task.succeeded"]
    assert done == await own.store.read(TASK)


async def test_a_judges_answer_that_comes_late_leaves_no_issues() -> None:
    """Its verdict is no event any more, so nothing would tell of the text that its issues stand in."""
    own = desk()
    history = History(validation()).start()
    known = await own.store.append(own.sealed(TASK, 0, history.events, fence=1))
    await own.transact(TASK, c.Orphan(orphaned(), seen()), fence=1)
    texts = (Payload("response/1", b"s", b"no"), Payload("issues/1", b"s", b'["no"]'))
    late = c.Record(succeeded(), 1, seen(), verdict(passed=False, judge=1))
    done = await own.transact(TASK, late, fence=1, payloads=texts, known=known)
    assert "attempt.settled" in types(done)
    assert [text.slot for text in await own.store.payloads(TASK)] == ["response/1"]


async def test_a_remembered_state_is_that_of_its_stream() -> None:
    """Each stream has its own, however it grew; the same stream read again has the same."""
    own = desk()
    known = await running(own)
    assert isinstance(state_of(known), Running)
    await own.store.append(Append("other", 0, (NewEvent("id-1", History().events[0], WORKER),)))
    assert isinstance(state_of(await own.store.read("other")), Ready)
    assert state_of(known) == state_of(await own.store.read(TASK))


def test_events_of_the_same_bytes_are_the_same() -> None:
    """Decoding is remembered by type, version and bytes, and nothing else."""
    events = tuple(started(attempt) for attempt in (1, 2))
    stored = [
        seal(NewEvent("id", event, WORKER), task_id=TASK, version=1, recorded_at_ms=START_MS, prev_hash=bytes(32))
        for event in (*events, *events)
    ]
    assert (*events, *events) == tuple(recorded.event() for recorded in stored)


def test_salts_are_fresh() -> None:
    """Sixteen bytes each, never the same twice, however many are drawn."""
    salts = [Ports().new_salt() for _ in range(1000)]
    assert {16} == {len(salt) for salt in salts}
    assert len(set(salts)) == 1000


FORK = """
import os
from ledger.ports import Ports
draw = Ports().new_salt
draw()
child = os.fork()
if child and os.waitpid(child, 0)[1]:
    raise SystemExit("the child failed")
print(draw().hex(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_draws_salts_of_its_own() -> None:
    """What the parent has left over is not used twice."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    theirs, ours = done.stdout.split()
    assert theirs != ours


@pytest.mark.parametrize("limit", [pytest.param(0, id="none"), pytest.param(200_000, id="a fifth")])
def test_jitter_stays_within_its_limit(limit: int) -> None:
    """Both ends belong to it."""
    draws = {Ports().draw_ppm(limit) for _ in range(2000)}
    assert -limit <= min(draws) <= max(draws) <= limit
