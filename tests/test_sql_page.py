"""The cookbook where people ask it: PostgreSQL gives the page's answers, and the real Datasette the canned queries."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from ledger.cli import main
from ledger.reports.cookbook import CHARTS, COOKBOOK
from ledger.store.copying import copy_ledger
from tests.pages import DOCS
from tests.postgres_server import database
from tests.sql_page import fill, shown
from tests.world import START_MS, rows


async def test_both_engines_give_the_answers_of_the_page(tmp_path: Path) -> None:
    """Text by text, the ledger of the page copied to a server."""
    page = (DOCS / "sql.md").read_text(encoding="utf-8")
    path = await fill(tmp_path)
    async with database() as url:
        await copy_ledger(str(path), url, now_ms=lambda: START_MS)
        connection = await asyncpg.connect(url)
        try:
            for question in COOKBOOK:
                found = await connection.fetch(question.sql)
                said = shown(list(found[0].keys()), [tuple(row.values()) for row in found])
                assert f"```sql\n{question.sql}\n```\n\n```text\n{said}\n```\n" in page
        finally:
            await connection.close()


@pytest.mark.slow
async def test_datasette_answers_the_canned_queries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Started as the page says: each query gives the rows that SQLite gives, and the dashboard is there."""
    path, metadata = await fill(tmp_path), tmp_path / "metadata.json"
    assert await asyncio.to_thread(main, ["db", "datasette", "--ledger", str(path)]) == 0
    metadata.write_text(capsys.readouterr().out)
    with served(path, metadata) as url:
        for question in COOKBOOK:
            found = json.loads(read(f"{url}/{path.stem}/{question.name}.json?_shape=array"))
            assert rows(path, question.sql) == found
        assert all(title in read(f"{url}/-/dashboards/dispatch-ledger") for title, _ in CHARTS.values())


@contextmanager
def served(path: Path, metadata: Path) -> Iterator[str]:
    """Start the real Datasette on a free port and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "datasette", str(path), "-m", str(metadata), "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as datasette:
        try:
            until = time.monotonic() + 60
            while not is_there(port):
                assert datasette.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            datasette.terminate()


def is_there(port: int) -> bool:
    """Say whether somebody listens."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def read(url: str) -> str:
    """Fetch a page, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return str(answer.read().decode())
