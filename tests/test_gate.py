"""Many are in flight together, or one alone, in the order in which they came."""

from __future__ import annotations

import asyncio

import pytest

from ledger.executor.gate import Gate


class Flights:
    """What is in flight, each until it is told to land."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.now: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._landed: dict[str, asyncio.Event] = {}

    async def fly(self, name: str) -> None:
        """Ask to be let in; a name in capitals asks to be alone."""
        self._landed[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._fly(name))
        await turns()

    async def _fly(self, name: str) -> None:
        async with self.gate.passed(alone=name.isupper()):
            self.now.append(name)
            try:
                await self._landed[name].wait()
            finally:
                self.now.remove(name)

    async def land(self, name: str) -> None:
        """End a flight."""
        self._landed[name].set()
        await turns()

    async def cancel(self, *names: str) -> None:
        """Cancel all of them in one turn."""
        for name in names:
            self.tasks[name].cancel()
        await turns()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_runs_alone_runs_alone() -> None:
    """It waits for those before it, and those after it wait, though they could fly beside the first."""
    flights = Flights()
    for name in ("a", "b", "X", "c", "d", "Y"):
        await flights.fly(name)
    assert flights.now == ["a", "b"]
    await flights.land("a")
    assert flights.now == ["b"]
    await flights.land("b")
    assert flights.now == ["X"]
    await flights.land("X")
    assert flights.now == ["c", "d"]
    await flights.land("d")
    await flights.land("c")
    assert flights.now == ["Y"]
    await flights.land("Y")
    await flights.fly("e")
    assert flights.now == ["e"]


@pytest.mark.parametrize(
    ("cancelled", "then"),
    [
        pytest.param(["X"], ["a", "b", "c"], id="one that waited to be alone"),
        pytest.param(["b"], ["a"], id="one behind it"),
        pytest.param(["a"], ["X"], id="the one before it"),
        pytest.param(["a", "X"], ["b", "c"], id="both in one turn"),
        pytest.param(["X", "a"], ["b", "c"], id="both, the other way round"),
        pytest.param(["a", "X", "b"], ["c"], id="all but the last"),
    ],
)
async def test_who_is_cancelled_holds_nobody_up(cancelled: list[str], then: list[str]) -> None:
    """Waiting, in flight, or let in at that very instant."""
    flights = Flights()
    for name in ("a", "X", "b", "c"):
        await flights.fly(name)
    await flights.cancel(*cancelled)
    assert flights.now == then


async def test_let_in_and_cancelled_at_one_instant() -> None:
    """The place is given on."""
    flights = Flights()
    for name in ("a", "X", "b"):
        await flights.fly(name)
    flights._landed["a"].set()  # noqa: SLF001 - the test's own class
    await asyncio.sleep(0)
    await flights.cancel("X")
    assert flights.now == ["b"]


async def test_an_error_leaves_the_gate_open() -> None:
    """Whatever ends the block."""
    gate = Gate()
    for alone in (True, False):
        with pytest.raises(ValueError, match="x"):
            async with gate.passed(alone=alone):
                raise ValueError("x")
    async with asyncio.timeout(1), gate.passed(alone=True):
        pass
