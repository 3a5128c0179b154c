"""What can go wrong on the wire, on both transports: a server of raw bytes counts the requests and plays the faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import socket
import ssl
import struct
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clients.anthropic import AnthropicClient
from clients.anthropic_sdk import Transport
from clients.base import ExecutionResult

KEY = "sk-canary-0123456789"
MESSAGE = json.dumps(
    {
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "hi " * 200}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    }
).encode()

Play = Callable[["Line"], Awaitable[None]]


@dataclass
class Line:
    """One connection, after a request has come whole."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def hang_up(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        made: socket.socket = self.writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class Wire:
    """The server: each request is answered by the next play, the last of which is repeated."""

    plays: list[Play] = field(default_factory=list)
    requests: int = 0
    connections: int = 0
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    lines: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def end(self) -> None:
        """Leave nothing behind in the event loop, whatever a client left unread."""
        for task, writer in self.lines.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self.lines, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.lines[task] = writer
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.heads.append(head)
                play = self.plays[min(self.requests, len(self.plays) - 1)]
                self.requests += 1
                await play(Line(reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test has
        finally:
            writer.close()


def head(*headers: str, length: int | None = len(MESSAGE), status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", "request-id: req_1", *headers]
    lines += [] if length is None else [f"content-length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


WHOLE = head() + MESSAGE


def says(*pieces: bytes, then: str = "stay", delay_s: float = 0.0) -> Play:
    """Say these bytes, then keep the line open, hang up or reset it."""

    async def play(line: Line) -> None:
        for piece in pieces:
            await line.say(piece)
            await asyncio.sleep(delay_s)
        if then == "reset":
            await asyncio.sleep(0.02)  # a reset overtakes what was said before it
            line.reset()
        elif then == "hang up":
            line.hang_up()
        elif then == "silence":
            await asyncio.sleep(5)

    return play


@pytest.fixture(params=["aiohttp", pytest.param("httpx", marks=pytest.mark.slow)])
def transport(request: pytest.FixtureRequest) -> Transport:
    chosen: Transport = request.param
    return chosen


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    made = Wire([says(WHOLE)])
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=2**20, backlog=1000)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    await made.end()


@pytest.fixture
async def client(wire: Wire, transport: Transport) -> AsyncIterator[AnthropicClient]:
    made = AnthropicClient(api_key=KEY, base_url=wire.url, transport=transport)
    await made.prepare("warm")
    yield made
    await made.aclose()


def told(result: ExecutionResult) -> tuple[Any, ...]:
    return result.error_type, result.usage_source, result.provider_requests


LOST = ("connection", "unknown", 1)
LATE = ("timeout", "unknown", 1)
UNREADABLE = ("api_error", "unknown", 1)
UNSENT = ("connection", "not_billed", 0)
ANSWERED = (None, "provider", 1)

CHUNKED = "transfer-encoding: chunked"
GZIPPED = gzip.compress(MESSAGE)
HALF = MESSAGE[:100]

FAULTS: dict[str, tuple[Play, tuple[Any, ...]]] = {
    "hangs up before headers": (says(then="hang up"), LOST),
    "resets before headers": (says(then="reset"), LOST),
    "hangs up in the headers": (says(head()[:40], then="hang up"), LOST),
    "resets in the headers": (says(head()[:40], then="reset"), LOST),
    "hangs up after headers": (says(head(), then="hang up"), LOST),
    "resets after headers": (says(head(), then="reset"), LOST),
    "hangs up in the body": (says(head(), HALF, then="hang up"), LOST),
    "resets in the body": (says(head(), HALF, then="reset"), LOST),
    "hangs up in the chunks": (says(head(CHUNKED, length=None), b"64\r\n" + HALF + b"\r\n", then="hang up"), LOST),
    "hangs up in a chunk": (says(head(CHUNKED, length=None), b"ff\r\n" + HALF, then="hang up"), LOST),
    "resets in a chunk": (says(head(CHUNKED, length=None), b"ff\r\n" + HALF, then="reset"), LOST),
    "chunks of no size": (says(head(CHUNKED, length=None), b"zz\r\n" + HALF), LOST),
    "a status line that is none": (says(b"whatever you say\r\n\r\n"), LOST),
    "bytes that are no HTTP": (says(b"\x16\x03\x01\x02\x00" * 50), LOST),
    "a hundred thousand headers": (says(head(*["a: b"] * 100_000) + MESSAGE), LOST),
    "a header of a megabyte": (says(head("a: " + "b" * 2**20) + MESSAGE), LOST),
    "lengths that disagree": (says(head("content-length: 3") + MESSAGE), LOST),
    "a negative length": (says(head(length=-1) + MESSAGE), LOST),
    "silent": (says(then="silence"), LATE),
    "slow headers": (says(*(bytes([one]) for one in head()), delay_s=0.02), LATE),
    "silent after headers": (says(head(), then="silence"), LATE),
    "slow body": (says(head(), *(bytes([one]) for one in MESSAGE), delay_s=0.02), LATE),
    "a gzip that is none": (says(head("content-encoding: gzip") + MESSAGE), UNREADABLE),
    "half a gzip": (says(head("content-encoding: gzip", length=60) + GZIPPED[:60]), UNREADABLE),
    "a packing nobody asked for": (says(head("content-encoding: br") + b"\x00" * len(MESSAGE)), UNREADABLE),
    "an empty body": (says(head(length=0)), UNREADABLE),
    "a whole gzip": (says(head("content-encoding: gzip", length=len(GZIPPED)) + GZIPPED), ANSWERED),
    "whole chunks": (says(head(CHUNKED, length=None), b"%x\r\n%b\r\n0\r\n\r\n" % (len(MESSAGE), MESSAGE)), ANSWERED),
    "no length, then the end": (says(head(length=None), MESSAGE, then="hang up"), ANSWERED),
    "no length, then half": (says(head(length=None), HALF, then="hang up"), UNREADABLE),
    "one byte at a time": (says(*(bytes([one]) for one in WHOLE)), ANSWERED),
    "a hint before": (says(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + WHOLE), ANSWERED),
}


@pytest.mark.parametrize(("play", "expected"), FAULTS.values(), ids=FAULTS)
async def test_faults_of_the_wire(wire: Wire, client: AnthropicClient, play: Play, expected: tuple[Any, ...]) -> None:
    """Each fault is told as what it is, with one request, and the client is fit for the next call."""
    wire.plays = [play, says(WHOLE)]
    result = await client.execute("hello", timeout_s=0.3 if expected == LATE else 5)
    assert (expected, 1) == (told(result), wire.requests)
    assert (await client.execute("again")).success


@pytest.mark.parametrize("then", ["hang up", "reset"])
async def test_a_used_connection_that_breaks_is_no_second_request(
    wire: Wire, client: AnthropicClient, then: str
) -> None:
    """A request lost on a connection that served before is not sent again by the transport: it may be billed."""
    wire.plays = [says(WHOLE), says(then=then), says(WHOLE)]
    results = [told(await client.execute("hello")) for _ in range(3)]
    assert ([ANSWERED, LOST, ANSWERED], 3, 2) == (results, wire.requests, wire.connections)


async def test_an_idle_connection_that_was_closed_is_not_used(wire: Wire, client: AnthropicClient) -> None:
    """A server may close a connection between two calls: the next call opens another."""
    wire.plays = [says(WHOLE, then="hang up")]
    results = [told(await client.execute("hello")) for _ in range(3)]
    assert ([ANSWERED] * 3, 3, 3) == (results, wire.requests, wire.connections)


async def test_an_answer_to_nobody_is_nobodys(wire: Wire, client: AnthropicClient) -> None:
    """What a server says unasked, between two calls, is not taken for the answer to the second."""
    unasked = asyncio.Event()

    async def play(line: Line) -> None:
        await line.say(WHOLE)
        await asyncio.sleep(0.02)
        await line.say(WHOLE.replace(b"hi ", b"no "))
        unasked.set()

    wire.plays = [play, says(WHOLE)]
    first = await client.execute("hello")
    await unasked.wait()
    await asyncio.sleep(0.02)
    second = await client.execute("hello")
    assert ("hi", "hi", 2, 2) == (first.response[:2], second.response[:2], wire.requests, wire.connections)


@dataclass
class Blocking:
    """A server on a thread, which goes on while the event loop stands still; it closes each connection it served."""

    context: ssl.SSLContext | None = None
    requests: int = 0
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            with line:
                try:
                    self.answer(line)
                except OSError:
                    continue
            self.closed.set()

    def answer(self, plain: socket.socket) -> None:
        line = self.context.wrap_socket(plain, server_side=True) if self.context else plain
        received = b""
        while b'"hello"' not in received:
            if not (piece := line.recv(65536)):
                return
            received += piece
        self.requests += 1
        line.sendall(WHOLE)
        if isinstance(line, ssl.SSLSocket):
            line.settimeout(0.05)
            with contextlib.suppress(OSError):
                line.unwrap()
            line.close()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_connection_closed_while_nobody_looked(
    transport: Transport,
    tls: bool,  # noqa: FBT001 - a column of the table
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closed while the event loop stood still, a connection is not used either."""
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Blocking(context)
    client = AnthropicClient(api_key=KEY, base_url=server.url, transport=transport)
    try:
        results = []
        for _ in range(3):
            server.closed.clear()
            results.append(told(await client.execute("hello")))
            assert server.closed.wait(5)  # and the event loop stands still
        assert ([ANSWERED] * 3, 3) == (results, server.requests)
    finally:
        await client.aclose()
        server.stop()


@pytest.mark.parametrize("trusted", [False, True])
async def test_tls_trusts_whom_the_system_does(
    wire: Wire,
    transport: Transport,
    trusted: bool,  # noqa: FBT001 - a column of the table
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A certificate that nobody vouches for ends the call before anything is sent; SSL_CERT_FILE is heard."""
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    client = AnthropicClient(api_key=KEY, base_url=url, transport=transport)
    result = await client.execute("hello", timeout_s=5)
    await client.aclose()
    server.close()
    assert (ANSWERED if trusted else UNSENT, int(trusted)) == (told(result), wire.requests)


async def test_tls_with_a_server_that_has_none(wire: Wire, transport: Transport) -> None:
    """A connection whose TLS fails carried no request."""
    client = AnthropicClient(api_key=KEY, base_url=wire.url.replace("http:", "https:"), transport=transport)
    assert told(await client.execute("hello", timeout_s=2)) == UNSENT
    await client.aclose()


async def test_an_address_with_a_password(wire: Wire, transport: Transport) -> None:
    """A name and a password in the address are no reason to fail."""
    url = wire.url.replace("//", "//me:secret@")
    client = AnthropicClient(api_key=KEY, base_url=url, transport=transport)
    assert told(await client.execute("hello")) == ANSWERED
    await client.aclose()


async def test_a_long_prompt_arrives_whole(wire: Wire, client: AnthropicClient) -> None:
    """A prompt of megabytes is sent with its length, and the event loop goes on meanwhile."""
    assert told(await client.execute("x" * 3 * 2**20)) == ANSWERED
    length = wire.heads[0].lower().partition(b"content-length:")[2].split(b"\r\n")[0]
    assert 3 * 2**20 < int(length) < 3 * 2**20 + 1000
    assert b"transfer-encoding" not in wire.heads[0].lower()


@pytest.mark.parametrize("answer", [b"", head(status="413 Too Long", length=0)], ids=["reset", "an early answer"])
async def test_a_prompt_that_is_cut_off(transport: Transport, answer: bytes) -> None:
    """A server that hears no more of a long prompt had the request: it is not called unsent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readexactly(1000))
        writer.write(answer)
        await asyncio.sleep(0.05)
        Line(reader, writer).reset()
        over.set()

    heard: list[bytes] = []
    over = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = AnthropicClient(api_key=KEY, base_url=url, transport=transport)
    result = await client.execute("x" * 20 * 2**20, timeout_s=5)
    await client.aclose()
    server.close()
    await over.wait()
    await asyncio.sleep(0)
    assert told(result) in ([LOST, ("too_large", "not_billed", 1)] if answer else [LOST])
    assert len(heard) == 1


async def test_few_bytes_that_unpack_to_many(
    wire: Wire, client: AnthropicClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit on an answer is on what it unpacks to."""
    monkeypatch.setattr("clients.anthropic_bodies.RESPONSE_BYTES_MAX", 100_000)
    bomb = gzip.compress(b" " * 20_000_000)
    wire.plays = [says(head("content-encoding: gzip", length=len(bomb)) + bomb), says(WHOLE)]
    result = await client.execute("hello")
    assert UNREADABLE == told(result)
    assert "100,000 bytes" in str(result.error)
    assert (await client.execute("again")).success


async def test_as_many_at_once_as_are_called(wire: Wire, client: AnthropicClient) -> None:
    """No pool of connections stands below the number of calls."""
    at_once = 150
    all_here = asyncio.Event()

    async def play(line: Line) -> None:
        if wire.requests == at_once:
            all_here.set()
        await all_here.wait()
        await line.say(WHOLE)

    wire.plays = [play]
    results = await asyncio.gather(*(client.execute("hello", timeout_s=20) for _ in range(at_once)))
    assert [None] * at_once == [result.error for result in results]


async def test_connections_notice_a_peer_that_is_gone(wire: Wire, client: AnthropicClient) -> None:
    """A connection over which nothing comes is probed by the operating system, on both transports alike."""
    assert (await client.execute("hello")).success
    port = int(wire.url.rpartition(":")[2])
    (ours,) = (made for made in _sockets() if made.getpeername()[1] == port)
    asked = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    asked += [(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) for name in ("KEEPIDLE", "KEEPINTVL", "KEEPCNT")]
    assert [1, 60, 60, 5] == [ours.getsockopt(*option) for option in asked]


def _sockets() -> list[socket.socket]:
    made = [each for each in gc.get_objects() if isinstance(each, socket.socket) and each.fileno() >= 0]
    return [each for each in made if each.family == socket.AF_INET and _is_connected(each)]


def _is_connected(made: socket.socket) -> bool:
    try:
        made.getpeername()
    except OSError:
        return False
    return True


async def test_a_proxy_of_the_environment(wire: Wire, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names is used, whatever the transport was to be."""
    monkeypatch.setenv("http_proxy", wire.url)
    client = AnthropicClient(api_key=KEY, base_url="http://elsewhere.example", transport=transport)
    assert told(await client.execute("hello")) == ANSWERED
    await client.aclose()
    assert wire.heads[0].startswith(b"POST http://elsewhere.example/v1/messages")


async def test_without_aiohttp_there_is_httpx(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where aiohttp cannot be imported everything works, without a word."""
    monkeypatch.setitem(sys.modules, "clients.anthropic_aiohttp", None)
    client = AnthropicClient(api_key=KEY, base_url=wire.url)
    assert told(await client.execute("hello")) == ANSWERED
    await client.aclose()


def test_an_unknown_transport() -> None:
    """A transport that nobody knows is refused when the client is made."""
    with pytest.raises(ValueError, match='choose "aiohttp" or "httpx"'):
        AnthropicClient(transport="curl")  # type: ignore[arg-type] # it is the mistake


async def test_closing_closes_every_connection(wire: Wire, client: AnthropicClient) -> None:
    """Nothing is left open by ``aclose``, which may be called twice, and the client can be used again."""
    await asyncio.gather(*(client.execute("hello") for _ in range(5)))
    for _ in range(2):
        await client.aclose()
    async with asyncio.timeout(5):
        await asyncio.gather(*wire.lines)
    assert (await client.execute("again")).success


UNCLOSED = """
import asyncio, sys
from clients.anthropic import AnthropicClient

async def main(client):
    result = await client.execute("hello")
    print(result.success)

shared = AnthropicClient(api_key="k", base_url=sys.argv[1], transport=sys.argv[2])
for client in (shared, shared, AnthropicClient(api_key="k", base_url=sys.argv[1], transport=sys.argv[2])):
    asyncio.run(main(client))
"""


@pytest.mark.slow
async def test_a_client_that_nobody_closes(wire: Wire, transport: Transport) -> None:
    """A program that forgets to close prints nothing about it, and a second event loop works."""
    command = (sys.executable, "-c", UNCLOSED, wire.url, transport)
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(30):
        output = await program.communicate()
    assert (b"True\n" * 3, b"") == output
