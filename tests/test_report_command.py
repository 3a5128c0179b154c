"""``report`` as people, programs and spreadsheets get it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ledger import Ledger
from ledger.cli.work.report_csv import cell
from ledger.cli.work.report_table import usd
from ledger.parts import UsageRow
from ledger.ports import Ports
from tests.command_line import CommandLine
from tests.contracts.appends import Clock, whole
from tests.histories import History, request, step
from tests.ledgers import fresh_ledger
from tests.reported import HOSTILE, write
from tests.test_terminal import NARROW, WIDE, shown

HEAVY = {"anthropic", "genai_prices", "alembic", "rich", "ledger.executor.api"}
REPORTS = ("cost", "latency", "reliability", "routing", "validation")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ledger with everything in it."""
    path = fresh_ledger(tmp_path_factory.mktemp("command"))
    clock = Clock()

    async def fill() -> None:
        async with Ledger.open(path, ports=Ports(now_ms=clock)) as ledger:
            await write(await ledger.store(), clock, 30)

    asyncio.run(fill())
    return path


@pytest.fixture
def cli(written: Path, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """A working folder with a copy of that ledger."""
    shutil.copy(written, empty_folder / "dispatch.db")
    return CommandLine(capsys)


@pytest.mark.parametrize("name", REPORTS)
def test_one_report_in_three_forms(cli: CommandLine, name: str) -> None:
    """JSON is a bare array, CSV has the same figures under the same names, the table ends in a total."""
    document, table, sheet = (cli("report", name, "--format", form) for form in ("json", "table", "csv"))
    assert [0, 0, 0] == [document.code, table.code, sheet.code]
    assert cli("report", name, "--json").json == document.json
    rows = list(csv.reader(io.StringIO(sheet.out, newline="")))
    assert list(document.json[0]) == rows[0]
    assert [[cell(value) for value in row.values()] for row in document.json] == rows[1:]
    assert any(line.startswith("total ") for line in table.out.splitlines())


def test_a_hostile_label_comes_through(cli: CommandLine) -> None:
    """Commas, quotes, line breaks and formulas are a label's own business; a spreadsheet gets no formula."""
    rows = cli("report", "cost", "--by", "label:team", "--json").json
    assert HOSTILE in [row["label:team"] for row in rows]
    sheet = cli("report", "cost", "--by", "label:team", "--format", "csv").out
    assert f"'{HOSTILE}" in [row[0] for row in csv.reader(io.StringIO(sheet, newline=""))]
    assert "\r" not in cli("report", "cost", "--by", "label:team").out


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(-5, "-5", id="a number"),
        pytest.param(None, "", id="unknown"),
        pytest.param("-5", "'-5", id="a text that looks like one"),
        pytest.param("=A1", "'=A1", id="a formula"),
        pytest.param("@x", "'@x", id="at"),
        pytest.param("\tx", "'\tx", id="a tab"),
        pytest.param("a=b", "a=b", id="a sign inside"),
        pytest.param({"timeout": 2, "other": 1}, "timeout=2;other=1", id="counts by kind"),
    ],
)
def test_a_cell_of_a_spreadsheet(value: object, expected: str) -> None:
    """What could be a formula is a text."""
    assert expected == cell(value)


@pytest.mark.parametrize(
    ("nano_usd", "expected"),
    [(0, "0.00"), (1, "0.000000001"), (1_500_000_000, "1.50"), (-20_000_000, "-0.02"), (10**15, "1,000,000.00")],
)
def test_money_is_shown_exactly(nano_usd: int, expected: str) -> None:
    """In USD, with no digit lost and two decimals at the least."""
    assert expected == usd(nano_usd)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["cost", "--by", "colour"], "no report is made by 'colour'", id="no group"),
        pytest.param(["cost", "--by", '"tier'], "is no list of groups", id="a quote without an end"),
        pytest.param(["cost", "--since", "soon"], "is no time", id="no time"),
        pytest.param(["cost", "--json", "--format", "csv"], "exclude each other", id="two forms"),
        pytest.param(["cost", "--as-charged", "--against", "opus"], "give one of them", id="two prices"),
        pytest.param(["cost", "--prices", "f00"], "no price book of this ledger begins with 'f00'", id="no such book"),
    ],
)
def test_what_cannot_be_told_is_refused(cli: CommandLine, argv: Sequence[str], said: str) -> None:
    """A wrong request is exit 2, and says what would have been right."""
    ended = cli("report", *argv)
    assert 2 == ended.code
    assert said in ended.err


