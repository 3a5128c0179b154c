"""The work of ``db``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.verify import tell_problems
from ledger.config import load_config, resolve_ledger
from ledger.store.opening import parse_url
from ledger.store.upgrade import upgrade

__all__ = ["check_ledger", "upgrade_ledger"]


def upgrade_ledger(common: Common) -> int:
    """Bring a ledger up to date and return the exit code."""

    async def work() -> int:
        path = parse_url(resolve_ledger(common.ledger, load_config(common.config)))
        done = await asyncio.to_thread(upgrade, path)
        backup = None if done.backup is None else str(done.backup)
        if common.as_json:
            output.document({"from": done.from_revision, "to": done.to_revision, "backup": backup})
        elif backup is None:
            output.write(f"{path} is up to date: schema {done.to_revision}\n")
        else:
            output.write(f"{path}: schema {done.from_revision} became {done.to_revision}; as it was: {backup}\n")
        return DONE

    return perform(work, interrupted="the ledger is as it was before, or up to date, never between the two")


def check_ledger(common: Common) -> int:
    """Check schema and guards and return the exit code."""

    async def work() -> int:
        async with opened(common, create=False, guarded=False) as executor:
            problems = tuple(await (await executor.ledger.store()).check())
        if common.as_json:
            output.document({"ok": not problems, "problems": [asdict(problem) for problem in problems]})
        elif problems:
            tell_problems(problems)
        else:
            output.write("ok: the schema and its guards stand as they were made\n")
        return FOUND if problems else DONE

    return perform(work)
