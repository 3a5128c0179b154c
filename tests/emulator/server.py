"""The emulator's HTTP part: scripted replies, faults of the wire, and a complete log of requests."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

__all__ = ["Emulator", "Reply", "Request", "Responder"]

REQUEST_BYTES_MAX = 128 * 2**20


@dataclass(frozen=True)
class Reply:
    """What to answer, and how the wire behaves while it is answered.

    Attributes:
        chunks: sent with chunked transfer encoding instead of ``body``, when there are any.
        delay_s: seconds before the status line.
        hang: never answer; the connection stays open until the server stops.
        drop_after: close the connection after this many bytes of the body; 0 is before the status line.
        chunk_delay_s: seconds between two chunks.
        stall: after the last chunk say no more; the connection stays open until the server stops.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    delay_s: float = 0.0
    hang: bool = False
    drop_after: int | None = None
    chunk_delay_s: float = 0.0
    stall: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it was received; ``path`` holds the query too, header names are lower case."""

    index: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_at: float

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


Responder = Callable[[Request], Reply]


class Emulator:
    """A server that lives as long as its ``with`` block; every request it received is in ``log``, in order."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.log: list[Request] = []
        self.failures: list[BaseException] = []
        self._routes: list[tuple[str, re.Pattern[str], Responder]] = []
        self._received = threading.Condition()
        self._host = host
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The address without a slash at its end."""
        return f"http://{self._host}:{self._server.server_address[1]}"

    def route(self, method: str, path_regex: str, responder: Responder) -> None:
        """Answer ``method`` on paths that match as a whole, query left out; the latest route wins.

        Responders run on the connections' threads, several at once.
        """
        self._routes.insert(0, (method, re.compile(path_regex), responder))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join(timeout=5)
        if exc is None and self.failures:
            raise self.failures[0]

    def receive(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Request:
        """Log a request and give it its index."""
        with self._received:
            request = Request(len(self.log), method, path, headers, body, time.time())
            self.log.append(request)
            self._received.notify_all()
        return request

    def wait_for(self, count: int, timeout_s: float = 10.0) -> bool:
        """Block until this many requests have come; False when they did not come in time."""
        with self._received:
            return self._received.wait_for(lambda: len(self.log) >= count, timeout_s)

    def answer(self, request: Request) -> Reply:
        """Ask the responder; a responder that raises fails the test that started the emulator."""
        path = request.path.partition("?")[0]
        for method, pattern, responder in self._routes:
            if method == request.method and pattern.fullmatch(path):
                try:
                    return responder(request)
                except Exception as error:  # noqa: BLE001 - kept, and raised by __exit__ on the test's thread
                    self.failures.append(error)
                    return Reply(status=500, body=repr(error).encode())
        return Reply(status=404, headers={"content-type": "text/plain"}, body=b"no such route")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], emulator: Emulator) -> None:
        self.emulator = emulator
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is part of the play."""

    def stop(self) -> None:
        """Stop listening, wake what hangs and close every connection."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            _shut(connection)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            self.close_connection = True
            return
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        emulator = self.server.emulator
        request = emulator.receive(self.command, self.path, headers, body)
        try:
            self._reply(emulator.answer(request))
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _serve  # noqa: N815 - http.server's names

    def _read_body(self) -> bytes | None:
        """Read the whole body; None when the client stopped in the middle or sent more than the limit."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return self._read_chunked()
        size = int(self.headers.get("content-length", "0"))
        if size > REQUEST_BYTES_MAX:
            return None
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def _read_chunked(self) -> bytes | None:
        parts: list[bytes] = []
        total = 0
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            total += size
            if total > REQUEST_BYTES_MAX:
                return None
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(parts)

    def _reply(self, reply: Reply) -> None:
        stopping = self.server.stopping
        if reply.hang:
            stopping.wait()
        if reply.hang or (reply.delay_s and stopping.wait(reply.delay_s)) or reply.drop_after == 0:
            self._drop()
            return
        self.wfile.write(_head(reply))
        pieces = reply.chunks or (reply.body,)
        left = reply.drop_after
        for number, piece in enumerate(pieces):
            if number and reply.chunk_delay_s and stopping.wait(reply.chunk_delay_s):
                left = 0
            sent = piece if left is None else piece[:left]
            self._write(sent, framed=bool(reply.chunks))
            if left is not None:
                left -= len(sent)
                if left <= 0:
                    self._drop()
                    return
        if reply.stall:
            stopping.wait()
        elif reply.chunks:
            self.wfile.write(b"0\r\n\r\n")
        if reply.stall or reply.drop_after is not None:
            self._drop()

    def _write(self, piece: bytes, *, framed: bool) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if framed else piece)

    def _drop(self) -> None:
        self.close_connection = True
        _shut(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def _head(reply: Reply) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    framing = {"transfer-encoding": "chunked"} if reply.chunks else {"content-length": str(len(reply.body))}
    lines = [f"{name}: {value}\r\n" for name, value in {**reply.headers, **framing}.items()]
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1")


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was faster
