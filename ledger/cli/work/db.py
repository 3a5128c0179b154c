"""The work of ``db``."""

from __future__ import annotations

from dataclasses import asdict

from ledger.audit import verify
from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import opened, perform
from ledger.cli.work.verify import tell_problems, tell_report
from ledger.config import load_config, resolve_ledger
from ledger.ports import Ports
from ledger.store.copying import copy_ledger
from ledger.store.opening import open_store, parse_url, upgrade_store

__all__ = ["check_ledger", "copy_to", "upgrade_ledger"]


def upgrade_ledger(common: Common) -> int:
    """Bring a ledger up to date and return the exit code."""

    async def work() -> int:
        url = resolve_ledger(common.ledger, load_config(common.config))
        place = parse_url(url)
        done = await upgrade_store(url)
        backup = None if done.backup is None else str(done.backup)
        if common.as_json:
            output.document({"from": done.from_revision, "to": done.to_revision, "backup": backup})
        elif done.from_revision == done.to_revision:
            output.write(f"{place} is up to date: schema {done.to_revision}\n")
        else:
            kept = f"as it was: {backup}" if backup else "no copy of it as it was: on a server, pg_dump makes one"
            output.write(f"{place}: schema {done.from_revision} became {done.to_revision}; {kept}\n")
        return DONE

    return perform(work, interrupted="the ledger is as it was before, or up to date, never between the two")


def copy_to(common: Common, source: str, target: str) -> int:
    """Copy a ledger, verify the copy and return the exit code."""

    async def work() -> int:
        places = [resolve_ledger(name) for name in (source, target)]
        now_ms = Ports().now_ms
        copied = await copy_ledger(*places, now_ms=now_ms)
        store = await open_store(places[1], create=False, now_ms=now_ms)
        try:
            report = await verify(store)
        finally:
            await store.aclose()
        if common.as_json:
            output.document({**asdict(copied), "verify": asdict(report)})
        else:
            output.write(
                f"{parse_url(places[1])}: {copied.events:,} events of {copied.tasks:,} tasks and {copied.texts:,} "
                f"texts, up to position {copied.newest:,}, as they are in {parse_url(places[0])}\n"
            )
            tell_report(report)
        return DONE if report.ok else FOUND

    return perform(work, interrupted="the ledger that was to be copied into is empty, or holds the whole copy")


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
            output.write("ok: schema, guards, views and indexes stand as they were made; projections are `verify`'s\n")
        return FOUND if problems else DONE

    return perform(work)
