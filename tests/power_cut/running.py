"""Start a program with the shim before it, in memory where there is room, and lay out what a cut has left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.conftest import need_program

__all__ = ["compiled", "laid_out", "run", "scratch"]

HERE: Final = Path(__file__).parent
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own below it
TIMEOUT_S: Final = 120


def compiled(folder: Path) -> Path:
    """Compile the shim; without a compiler, or where none can be preloaded, the test is skipped."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD with glibc is Linux's")
    compiler, shim = need_program("cc"), folder / "shim.so"
    made = [compiler, "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c"), "-ldl", "-lpthread"]
    done = subprocess.run(made, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return shim


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that lives in memory where that can be had, and is gone afterwards."""
    with TemporaryDirectory(prefix="power-cut-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


def run(shim: Path, module: str, folder: Path, *arguments: str, log: Path | None = None) -> str:
    """Run a module of the tests to its end, below the shim; return what it said.

    Args:
        shim: the compiled shim.
        module: what to run.
        folder: whose files are logged, or fail.
        arguments: of the program.
        log: where its calls are written.
    """
    if log is not None:
        log.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        cwd=HERE.parent.parent,
        env={**os.environ, "LD_PRELOAD": str(shim), "SHIM_FOLDER": str(folder), "SHIM_LOG": str(log or os.devnull)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr), done.stdout
    return done.stdout


@contextmanager
def laid_out(files: Mapping[str, bytes], folder: Path) -> Iterator[Path]:
    """Put the files into a new folder, without the folders that they were in."""
    folder.mkdir()
    try:
        for path, content in files.items():
            (folder / Path(path).name).write_bytes(content)
        yield folder
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
