"""The sockets under the SDK's usual transport, against real peers; what the library's own do alike is asked of both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpcore2
import pytest

from clients.anthropic_sockets import BUFFERED_MAX, Sockets

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Served = Callable[[Play], Awaitable[int]]
HOST = "127.0.0.1"


@pytest.fixture(params=[Sockets, httpcore2.AnyIOBackend], ids=["ours", "theirs"])
def backend(request: pytest.FixtureRequest) -> httpcore2.AsyncNetworkBackend:
    made: httpcore2.AsyncNetworkBackend = request.param()
    return made


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Start servers of which each connection is played, and end all of them."""
    lines: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
    servers: list[asyncio.Server] = []

    async def serve(play: Play) -> int:
        async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            lines[task] = writer
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await play(reader, writer)

        servers.append(await asyncio.start_server(line, HOST, 0))
        port: int = servers[-1].sockets[0].getsockname()[1]
        return port

    yield serve
    for server in servers:
        server.close()
    for task, writer in lines.items():
        task.cancel()
        writer.transport.abort()
    await asyncio.gather(*lines, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)


async def silent(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # the stub of a writer knows half a transport
    await asyncio.sleep(30)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset as soon as something is said."""
    await reader.read(1)
    made: socket.socket = writer.get_extra_info("socket")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"bye")
    writer.close()


async def test_a_peer_that_ends(backend: httpcore2.AsyncNetworkBackend, served: Served) -> None:
    """What was said before the end is read, then nothing; the connection says that it is of no use."""
    stream = await backend.connect_tcp(HOST, await served(ends), 5)
    before = stream.get_extra_info("is_readable")
    await stream.write(b"x", 5)
    assert (False, b"bye", b"") == (before, await stream.read(100, 5), await stream.read(100, 5))
    assert stream.get_extra_info("is_readable")
    await stream.aclose()
    await stream.aclose()


async def test_a_reset_while_a_read_waits(backend: httpcore2.AsyncNetworkBackend, served: Served) -> None:
    """A reset is a read that failed."""
    stream = await backend.connect_tcp(HOST, await served(resets), 5)
    await stream.write(b"x", 5)
    with pytest.raises(httpcore2.ReadError):
        await stream.read(100, 5)
    with pytest.raises(httpcore2.WriteError):
        await stream.write(b"x", 5)
    await stream.aclose()


async def test_a_reset_while_a_write_waits(backend: httpcore2.AsyncNetworkBackend, served: Served) -> None:
    """A reset is a write that failed."""
    stream = await backend.connect_tcp(HOST, await served(resets), 5)
    with pytest.raises(httpcore2.WriteError):
        await stream.write(bytes(30_000_000), 5)
    await stream.aclose()


@pytest.mark.parametrize("within_s", [0, 0.02])
async def test_waits_are_bounded(backend: httpcore2.AsyncNetworkBackend, served: Served, within_s: float) -> None:
    """A read or a write that waits too long is a timeout."""
    stream = await backend.connect_tcp(HOST, await served(deaf), 5)
    with pytest.raises(httpcore2.ReadTimeout):
        await stream.read(100, within_s)
    with pytest.raises(httpcore2.WriteTimeout):
        await stream.write(bytes(30_000_000), within_s)
    await stream.aclose()


async def test_a_timeout_is_of_one_read(served: Served) -> None:
    """A read that was in time, or was not, leaves nothing to the next one."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(100):
            writer.write(said)

    stream = await Sockets().connect_tcp(HOST, await served(echo), 5)
    with pytest.raises(httpcore2.ReadTimeout):
        await stream.read(100, 0.01)
    for said in (b"one", b"two"):
        await stream.write(said, 5)
        assert said == await stream.read(100, 0.5)
    await stream.aclose()


@pytest.mark.parametrize("waits", ["read", "write"])
async def test_closed_while_one_waits(backend: httpcore2.AsyncNetworkBackend, served: Served, waits: str) -> None:
    """A connection closed on this side is a failure to who waits for it: never the end of an answer."""
    stream = await backend.connect_tcp(HOST, await served(deaf), 5)
    waiting = asyncio.create_task(stream.read(100, 5) if waits == "read" else stream.write(bytes(30_000_000), 5))
    await asyncio.sleep(0.01)
    await stream.aclose()
    with pytest.raises((httpcore2.ReadError, httpcore2.WriteError)):
        await waiting
    with pytest.raises(httpcore2.ReadError):
        await stream.read(100, 5)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files where the system lists them")
@pytest.mark.parametrize("waits", ["read", "write", "start_tls"])
async def test_cancelled_while_one_waits(served: Served, waits: str) -> None:
    """Nothing is left of a wait that was cancelled once the connection is closed."""
    port = await served(deaf)
    tasks, files = len(asyncio.all_tasks()), open_files()
    stream = await Sockets().connect_tcp(HOST, port, 5)
    waits_for: dict[str, Callable[[], Awaitable[object]]] = {
        "read": lambda: stream.read(100, 5),
        "write": lambda: stream.write(bytes(30_000_000), 5),
        "start_tls": lambda: stream.start_tls(ssl.create_default_context(), "localhost", 5),
    }
    waiting = asyncio.ensure_future(waits_for[waits]())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()
    await asyncio.sleep(0.01)
    assert files + 1 == open_files()  # the server's end
    assert tasks + 1 == len(asyncio.all_tasks())  # likewise


async def test_a_peer_that_ends_before_it_has_heard_all(backend: httpcore2.AsyncNetworkBackend, served: Served) -> None:
    """A peer may end its side and hear the rest of ours; to close after that is no error."""
    heard = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"early")
        writer.write_eof()
        await asyncio.sleep(0.02)
        await reader.readexactly(20_000_000)
        heard.set()

    stream = await backend.connect_tcp(HOST, await served(early), 5)
    await stream.write(bytes(20_000_000), 5)
    assert b"early" == await stream.read(100, 5)
    await heard.wait()
    await asyncio.sleep(0.01)
    await stream.aclose()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_more_than_is_read(served: Served, certificate: Path, *, tls: bool) -> None:
    """Bytes that nobody reads wait with the peer; in the end all come, in order."""
    whole = bytes(range(251)) * 40_000  # a prime: no buffer's size hides what is missing

    async def floods(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            await writer.start_tls(context)
        writer.write(whole)
        await writer.drain()
        writer.close()

    stream = await Sockets().connect_tcp(HOST, await served(floods), 5)
    if tls:
        stream = await stream.start_tls(ssl.create_default_context(cafile=str(certificate)), "localhost", 5)
    came = await stream.read(65536, 5)
    await asyncio.sleep(0.05)
    held = await stream.read(2**30, 5)
    assert len(held) < 4 * BUFFERED_MAX
    pieces = [came, held]
    while piece := await stream.read(65536, 5):
        pieces.append(piece)
    await stream.aclose()
    assert whole == b"".join(pieces)


async def says_garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 good day\r\n" * 10)
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("play", "error"),
    [(silent, httpcore2.ConnectTimeout), (resets, httpcore2.ConnectError), (says_garbage, httpcore2.ConnectError)],
    ids=["silent", "resets", "garbage"],
)
async def test_a_peer_that_knows_no_tls(
    backend: httpcore2.AsyncNetworkBackend, served: Served, play: Play, error: type[Exception]
) -> None:
    """Where the two do not agree on encryption there was no connection."""
    stream = await backend.connect_tcp(HOST, await served(play), 5)
    with pytest.raises(error):
        await stream.start_tls(ssl.create_default_context(), "localhost", 0.1)


