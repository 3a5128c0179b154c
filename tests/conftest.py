"""What holds for every test: loopback only, nobody's keys, and a skip that CI does not accept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.network import LoopbackOnly, forget_settings

NETWORK: Final = LoopbackOnly()


def pytest_configure() -> None:
    """Close the network and clean the environment before the first import of a test.

    A run that was started in the background ignores Ctrl-C, and so would every program that a test interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    forget_settings()
    NETWORK.install()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let tests of the real Gemini CLI pass by where it is missing, except in CI."""
    if item.get_closest_marker("gemini_cli"):
        need_program("gemini")


def need_program(name: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails in CI, where everything is there."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not on PATH"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _loopback_only() -> Iterator[None]:
    """Fail the test that dialled out, whatever the code made of the refusal."""
    NETWORK.refused.clear()
    yield
    assert NETWORK.refused == [], "tests stay on loopback"


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that no configuration is found and no ledger is left behind."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate of localhost, with its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += f" -addext subjectAltName=DNS:localhost -keyout {path} -out {path}.crt"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path
