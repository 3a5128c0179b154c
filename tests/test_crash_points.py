"""Every point of the protocol, a process that dies, stumbles or stands still there, and what its restart records."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ledger import Executor, Ledger
from ledger.audit import verify
from ledger.ports import Ports
from tests.ledgers import fresh_ledger
from tests.mortals import Fault, HastyLoop, Mortal, Witness, configured, dispatching, mortals
from tests.world import rows

ANSWERED: Final = "started succeeded task.succeeded"
ONE: Final = f"task.submitted {ANSWERED}"
TWO: Final = f"task.submitted started orphaned retry.scheduled {ANSWERED}"
FAILED: Final = f"task.submitted started failed retry.scheduled {ANSWERED}"
LATE: Final = f"{TWO} settled"
AHEAD_MS: Final = 120_000
"""How far ahead the clock is of whoever comes while another stands still: its lease is over, and it is silent."""


class Story(NamedTuple):
    """What lies in the ledger in the end, and how many calls there were."""

    events: str
    calls: int


class Row(NamedTuple):
    """A point, and what follows: after a death, after standing still, after a stumble where that is something else."""

    point: str
    dead: Story
    paused: Story
    before: Fault | None = None
    """What befell the process before, so that this one has something to recover."""
    full: bool = False
    stumbled: Story | None = None


AFTER_CALL: Final = Fault("after call", "kill")
SPILLED: Final = Fault(full=True)
ROWS: Final = (
    Row("before start", Story(ONE, 1), Story(ONE, 1)),
    Row("after start", Story(TWO, 1), Story(LATE, 2)),
    Row("before call", Story(TWO, 1), Story(LATE, 2)),
    Row("after send", Story(TWO, 2), Story(LATE, 2), stumbled=Story(FAILED, 2)),
    Row("after headers", Story(TWO, 2), Story(LATE, 2), stumbled=Story(FAILED, 2)),
    Row("after body", Story(TWO, 2), Story(LATE, 2), stumbled=Story(FAILED, 2)),
    Row("after call", Story(TWO, 2), Story(LATE, 2)),
    Row("before outcome", Story(TWO, 2), Story(LATE, 2)),
    Row("after outcome", Story(ONE, 1), Story(ONE, 1)),
    Row("before orphan", Story(TWO, 2), Story(TWO, 2), AFTER_CALL),
    Row("after orphan", Story(TWO, 2), Story(TWO, 2), AFTER_CALL),
    Row("before spill", Story(TWO, 2), Story(LATE, 2), full=True),
    Row("after spill", Story(ONE, 1), Story(ONE, 1), full=True),
    Row("before bring in", Story(ONE, 1), Story(ONE, 1), SPILLED),
    Row("after bring in", Story(ONE, 1), Story(ONE, 1), SPILLED),
)
PAUSED: Final = {"after call", "before orphan", "before bring in"}
"""Where standing still is tried in the usual run."""
STUMBLED: Final = {"after call"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return fresh_ledger(tmp_path)


@pytest.fixture
def witness() -> Iterator[Witness]:
    with Witness() as witness:
        yield witness


def told(path: Path) -> str:
    """Return the ledger's events in short."""
    types = [row["type"].removeprefix("attempt.") for row in rows(path, "SELECT type FROM events ORDER BY position")]
    return " ".join(types)


def restarted(path: Path, url: str, ahead_ms: int = 0) -> str:
    """Come again with the same key; the ledger must hold."""
    now_ms = Ports().now_ms
    ports = Ports(now_ms=lambda: now_ms() + ahead_ms)

    async def come() -> str:
        async with Ledger.open(path, ports=ports) as ledger:
            async with Executor(ledger, configured(url), ports=ports) as executor:
                result = await executor.execute("haiku", "hello", idempotency_key="k")
            assert (await verify(await ledger.store())).problems == ()
        return result.response

    with asyncio.Runner(loop_factory=HastyLoop if ahead_ms else None) as runner:
        return runner.run(come())


def prepared(path: Path, witness: Witness, row: Row) -> None:
    """Let happen what happened before."""
    if row.before is not None:
        before = Mortal(dispatching, path, witness.url, row.before)
        assert before.ended() == (-9 if row.before.how == "kill" else 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.point)
def test_a_process_is_killed_there(path: Path, witness: Witness, row: Row) -> None:
    """With ``kill -9``: whoever comes next finds what was recorded, and goes on with exactly these events."""
    prepared(path, witness, row)
    killed = Mortal(dispatching, path, witness.url, Fault(row.point, "kill", full=row.full))
    assert killed.ended() == -9
    assert restarted(path, witness.url) == "answer to hello"
    assert Story(told(path), len(witness.log)) == row.dead
    assert [file.name for file in path.parent.glob("*-workers/*")] == []


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if row.point in STUMBLED else [pytest.mark.slow], id=row.point) for row in ROWS],
)
def test_a_process_stumbles_there(path: Path, witness: Witness, row: Row) -> None:
    """An error that nobody expected ends it in good order; what was not recorded is an orphan all the same."""
    prepared(path, witness, row)
    stumbled = Mortal(dispatching, path, witness.url, Fault(row.point, "raise", full=row.full))
    assert stumbled.said() in {"RuntimeError", "answer to hello"}
    assert stumbled.ended() == 0
    assert restarted(path, witness.url) == "answer to hello"
    assert Story(told(path), len(witness.log)) == (row.stumbled or row.dead)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[] if row.point in PAUSED else [pytest.mark.slow], id=row.point) for row in ROWS],
)
def test_a_process_stands_still_there(path: Path, witness: Witness, row: Row) -> None:
    """Past its lease: somebody else goes on, and what it does when it wakes harms nothing and is not lost."""
    prepared(path, witness, row)
    with mortals() as living:
        still = Mortal(dispatching, path, witness.url, Fault(row.point, "pause", full=row.full))
        living.append(still)
        assert still.said() == row.point
        assert restarted(path, witness.url, AHEAD_MS) == "answer to hello"
        still.pipe.send("go on")
        assert still.said() in {"answer to hello", "LedgerFull"}
        assert still.ended() == 0
    assert restarted(path, witness.url, AHEAD_MS) == "answer to hello"
    assert Story(told(path), len(witness.log)) == row.paused
    assert [file.name for file in path.parent.glob("*-workers/*.spill")] == []
