"""The work of ``db datasette``."""

from __future__ import annotations

from ledger.cli import output
from ledger.cli.exits import DONE
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.config import load_config, resolve_ledger
from ledger.errors import UsageError
from ledger.reports.cookbook import datasette_metadata
from ledger.store.opening import parse_url
from ledger.store.postgres_url import PostgresUrl

__all__ = ["write_metadata"]


def write_metadata(common: Common) -> int:
    """Write metadata for the ledger's file and return the exit code."""

    async def work() -> int:
        place = parse_url(resolve_ledger(common.ledger, load_config(common.config)))
        if isinstance(place, PostgresUrl):
            raise UsageError(f"Datasette reads files, and the ledger is a database on a server: {place}")
        output.document(datasette_metadata(place.stem))
        return DONE

    return perform(work)
