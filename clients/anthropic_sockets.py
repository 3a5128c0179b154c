"""Sockets for ``httpcore2``, of asyncio's own transports.

The library's own are ``anyio``'s, which asks the operating system twice more for each read and lets the loop turn once
more for each write: with thirty calls in flight that was a sixth of a request.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Final, cast

import httpcore2

__all__ = ["Sockets"]

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]

BUFFERED_MAX: Final = 256 * 1024
"""Bytes that wait to be read before the peer is kept waiting."""
HAPPY_EYEBALLS_S: Final = 0.25
"""How long one address is tried alone before the next is tried beside it; RFC 8305."""


class Sockets(httpcore2.AsyncNetworkBackend):
    """Opens connections on the running event loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's name for it
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to whichever of a host's addresses answers first.

        Raises:
            httpcore2.ConnectTimeout: none did in time.
            httpcore2.ConnectError: none did.
        """
        try:
            async with asyncio.timeout(timeout):
                transport, wire = await asyncio.get_running_loop().create_connection(
                    _Wire,
                    host,
                    port,
                    local_addr=None if local_address is None else (local_address, 0),
                    happy_eyeballs_delay=HAPPY_EYEBALLS_S,
                )
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(error) from error
        except (OSError, ValueError, IndexError) as error:  # the latter two of a name or a port that cannot be
            raise httpcore2.ConnectError(error) from error
        try:
            for option in socket_options or ():
                transport.get_extra_info("socket").setsockopt(*option)
        except OSError as error:
            transport.abort()
            raise httpcore2.ConnectError(error) from error
        return _Stream(transport, wire)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Wire(asyncio.Protocol):
    """What has come over a connection and was not read yet, and who waits for more of it or for room to write."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.ended = False  # nothing more will come
        self.broken: Exception | None = None
        self.transport: asyncio.Transport | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._has_room = True
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.came += data
        if len(self.came) > BUFFERED_MAX and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self.ended = True
        _wake(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.broken = self.broken or exc
        self.transport = None  # asyncio's may not be asked to close again
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        self._has_room = False

    def resume_writing(self) -> None:
        self._has_room = True
        _wake(self._writer)

    def taken(self, most: int) -> bytes:
        """Take at most so many bytes of what has come."""
        data = bytes(self.came[:most])
        del self.came[:most]
        if self._is_paused and not self.came and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()
        return data

    async def readable(self, within_s: float | None) -> None:
        """Wait until something has come or nothing will, else raise TimeoutError."""
        if not self.came and not self.ended:
            self._reader = asyncio.get_running_loop().create_future()
            await _woken(self._reader, within_s)

    async def writable(self, within_s: float | None) -> None:
        """Wait until there is room for more to write, else raise TimeoutError."""
        if not self._has_room and not self.ended:
            self._writer = asyncio.get_running_loop().create_future()
            await _woken(self._writer, within_s)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _woken(waiter: asyncio.Future[None], within_s: float | None) -> None:
    if within_s is None:
        return await waiter

    def late() -> None:
        if not waiter.done():
            waiter.set_exception(TimeoutError())

    timer = asyncio.get_running_loop().call_later(within_s, late)
    try:
        await waiter
    finally:
        timer.cancel()


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection, read and written by one request at a time."""

    def __init__(self, transport: asyncio.Transport, wire: _Wire) -> None:
        self._transport = transport
        self._wire = wire

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - likewise
        """Return what has come; nothing where the peer has ended it.

        Raises:
            httpcore2.ReadTimeout: nothing came in time.
            httpcore2.ReadError: the connection broke.
        """
        try:
            await self._wire.readable(timeout)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(error) from error
        if not self._wire.came and self._wire.broken is not None:
            raise httpcore2.ReadError(self._wire.broken) from self._wire.broken
        return self._wire.taken(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - likewise
        """Hand bytes over to the operating system, which may keep them for a while.

        Raises:
            httpcore2.WriteTimeout: it did not take them in time.
            httpcore2.WriteError: the connection is no more.
        """
        if not buffer:
            return
        if self._transport.is_closing():
            raise httpcore2.WriteError(self._wire.broken or "the connection is closed") from self._wire.broken
        self._transport.write(buffer)
        try:
            await self._wire.writable(timeout)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(error) from error
        if self._wire.broken is not None:
            raise httpcore2.WriteError(self._wire.broken) from self._wire.broken

    async def aclose(self) -> None:
        """Close the connection at once; who waits for it hears that it broke, not that the peer has ended it."""
        self._wire.broken = self._wire.broken or ConnectionAbortedError("the connection was closed on this side")
        if self._wire.transport is not None:
            self._wire.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - likewise
    ) -> httpcore2.AsyncNetworkStream:
        """Go on encrypted over the same connection.

        Raises:
            httpcore2.ConnectTimeout: the two did not agree in time.
            httpcore2.ConnectError: they did not agree.
        """
        if self._transport.is_closing() or self._wire.came:  # asyncio would wait for ever, or take it for encrypted
            await self.aclose()
            raise httpcore2.ConnectError("the peer spoke or left before the connection was encrypted")
        try:
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    self._transport, self._wire, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout(error) from error
            if isinstance(error, (OSError, ValueError)):
                raise httpcore2.ConnectError(error) from error
            raise
        if transport is None:
            raise httpcore2.ConnectError("the connection was closed while the two agreed on its encryption")
        self._wire.transport = transport
        return _Stream(transport, self._wire)

    def get_extra_info(self, info: str) -> Any:
        """Return what ``httpcore2`` may ask of a stream; None for what there is not."""
        names = {"client_addr": "sockname", "server_addr": "peername", "ssl_object": "ssl_object", "socket": "socket"}
        if info == "is_readable":
            wire = self._wire
            return bool(wire.came) or wire.ended or _is_readable(self._transport.get_extra_info("socket"))
        return self._transport.get_extra_info(names[info]) if info in names else None


def _is_readable(connected: socket.socket | None) -> bool:
    """Ask the operating system: what came a moment ago has not been seen by the loop yet."""
    if connected is None or connected.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # there ``select`` takes any socket, here only the first thousand
        return bool(select.select([connected], [], [], 0)[0])
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return bool(poll.poll(0))