def test_groups_may_be_given_in_several_ways(cli: CommandLine) -> None:
    """Lists and repetitions add up, and a label's name may have a comma."""
    (first, *_) = cli("report", "cost", "--by", "tier,day", "--by", 'day,"label:a,b"', "--json").json
    assert ["tier", "day", "label:a,b", "attempts"] == list(first)[:4]


def test_times_are_bounds(cli: CommandLine) -> None:
    """--since is within, --until is not, and nothing between them is an empty report that says so."""
    days = [row["day"] for row in cli("report", "cost", "--by", "day", "--json").json]
    bounded = cli("report", "cost", "--by", "day", "--since", days[1], "--until", days[-1], "--json").json
    assert days[1:-1] == [row["day"] for row in bounded]
    nothing = cli("report", "latency", "--until", "2001-01-01")
    assert (0, "no answers before 2001-01-01 00:00:00\n") == (nothing.code, nothing.out)


async def one_answer(path: Path) -> None:
    """Write a task that a model with a price answered: 1,000 tokens in, 100 out, charged nothing yet."""
    row = UsageRow(
        model=None,
        input_uncached_tokens=1_000,
        cache_read_tokens=0,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        output_tokens=100,
        reasoning_tokens=0,
        service_tier=None,
        inference_geo=None,
    )
    history = History(request(route=(step("haiku", provider="anthropic", model="claude-haiku-4-5-20251001"),)))
    history.start().succeed(usage=(row,), usage_source="provider", cost_nano_usd=1_400_000)
    async with Ledger.open(path) as ledger:
        await (await ledger.store()).append(whole("priced", history))


def test_costs_under_other_prices(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--prices counts the recorded tokens again, --as-of at an instant's prices, --against at another tier's."""
    asyncio.run(one_answer(fresh_ledger(empty_folder).rename(empty_folder / "dispatch.db")))
    cli = CommandLine(capsys)
    (now,) = cli("report", "cost", "--json").json
    (current,) = cli("report", "cost", "--json", "--prices", "current").json
    (earlier,) = cli("report", "cost", "--json", "--as-of", "2026-01-01").json
    assert [1_400_000, 1_500_000, 1_500_000] == [row["cost_nano_usd"] for row in (now, current, earlier)]
    assert 1_500_000 == current["cost_per_accepted_nano_usd"]
    (against,) = cli("report", "cost", "--json", "--against", "opus").json
    assert [1, 1_400_000] == [against[name] for name in ("compared_attempts", "compared_cost_nano_usd")]
    assert against["saved_nano_usd"] == against["against_nano_usd"] - 1_400_000 > 0
    assert "An estimate over 1 attempt" in cli("report", "cost", "--against", "opus").out


@pytest.mark.parametrize("name", REPORTS)
def test_an_empty_ledger(name: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence, an empty array, and a line of names."""
    fresh_ledger(empty_folder).rename(empty_folder / "dispatch.db")
    cli = CommandLine(capsys)
    assert cli("report", name).out.startswith("no ")
    assert [] == cli("report", name, "--json").json
    assert 1 == cli("report", name, "--format", "csv").out.count("\r\n")


def test_a_missing_ledger(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made by asking."""
    assert 3 == CommandLine(capsys)("report", "cost").code
    assert [] == list(empty_folder.iterdir())


@pytest.mark.usefixtures("cli")
def test_bars_on_a_terminal() -> None:
    """The largest has the longest bar, also on a narrow terminal, whose forty columns are kept to."""
    narrow = shown({**NARROW, "NO_COLOR": "1"}, "report", "latency")
    assert 40 >= max(len(line) for line in narrow.splitlines())
    assert "█" * 12 in narrow


@pytest.mark.slow
@pytest.mark.usefixtures("cli")
def test_bars_in_ascii() -> None:
    """Where the encoding has no blocks there are number signs."""
    plain = {**WIDE, "NO_COLOR": "1", "COLUMNS": "160", "PYTHONIOENCODING": "ascii"}
    lines = shown(plain, "report", "cost")
    assert "#" * 12 in lines
    assert "\\u" not in lines


@pytest.mark.usefixtures("cli")
def test_a_report_loads_no_client() -> None:
    """Reports read: neither a provider's SDK nor the executor is loaded, and prices only when they are asked for."""
    code = (
        f"import sys; from ledger.cli import main; heavy = {HEAVY}; main(['report', 'cost', '--json']);"
        "sys.stderr.write(' '.join(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "" == done.stderr
    assert isinstance(json.loads(done.stdout), list)
