"""The guard around the tests: what it lets through, what it refuses, what it takes out of the environment."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import pytest

from tests.conftest import NETWORK
from tests.network import ForeignAddress, forget_settings, is_foreign


@pytest.mark.parametrize(
    ("address", "foreign"),
    [
        pytest.param(("127.0.0.1", 80), False, id="loopback"),
        pytest.param(("127.8.9.1", 80), False, id="anywhere in 127/8"),
        pytest.param(("::1", 80, 0, 0), False, id="loopback of IPv6"),
        pytest.param(("localhost", 80), False, id="localhost"),
        pytest.param((b"localhost", 80), False, id="localhost as bytes"),
        pytest.param(("0.0.0.0", 80), False, id="unspecified means this host"),  # noqa: S104 - nothing is bound
        pytest.param("/run/some.socket", False, id="a Unix socket"),
        pytest.param(("192.0.2.1", 443), True, id="another host"),
        pytest.param(("10.0.0.1", 443), True, id="a private network"),
        pytest.param(("2001:db8::1", 443, 0, 0), True, id="another host of IPv6"),
        pytest.param(("model.example", 443), True, id="a name"),
    ],
)
def test_only_this_machine_is_not_foreign(address: Any, foreign: bool) -> None:  # noqa: FBT001 - a table's column
    """An address is foreign unless it surely is this machine's."""
    assert foreign == is_foreign(address)


def test_dialling_out_is_refused_and_remembered() -> None:
    """A connection to another host fails before a packet leaves, and would fail its test."""
    with socket.socket() as dialler, pytest.raises(ForeignAddress, match=re.escape("192.0.2.1")):
        dialler.connect(("192.0.2.1", 443))
    assert NETWORK.refused == ["socket.connect ('192.0.2.1', 443)"]
    NETWORK.refused.clear()


def test_looking_up_a_name_is_refused_and_remembered() -> None:
    """The name of another host is not even asked for."""
    with pytest.raises(ForeignAddress, match=re.escape("model.example")):
        socket.getaddrinfo("model.example", 443)
    assert NETWORK.refused == ["socket.getaddrinfo ('model.example',)"]
    NETWORK.refused.clear()


def test_loopback_can_be_dialled() -> None:
    """Servers of the tests' own are reached as usual."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as caller:
        assert server.getsockname() == caller.getpeername()


def test_settings_of_the_machine_are_forgotten() -> None:
    """Keys, base URLs, proxies and our own variables go; the rest of the environment stays."""
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "u",
        "GEMINI_API_KEY": "k",
        "GEMINI_CLI_HOME": "h",
        "GOOGLE_API_KEY": "k",
        "GOOGLE_GEMINI_BASE_URL": "u",
        "DISPATCH_LEDGER_URL": "l",
        "OTHER_BASE_URL": "u",
        "https_proxy": "p",
        "NO_PROXY": "p",
        "PATH": "stays",
        "HOME": "stays",
    }
    forget_settings(environ)
    assert environ == {"PATH": "stays", "HOME": "stays"}


def test_no_test_sees_a_setting() -> None:
    """The environment was cleaned before this test."""
    before = dict(os.environ)
    forget_settings(before)
    assert before == dict(os.environ)
