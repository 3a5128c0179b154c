"""The SDK's usual transport, a pool of one connection a call: a large pool looks at all its connections at each call.

That look asks the operating system about every idle connection. With thirty calls in flight, of which some are on
their way through a ledger, it takes longer than the rest of a request.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

import httpx2

__all__ = ["HttpxTransport"]

IDLE_S: Final = 5.0
"""How long an idle connection is kept; as the SDK has it."""
IDLE_MAX: Final = 100
"""How many idle connections are kept; as the SDK has it."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
"""Seconds, seconds and probes until a peer is taken for gone; as the SDK has it."""


class _Idle(NamedTuple):
    lane: httpx2.AsyncHTTPTransport
    since_s: float


class HttpxTransport(httpx2.AsyncBaseTransport):
    """Sends each request over the connection that was used last among those that are free; knows no proxies.

    It opens as many connections as there are calls: how many that are is for the caller to bound.
    """

    def __init__(self) -> None:
        self._verify = httpx2.create_ssl_context()
        self._idle: deque[_Idle] = deque()
        self._busy: set[httpx2.AsyncHTTPTransport] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return as soon as the response's headers are there.

        Raises:
            httpx2.TransportError: as httpx itself raises it.
        """
        lane = self._idle.pop().lane if self._idle else self._opened()
        self._busy.add(lane)
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            await self._free(lane)
            raise
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Body(response.stream, lambda: self._free(lane))
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        lanes = [*self._busy, *(idle.lane for idle in self._idle)]
        self._busy.clear()
        self._idle.clear()
        for lane in lanes:
            await lane.aclose()

    def _opened(self) -> httpx2.AsyncHTTPTransport:
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        for name, value in KEEPALIVE.items():
            if (option := getattr(socket, name, None)) is not None:
                options.append((socket.IPPROTO_TCP, option, value))
        limits = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=IDLE_S)
        return httpx2.AsyncHTTPTransport(verify=self._verify, limits=limits, socket_options=options)

    async def _free(self, lane: httpx2.AsyncHTTPTransport) -> None:
        """Take a lane back; close the one that was free longest once nobody needs so many."""
        if lane not in self._busy:
            return
        now_s = time.monotonic()
        self._busy.discard(lane)
        self._idle.append(_Idle(lane, now_s))
        if len(self._idle) > IDLE_MAX or now_s - self._idle[0].since_s > IDLE_S:
            await self._idle.popleft().lane.aclose()


class _Body(httpx2.AsyncByteStream):
    """A body that says when its connection is free again."""

    def __init__(self, inner: httpx2.AsyncByteStream, free: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._free = free

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            yield piece

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            await self._free()
