"""Whether memory stays flat: a hundred thousand dispatches through one executor, the client replaced by nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from benchmarks import calls
from benchmarks.measuring import Plan, Table, folder_in

__all__ = ["measure"]

DISPATCHES: Final = 100_000
LOOKS: Final = 10
IN_FLIGHT: Final = 64
WITHIN_S: Final = 170.0


def measure(plan: Plan) -> str:
    """Return the table."""
    return str(asyncio.run(_table(plan)))


async def _table(plan: Plan) -> Table:
    table = Table(
        "memory, resident after so many dispatches of one process", ("dispatches", "MiB", "MiB since the first")
    )
    step = plan.times(DISPATCHES) // LOOKS or 1
    first, begun = 0.0, time.monotonic()
    with folder_in(plan.folder) as folder:
        async with calls.ledger_alone(folder, IN_FLIGHT) as call:
            for look in range(1, LOOKS + 1):
                await calls.many(call, step, IN_FLIGHT)
                now = _resident_mib()
                first = first or now
                table.rows.append((f"{look * step:,}", f"{now:.1f}", f"{now - first:+.1f}"))
                if time.monotonic() - begun > WITHIN_S:
                    table.notes.append(f"stopped after {WITHIN_S:.0f} s")
                    break
    return table


def _resident_mib() -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    lines = status.read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(kib) / 1024
