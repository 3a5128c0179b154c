"""The SDK's usual transport, without its pool: that looks at every connection, in use or idle, at every request.

A look at an idle one asks the operating system. With thirty calls in flight, of which some are on their way through a
ledger, these looks took longer than the rest of a request.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import httpcore2
import httpx2

from clients.anthropic_sockets import Sockets

__all__ = ["HttpxTransport"]

IDLE_S: Final = 5.0
"""How long an idle connection is kept; as the SDK has it."""
IDLE_MAX: Final = 100
"""How many idle connections are kept; as the SDK has it."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
"""Seconds, seconds and probes until a peer is taken for gone; as the SDK has it."""


class HttpxTransport(httpx2.AsyncHTTPTransport):
    """Sends each request over the connection that was used last among those that are free; knows no proxies.

    It opens as many connections as there are calls: how many that are is for the caller to bound.
    """

    def __init__(self) -> None:
        verify = httpx2.create_ssl_context()
        super().__init__(verify=verify)
        if isinstance(getattr(self, "_pool", None), httpcore2.AsyncConnectionPool):
            self._pool = _Connections(verify)  # else it is another httpx2 than we know: its own serves as well


class _Idle(NamedTuple):
    connection: httpcore2.AsyncHTTPConnection
    since_s: float


class _Connections(httpcore2.AsyncConnectionPool):
    """Connections that carry a call each, and those that wait for their next one; the newest of them is taken."""

    def __init__(self, verify: ssl.SSLContext) -> None:
        super().__init__()
        self._verify = verify
        self._options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                self._options.append((socket.IPPROTO_TCP, option, value))
        self._idle: deque[_Idle] = deque()
        self._busy: set[httpcore2.AsyncHTTPConnection] = set()

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request and return as soon as the response's headers are there."""
        if request.url.scheme not in (b"http", b"https"):
            raise httpcore2.UnsupportedProtocol(f"no address of http: {request.url.scheme!r}")
        connection = await self._taken(request.url.origin)
        self._busy.add(connection)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await self._done(connection)
            raise
        if not isinstance(response.stream, AsyncIterable):
            raise TypeError("an async connection answers with an async stream")
        response.stream = _Body(response.stream, partial(self._done, connection))
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        connections = (*self._busy, *(idle.connection for idle in self._idle))
        self._busy.clear()
        self._idle.clear()
        for connection in connections:
            await connection.aclose()

    async def _taken(self, origin: httpcore2.Origin) -> httpcore2.AsyncHTTPConnection:
        """Take the newest idle connection that is still good, else a new one."""
        while self._idle:
            connection = self._idle.pop().connection
            if connection.can_handle_request(origin) and not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore2.AsyncHTTPConnection(
            origin,
            ssl_context=self._verify,
            keepalive_expiry=IDLE_S,
            network_backend=Sockets(),
            socket_options=self._options,
        )

    async def _done(self, connection: httpcore2.AsyncHTTPConnection) -> None:
        """Keep a connection for the next call if it is good for one; close the one that nobody has needed longest."""
        if connection not in self._busy:
            return
        self._busy.discard(connection)
        now_s = time.monotonic()
        if connection.is_idle():
            self._idle.append(_Idle(connection, now_s))
        if self._idle and (len(self._idle) > IDLE_MAX or now_s - self._idle[0].since_s > IDLE_S):
            await self._idle.popleft().connection.aclose()


class _Body:
    """A body that says when its connection is free again."""

    def __init__(self, inner: AsyncIterable[bytes], done: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._done = done

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._inner.__aiter__()

    async def aclose(self) -> None:
        try:
            if (close := getattr(self._inner, "aclose", None)) is not None:
                await close()
        finally:
            await self._done()
