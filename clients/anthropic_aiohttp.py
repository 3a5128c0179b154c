"""A transport of the SDK's HTTP client over aiohttp: less of the processor's time, and exact about what was sent."""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import httpx2
import yarl
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

__all__ = ["AiohttpTransport"]

KEEPALIVE_S = 60
KEEPALIVE_PROBES = 5
IDLE_S = 5.0
"""How long an idle connection is kept; as the SDK's default transport has it."""
HEADER_BYTES_MAX = 65_536
"""Of one header; aiohttp's own limit is below what proxies add."""
PIECE_BYTES = 65_536
WHOLE_BODY_BYTES_MAX = 2**16
"""A longer body is sent in pieces, as the event loop would stand still for a whole one."""
TURNS = 2
"""Of the event loop, in which it hears that the server has closed an idle connection."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends each request once; whatever fails after a connection was there counts as sent.

    It opens as many connections as there are calls: how many that are is for the caller to bound. It knows no
    proxies, follows nothing and keeps no cookies. Dropped unclosed, it closes its connections by itself.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return as soon as the response's headers are there.

        Raises:
            httpx2.ConnectError: no connection, nothing was sent; likewise ConnectTimeout and UnsupportedProtocol.
            httpx2.TransportError: any other means that the request may have been sent.
        """
        session = self._session or self._open(request.url)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        with _told():
            response = await session.request(
                request.method,
                _address(request.url),
                headers=request.headers.multi_items(),
                data=_body(request.content),
                allow_redirects=False,
                timeout=_timeout(request),
            )
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode("utf-8", "replace")}
        return httpx2.Response(
            response.status, headers=list(response.raw_headers), stream=_Body(response), extensions=extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self, url: httpx2.URL) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=0,
            keepalive_timeout=IDLE_S,
            resolver=aiohttp.ThreadedResolver(),  # the system's, also where aiodns is installed
            socket_factory=_socket,
            ssl=_tls() if url.scheme == "https" else True,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
        )
        self._session = session
        weakref.finalize(self, _let_go, session, asyncio.get_running_loop())
        return session


class _Connector(aiohttp.TCPConnector):
    """Gives no connection on which the server has spoken unasked: its words would be taken for the next answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as aiohttp has it
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None:
                return connection
            if protocol not in self._used or not protocol.should_close:
                self._used.add(protocol)
                return connection
            connection.close()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told():
            async for piece in self._response.content.iter_chunked(PIECE_BYTES):
                yield piece

    async def aclose(self) -> None:
        connection = self._response.connection
        if connection is None or self._response.content.at_eof():
            self._response.release()
            return
        # Not to the peer's time: a farewell over TLS would wait for its answer, while the provider goes on writing.
        if connection.transport is not None:
            connection.transport.abort()
        self._response.close()
        await asyncio.sleep(0)


@contextmanager
def _told() -> Iterator[None]:
    """Raise aiohttp's errors as httpx names them, so that only what was surely not sent is named so."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx2.ConnectTimeout(str(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise httpx2.ConnectError(str(error)) from error
    except (aiohttp.InvalidURL, UnicodeError) as error:
        raise httpx2.UnsupportedProtocol("an address that aiohttp cannot read") from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError) as error:
        raise httpx2.RemoteProtocolError(str(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.ReadError(str(error)) from error


def _address(url: httpx2.URL) -> yarl.URL:
    """Give the address as it is: not quoted anew, and without a password, which stands in a header by now."""
    try:
        return yarl.URL(str(url.copy_with(userinfo=b"")), encoded=True)
    except ValueError as error:
        raise httpx2.UnsupportedProtocol("an address that aiohttp cannot read") from error


def _body(content: bytes) -> bytes | io.BytesIO | None:
    if len(content) > WHOLE_BODY_BYTES_MAX:
        return io.BytesIO(content)
    return content or None


def _timeout(request: httpx2.Request) -> aiohttp.ClientTimeout:
    """Bound what precedes the sending as a whole: the name's lookup, the connection and TLS."""
    limits: dict[str, Any] = request.extensions.get("timeout", {})
    return aiohttp.ClientTimeout(total=None, connect=limits.get("connect"), sock_read=limits.get("read"))


def _tls() -> ssl.SSLContext:
    """Trust whom the SDK's default transport trusts."""
    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _socket(address: Any) -> socket.socket:
    """Make a socket that notices a peer that is gone, as the SDK's default transport does."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": KEEPALIVE_S, "TCP_KEEPINTVL": KEEPALIVE_S, "TCP_KEEPCNT": KEEPALIVE_PROBES}
    for name, value in options.items():
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _let_go(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Close what nobody closed: in its own event loop if there still is one, and without a word."""
    connector = session.connector
    session.detach()
    if connector is None or connector.closed:
        return

    def close() -> None:
        # The first step closes them all; what it would wait for is the end of that, which concerns nobody here.
        closing = connector.close().__await__()
        with suppress(StopIteration):
            next(closing)

    if loop.is_closed():
        close()
        return
    try:
        loop.call_soon_threadsafe(close)
    except RuntimeError:  # closed meanwhile
        close()
