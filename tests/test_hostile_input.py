"""Whatever a text has in it: it comes back exactly, everywhere, or is refused by a typed error with nothing written."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clients.base import ExecutionResult, ModelClient
from ledger import Config, Executor, Ledger
from ledger.audit.exporting import export_lines
from ledger.audit.importing import import_lines
from ledger.cli import main
from ledger.errors import DispatchError
from tests.world import START_MS, World, answer, rows

HOSTILE = (
    "NUL \0 within",
    "a lone \ud800 surrogate",
    "\x1b]0;title\x07\x1b[31mred\x9b2J",
    "\u202eright to left\u2066 and \u200b nothing",
    "'; DROP TABLE events; --",
    '=HYPERLINK("http://x")',
    "+1\t@SUM(A1)\r\n-2",
    "../../../etc/passwd",
    "%_\\ \" ' ` $(id)",
    "\ufeff\ufffe\uffff\U0010ffff",
    "é e\u0301 \u00a0 \u2028 \u2029",
)
anything = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40) | st.sampled_from(HOSTILE)
given_anything = given(prompt=anything, system=anything, said=anything, label=anything, value=anything, key=anything)


@example(*HOSTILE[:6])
@example(*HOSTILE[5:])
@given_anything
@settings(max_examples=6, deadline=None)
def test_any_text_comes_back_or_is_refused(
    prompt: str, system: str, said: str, label: str, value: str, key: str
) -> None:
    """Through a dispatch, its result, an export, an import and the tables of both ledgers."""
    asyncio.run(_there_and_back(prompt, system, said, {label: value}, key))


@pytest.mark.slow
@given_anything
@settings(max_examples=1000, deadline=None)
def test_any_text_of_many_comes_back_or_is_refused(
    prompt: str, system: str, said: str, label: str, value: str, key: str
) -> None:
    """Likewise."""
    asyncio.run(_there_and_back(prompt, system, said, {label: value}, key))


async def _there_and_back(prompt: str, system: str, said: str, labels: dict[str, str], key: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), script=[answer(said)])
        async with world.executor() as executor:
            store = await executor.ledger.store()
            try:
                result = await executor.execute("haiku", prompt, system=system, labels=labels, idempotency_key=key)
            except DispatchError as refused:
                str(refused).encode()  # what is said of it can be shown
                assert (await store.newest(), world.calls) == (0, [])
                return
            texts = {payload.slot: payload.content.decode() for payload in await store.payloads(result.task_id or "")}
            again = await executor.execute("haiku", prompt, system=system, labels=labels, idempotency_key=key)
        assert (prompt, system) == (texts["prompt"], texts["system"])
        # What a provider says is taken as it can be kept: a lone surrogate has no bytes.
        assert said.encode("utf-8", "replace").decode() == result.response == again.response
        assert [(model, prompt) for model, _ in world.calls] == world.calls
        assert 1 == len(world.calls)
        await _moved(world.path, Path(folder))


async def _moved(path: Path, folder: Path) -> None:
    with (folder / "all.jsonl").open("wb") as file:
        await export_lines(str(path), file.write)
    await import_lines(folder / "all.jsonl", str(folder / "copy.db"), now_ms=lambda: START_MS)
    for table in ("events", "payloads", "keys", "tasks", "task_labels", "attempts", "decisions"):
        query = f"SELECT * FROM {table} ORDER BY 1, 2, 3" if table != "keys" else "SELECT * FROM keys"
        assert rows(path, query) == rows(folder / "copy.db", query)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_the_command_line_takes_it_or_refuses_it(
    empty_folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """As prompt, label, key and line of a batch; lists, reports and stories show nothing that a terminal obeys."""
    (empty_folder / "dispatch.toml").write_text('[tiers.haiku]\nprovider = "simulated"\nmodel = "m"\n')
    (empty_folder / "lines.jsonl").write_text(
        json.dumps({"tier": "haiku", "prompt": text, "labels": {"of": text}}) + "\n"
    )
    for words in (
        ["run", "--tier", "haiku", "--label", f"of={text}", "--key", text, "--", text],
        ["batch", "lines.jsonl", "--out", "out.jsonl"],
    ):
        code = main(words)
        said = capsys.readouterr()
        assert code in {0, 2}, said.err
        assert "Traceback" not in said.err
        assert code == 0 or not Path("dispatch.db").exists() or rows(Path("dispatch.db"), "SELECT * FROM tasks") == []
    if code:
        return
    for command in (["tasks"], ["report", "cost", "--by", "label:of"]):
        assert main(command) == 0
        assert not set("\0\x1b\x9b\x07\u202e") & set(capsys.readouterr().out)
    assert main(["report", "cost", "--by", "label:of", "--json"]) == 0
    assert {text} == {row["label:of"] for row in json.loads(capsys.readouterr().out)}
    assert main(["report", "cost", "--by", "label:of", "--format", "csv"]) == 0
    cells = [cell for row in csv.reader(io.StringIO(capsys.readouterr().out)) for cell in row]
    assert [cell for cell in cells if cell[:1] in {"=", "+", "@", "\t", "\r"}] == []
    assert main(["verify"]) == 0


class Echo(ModelClient):
    """Answers with the prompt."""

    async def execute(self, prompt: str, max_tokens: int = 4096, **_options: Any) -> ExecutionResult:
        return ExecutionResult(model="echo", response=prompt, success=True)


async def test_ten_megabytes_come_back(tmp_path: Path) -> None:
    """There and back, and nothing of it stands in an event."""
    text = "ü" * 5_000_000
    async with (
        Ledger.open(tmp_path / "dispatch.db") as ledger,
        Executor(ledger, Config(), build=lambda *_: Echo()) as executor,
    ):
        assert text == (await executor.execute("haiku", text)).response
    assert rows(tmp_path / "dispatch.db", "SELECT max(length(data)) AS most FROM events")[0]["most"] < 1_000_000
    assert b"\xc3\xbc" * 1000 not in b"".join(
        row["data"].encode() for row in rows(tmp_path / "dispatch.db", "SELECT data FROM events")
    )
