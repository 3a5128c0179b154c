"""The work of ``show --proof``."""

from __future__ import annotations

from ledger.audit import task_proof
from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import one_task, opened, perform
from ledger.cli.work.words import plural

__all__ = ["prove_task"]


def prove_task(common: Common, part: str) -> int:
    """Write the proof of a task and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False) as executor:
            store = await executor.ledger.store()
            proof = await task_proof(store, await one_task(store, part))
        output.document(proof)
        unsealed = sum(event["anchor"] is None for event in proof["events"])
        if unsealed:
            output.note(f"{plural(unsealed, 'event')} of it no anchor covers yet; `dispatch-ledger anchor` seals them")
        return DONE

    return perform(work)
