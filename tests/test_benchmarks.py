"""Each benchmark runs at a tiny size and prints its table; the figures are nobody's concern here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks.measuring import Table, figure, percentile
from benchmarks.slow_disk import NoCompiler, shim
from tests.conftest import need_program

ROOT: Final = Path(__file__).parent.parent


def run(folder: Path, name: str, **environment: str) -> str:
    """Run a benchmark as a user would, as small as it gets."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--scale", "0.01", "--folder", str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param("append", ("1 dispatches", "500 dispatches", "1 small", "one raw commit an event"), id="append"),
        pytest.param("postgres", ("1 dispatches", "500 small", "one raw commit an event"), id="postgres"),
        pytest.param("dispatch", ("32 bare SDK, httpx", "128 ledger, httpx", "1 ledger, no client"), id="dispatch"),
        pytest.param("memory", ("10", "MiB"), id="memory"),
        pytest.param("profiles", ("SQLite", "the executor"), id="profiles"),
        pytest.param(
            "report", ("view tier_latency", "view tier_cost", "report latency --by day,tier,model"), id="report"
        ),
        pytest.param("verify", ("hashes and links alone", "everything, as a command"), id="verify"),
        pytest.param("start", ("dispatch-ledger --help", 'python -c "import anthropic"'), id="start"),
    ],
)
def test_a_benchmark_prints_its_table(tmp_path: Path, name: str, rows: tuple[str, ...]) -> None:
    """The conditions come first, then every row; nothing is left in the folder."""
    told = run(tmp_path, name)
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "cores" in lines[0]
    assert [row for row in rows if not any(line.startswith(row) or row in line for line in lines)] == []


@pytest.mark.slow
def test_slower_disks_are_skipped_by_name_without_a_compiler(tmp_path: Path) -> None:
    """Only this disk is measured, and the reason stands beside it."""
    told = run(tmp_path, "append", PATH=str(tmp_path.parent))
    assert told.count("us CPU/event") == 1
    assert "append on slower disks: skipped, no C compiler (cc, gcc or clang) on PATH" in told


@pytest.mark.slow
def test_peers_that_cannot_be_installed_are_skipped_by_name(tmp_path: Path) -> None:
    """Without an index the bare SDK and this project are left."""
    cache = tmp_path.with_name(f"{tmp_path.name}-cache")
    told = run(tmp_path, "peers", XDG_CACHE_HOME=str(cache), PIP_NO_INDEX="1")
    lines = told.splitlines()
    assert [line for line in lines if line.startswith(("bare SDK ", "dispatch-ledger "))] != []
    skipped = [line.partition(":")[0] for line in lines if ": skipped, not installed: " in line]
    assert skipped == ["LiteLLM Router, callback", "pydantic-ai agent", "DBOS workflow"]


@pytest.mark.slow
def test_a_kill_is_compared_with_peers_that_can_be_installed(tmp_path: Path) -> None:
    """This project makes the calls that are left, and one more for the one that was broken off."""
    cache = tmp_path.with_name(f"{tmp_path.name}-cache")
    told = run(tmp_path, "crash", XDG_CACHE_HOME=str(cache), PIP_NO_INDEX="1")
    lines = [" ".join(line.split()) for line in told.splitlines()]
    ours = [line.split(" ", 2)[2] for line in lines if line.startswith("dispatch-ledger ")]
    assert ours == ["after call 3 5 2 attempts 5, events 17", "during call 3 6 3 attempts 6, events 20"]
    assert [line for line in lines if line.startswith("DBOS: skipped, not installed: ")] != []


@pytest.mark.slow
@pytest.mark.gemini_cli
def test_the_real_gemini_cli_is_measured(tmp_path: Path) -> None:
    """A process a call and one kept warm stand in the table."""
    need_program("gemini")
    told = run(tmp_path, "gemini")
    assert "a process a call, through the ledger" in told
    assert "kept warm, through the ledger" in told


def test_no_gemini_cli_is_said(tmp_path: Path) -> None:
    """The benchmark is skipped by name."""
    assert "gemini: skipped, the Gemini CLI is not on PATH" in run(tmp_path, "gemini", PATH=str(tmp_path.parent))


def test_the_shim_makes_an_fsync_slower(tmp_path: Path) -> None:
    """What is preloaded waits after the real call."""
    try:
        library = shim(tmp_path)
    except NoCompiler as lacking:
        pytest.skip(str(lacking))
    code = "import os, time; b = time.monotonic(); os.fsync(os.open('f', os.O_CREAT)); print(time.monotonic() - b)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": str(library), "FSYNC_DELAY_US": "200000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) >= 0.2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param(0.1234, "0.123", id="below one"),
        pytest.param(2.345, "2.35", id="below ten"),
        pytest.param(45.67, "45.7", id="below a hundred"),
        pytest.param(12345.6, "12,346", id="thousands"),
    ],
)
def test_a_figure_has_three_digits(value: float, shown: str) -> None:
    """More would be noise."""
    assert shown == figure(value)


def test_a_percentile_is_a_value_that_occurred() -> None:
    """It is the nearest rank."""
    assert [1, 2, 4] == [percentile([4, 1, 3, 2], percent) for percent in (1, 50, 99)]


def test_a_table_is_aligned() -> None:
    """Texts stand left, figures right."""
    table = Table("title", ("of", "ms"), [("a", "1"), ("bcd", "100")], ["a note"])
    assert str(table).splitlines() == ["title", "of    ms", "---  ---", "a      1", "bcd  100", "a note"]