async def test_no_tls_over_what_is_closed_or_was_spoken(served: Served) -> None:
    """A connection that is closed is not waited for, and words in the clear are never taken for encrypted ones."""
    gone = await Sockets().connect_tcp(HOST, await served(silent), 5)
    await gone.aclose()
    spoken = await Sockets().connect_tcp(HOST, await served(says_garbage), 5)
    await spoken.read(1, 5)
    for stream in (gone, spoken):
        with pytest.raises(httpcore2.ConnectError):
            await stream.start_tls(ssl.create_default_context(), "localhost")


@pytest.mark.parametrize(
    ("host", "port"),
    [(HOST, 1), ("localhost", 1), ("x" * 70 + ".invalid", 80), ("..", 80), (HOST, 99_999)],
    ids=["refused", "refused by all", "a label too long", "no name", "no port"],
)
async def test_addresses_that_lead_nowhere(host: str, port: int) -> None:
    """Whatever is wrong with an address, it could not be connected to."""
    with pytest.raises(httpcore2.ConnectError):
        await Sockets().connect_tcp(host, port, 5)


async def test_options_of_the_socket(backend: httpcore2.AsyncNetworkBackend, served: Served) -> None:
    """Options are set, small writes leave at once, and an option that cannot be is no connection."""
    port = await served(silent)
    stream = await backend.connect_tcp(
        "localhost", port, 5, socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    )
    made: socket.socket = stream.get_extra_info("socket")
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert (HOST, port) == stream.get_extra_info("server_addr")
    await stream.aclose()
    if isinstance(backend, Sockets):  # theirs leaves the socket open
        with pytest.raises(httpcore2.ConnectError):
            await backend.connect_tcp(HOST, port, 5, socket_options=[(socket.SOL_SOCKET, 9999, 1)])
    await asyncio.sleep(0)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 408 Late"], ids=["ends", "speaks unasked"])
