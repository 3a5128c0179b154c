"""Nothing that a test does may leave this machine: what dials elsewhere is refused, and the test fails."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

__all__ = ["ForeignAddress", "LoopbackOnly", "forget_settings", "is_foreign"]

DIALS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
LOOKUPS: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})

SETTING: Final = re.compile(
    r"(?!DISPATCH_LEDGER_TEST_)(ANTHROPIC|CLAUDE|GEMINI|GOOGLE|DISPATCH)_\w+|\w+_BASE_URL|\w*(API_KEY|AUTH_TOKEN)|\w+_PROXY",
    re.IGNORECASE,
)
"""The variables of a developer's machine that could send a test somewhere, pay for it, or change what it sees."""


class ForeignAddress(RuntimeError):
    """A test tried to reach an address outside this machine."""


class LoopbackOnly:
    """An audit hook that refuses every connection and look-up beyond loopback, and remembers it.

    A client that turns the refusal into a failed attempt would hide it, hence the memory: ``refused`` must be empty
    after each test. An audit hook cannot be taken out again; it covers this process, not its children.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []

    def install(self) -> None:
        """Watch this process from now on."""
        sys.addaudithook(self._watch)

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        if event in DIALS:
            address = args[1]
        elif event in LOOKUPS:
            address = (args[0],)
        else:
            return
        if is_foreign(address, lookup=event in LOOKUPS):
            self.refused.append(f"{event} {address!r}")
            raise ForeignAddress(f"tests stay on loopback; refused: {event} {address!r}")


def is_foreign(address: object, *, lookup: bool = False) -> bool:
    """Tell whether a socket's address lies outside this machine; to look an IP address up leaves nothing."""
    if not isinstance(address, tuple):
        return False  # a path of a Unix socket, or no address at all
    host = address[0]
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name is None or name in {"", "localhost"}:
        return False
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return True
    return not (lookup or ip.is_loopback or ip.is_unspecified)


def forget_settings(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove every key, base URL, proxy and setting of ours from an environment."""
    for name in [name for name in environ if SETTING.fullmatch(name)]:
        del environ[name]
