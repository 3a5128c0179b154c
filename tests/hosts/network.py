"""Hosts on one machine: network namespaces of Linux, with virtual cables between them that can be pulled.

No namespace has a name. Each lasts as long as a descriptor of this process or a process within it, and takes its cables
along, so nothing is left behind, whatever ends the test. The switches stand in a namespace of their own: this machine's
network is not touched.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final, Self

__all__ = ["Host", "Network", "NoHosts"]

CLONE_NEWNET: Final = 0x40000000
OURS: Final = "/proc/thread-self/ns/net"
COMMAND_S: Final = 10.0


class NoHosts(Exception):
    """This machine makes no namespaces for us; the message says what failed."""


@dataclass(frozen=True)
class Namespace:
    """A network of its own."""

    descriptor: int

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Whatever this thread starts within the block is started there."""
        before = os.open(OURS, os.O_RDONLY)
        try:
            _call("setns", self.descriptor, CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)

    @property
    def path(self) -> str:
        """As ``ip`` names it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"


@dataclass(frozen=True)
class Host:
    """A machine, by its addresses: one for each net that it is plugged into."""

    name: str
    addresses: Mapping[str, str]
    space: Namespace


class Network:
    """Nets, each a switch with hosts plugged into it, as long as the block lasts.

    Args:
        nets: their names, of at most five letters.
    """

    def __init__(self, *nets: str) -> None:
        self._nets = nets
        self._stack = ExitStack()
        self._hosts: list[Host] = []

    def __enter__(self) -> Self:
        """Make the switches.

        Raises:
            NoHosts: namespaces, switches or cables cannot be made here.
        """
        with ExitStack() as stack:
            self._switch = _namespace(stack)
            for net in self._nets:
                self._ip(self._switch, f"link add {net} type bridge", f"link set {net} up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def host(self, name: str, *nets: str) -> Host:
        """Make a host with a cable to each of these nets.

        Args:
            name: of at most eight letters.
            nets: all of them by default.
        """
        number = len(self._hosts) + 1
        space = _namespace(self._stack)
        nets = nets or self._nets
        addresses = {net: f"10.77.{self._nets.index(net)}.{number}" for net in nets}
        self._ip(space, "link set lo up")
        for net, address in addresses.items():
            cable = f"{name}-{net}"
            self._ip(
                self._switch,
                f"link add {cable} type veth peer name {net} netns {space.path}",
                f"link set {cable} master {net} up",
            )
            self._ip(space, f"address add {address}/24 dev {net}", f"link set {net} up")
        host = Host(name, addresses, space)
        self._hosts.append(host)
        return host

    def cut(self, host: Host, *nets: str) -> None:
        """Pull a host's cables at the switch: packets vanish, and nobody is told."""
        for net in nets or host.addresses:
            self._ip(self._switch, f"link set {host.name}-{net} nomaster")

    def heal(self, host: Host, *nets: str) -> None:
        """Plug them in again."""
        for net in nets or host.addresses:
            self._ip(self._switch, f"link set {host.name}-{net} master {net}")

    def _ip(self, space: Namespace, *commands: str) -> None:
        with space.inside():
            for command in commands:
                _ran("ip", *command.split())


def _namespace(stack: ExitStack) -> Namespace:
    """Make a namespace that lasts as long as the stack, and whatever runs in it."""
    try:
        before = os.open(OURS, os.O_RDONLY)
    except OSError as error:
        raise NoHosts(f"{OURS} cannot be opened: {error.strerror}") from error
    try:
        _call("unshare", CLONE_NEWNET)
        descriptor = os.open(OURS, os.O_RDONLY)
        _call("setns", before, CLONE_NEWNET)
    finally:
        os.close(before)
    stack.callback(os.close, descriptor)
    return Namespace(descriptor)


def _call(name: str, *arguments: int) -> None:
    """Call the system."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise NoHosts(f"{name}(CLONE_NEWNET) failed: {os.strerror(ctypes.get_errno())}")


def _ran(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoHosts(f"`{' '.join(command)}` failed: {error}") from error
    if done.returncode:
        raise NoHosts(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