async def test_what_came_to_an_idle_connection(backend: httpcore2.AsyncNetworkBackend, says: bytes) -> None:
    """One that has been ended, or spoken over, is told from one that is good: before the loop has turned, and after."""
    with socket.create_server((HOST, 0)) as listener:
        stream = await backend.connect_tcp(HOST, listener.getsockname()[1], 5)
        peer, _ = listener.accept()
        with peer:
            assert not stream.get_extra_info("is_readable")
            if says:
                peer.sendall(says)
            else:
                peer.shutdown(socket.SHUT_WR)
            assert stream.get_extra_info("is_readable")
            await asyncio.sleep(0.01)
            assert stream.get_extra_info("is_readable")
            await stream.aclose()


async def test_tls_over_which_nobody_says_goodbye(
    backend: httpcore2.AsyncNetworkBackend, served: Served, certificate: Path
) -> None:
    """A certificate nobody vouches for is no connection; an end without TLS's own is an end, as in the library."""

    async def ends_bare(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain: socket.socket = writer.get_extra_info("socket")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        await writer.start_tls(context)
        writer.write(await reader.read(100))
        await writer.drain()
        plain.shutdown(socket.SHUT_WR)  # type: ignore[attr-defined,unused-ignore]  # asyncio's own has it
        await asyncio.sleep(30)

    port = await served(ends_bare)
    stream = await backend.connect_tcp(HOST, port, 5)
    with pytest.raises(httpcore2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        await stream.start_tls(ssl.create_default_context(), "localhost", 5)
    stream = await backend.connect_tcp(HOST, port, 5)
    stream = await stream.start_tls(ssl.create_default_context(cafile=str(certificate)), "localhost", 5)
    await stream.write(b"hello", 5)
    assert (b"hello", b"") == (await stream.read(100, 5), await stream.read(100, 5))
    await stream.aclose()


MANY_FILES = """
import asyncio, resource, socket
from clients.anthropic_sockets import Sockets

async def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2048) if hard > 0 else 2048, hard))
    listener = socket.create_server(("127.0.0.1", 0))
    files = [listener.dup() for _ in range(1100)]
    stream = await Sockets().connect_tcp(*listener.getsockname(), 5)
    peer, _ = listener.accept()
    assert stream.get_extra_info("socket").fileno() > 1024
    print(stream.get_extra_info("is_readable"))
    peer.sendall(b"x")
    print(stream.get_extra_info("is_readable"))
    await stream.aclose()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are numbered otherwise there")
def test_more_files_than_select_knows() -> None:
    """A process of many open files can look at a connection too."""
    output = subprocess.run([sys.executable, "-c", MANY_FILES], check=False, capture_output=True, timeout=30)
    assert (b"False\nTrue\n", b"") == (output.stdout, output.stderr)
