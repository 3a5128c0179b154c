"""A disk that is full or fails at any write or sync: told, nothing half-written, and well again when the disk is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.power_cut.faults import FAULTS
from tests.power_cut.running import compiled, run, scratch

pytestmark = pytest.mark.slow

PROGRAM = "tests.power_cut.faults"


@pytest.fixture
def disk() -> Iterator[Path]:
    """Give a folder in memory, whose files may fail."""
    with scratch() as folder:
        yield folder


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(("full after half a write", "one sync lost"), id="some"),
        pytest.param(tuple(FAULTS), id="all", marks=pytest.mark.slow),
    ],
)
def test_an_append_meets_a_failing_disk(tmp_path: Path, disk: Path, faults: tuple[str, ...]) -> None:
    """At every write and every sync of appends: LedgerFull, all of an append or nothing, and its repetition works.

    A failure that only keeps the log from being folded back is told to nobody: what was promised is there.
    """
    said = run(compiled(tmp_path), PROGRAM, disk, "append", str(disk), *faults)
    counted = {name: (int(hit), int(told)) for name, hit, told in (line.split(",") for line in said.splitlines())}
    assert tuple(counted) == faults
    for name, (hit, told) in counted.items():
        assert hit > (5 if "sync" in name else 100)
        assert hit * 0.7 <= told <= hit


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(("full",), id="some"),
        pytest.param(tuple(FAULTS), id="all", marks=pytest.mark.slow),
    ],
)
def test_no_call_after_a_failed_write(tmp_path: Path, disk: Path, faults: tuple[str, ...]) -> None:
    """At every write and every sync of an execution: no call follows, none is unrecorded, the next program works.

    A failure that has gone by the time the outcome is written again is told to nobody.
    """
    said = run(compiled(tmp_path), PROGRAM, disk, "execute", str(disk), *faults)
    counted = [line.split(",") for line in said.splitlines()]
    assert faults == tuple(name for name, *_ in counted)
    assert all(0 < int(told) <= int(hit) for _, hit, told in counted)
