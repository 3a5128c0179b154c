"""The emulator: a complete log, faults of the wire as scripted, and a quick end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.emulator import Emulator, Reply


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(url: str, path: str, body: bytes = b"{}") -> bytes:
    """Send one request by hand and give all that comes until the server closes."""
    async with connected(url) as (reader, writer):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        return await reader.read()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(body=b"hello"), b"hello"),
        (Reply(status=529, body=b"busy"), b"busy"),
        (Reply(chunks=(b"ab", b"c")), b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        (Reply(body=b"hello", drop_after=2), b"he"),
        (Reply(chunks=(b"ab", b"cd"), drop_after=3), b"2\r\nab\r\n1\r\nc\r\n"),
        (Reply(body=b"late", delay_s=0.05), b"late"),
    ],
    ids=["plain", "odd status", "chunked", "cut", "cut in chunks", "late"],
)
async def test_replies(reply: Reply, expected: bytes) -> None:
    """A reply goes out as scripted, also when it breaks off."""
    with Emulator() as emulator:
        emulator.route("POST", "/v1/x", lambda _request: reply)
        head, _, body = (await ask(emulator.url, "/v1/x?alt=sse")).partition(b"\r\n\r\n")
    assert expected == body
    assert head.startswith(f"HTTP/1.1 {reply.status} ".encode())


async def test_a_drop_before_the_status_line_sends_nothing() -> None:
    """The request is received and logged, and nothing comes back."""
    with Emulator() as emulator:
        emulator.route("POST", "/v1/x", lambda _request: Reply(drop_after=0))
        assert await ask(emulator.url, "/v1/x", b"asked") == b""
        assert [request.body for request in emulator.log] == [b"asked"]


async def test_the_log_is_complete() -> None:
    """Every request is in the log, unknown paths too, however many come at once."""
    with Emulator() as emulator:
        answers = await asyncio.gather(*(ask(emulator.url, f"/nowhere/{number}") for number in range(50)))
        assert {b"404"} == {answer.split(b" ")[1] for answer in answers}
        assert sorted(f"/nowhere/{number}" for number in range(50)) == sorted(r.path for r in emulator.log)
        assert list(range(50)) == [request.index for request in emulator.log]


async def test_it_ends_while_requests_hang() -> None:
    """Leaving the block ends what hangs, at once."""
    with Emulator() as emulator:
        emulator.route("POST", "/v1/x", lambda _request: Reply(hang=True))
        call = asyncio.create_task(ask(emulator.url, "/v1/x"))
        assert await asyncio.to_thread(emulator.wait_for, 1)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert await call == b""


async def test_clients_that_go_away_are_borne(capsys: pytest.CaptureFixture[str]) -> None:
    """A client that leaves in the middle of its request or of the answer leaves no trace but the log."""
    with Emulator() as emulator:
        emulator.route("POST", "/v1/x", lambda _request: Reply(chunks=(b"x" * 2**20,) * 8))
        async with connected(emulator.url) as (_, writer):
            writer.write(b"POST /v1/x HTTP/1.1\r\nContent-Length: 100\r\n\r\nonly this")
        async with connected(emulator.url) as (reader, writer):
            writer.write(b"POST /v1/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
            await reader.readexactly(100)
        await ask(emulator.url, "/nowhere")
        assert [request.path for request in emulator.log] == ["/v1/x", "/nowhere"]
    assert capsys.readouterr() == ("", "")


def test_a_responder_that_fails_fails_the_test() -> None:
    """What a responder raises comes out where the emulator was started."""

    def broken(_request: object) -> Reply:
        raise KeyError("step")

    def run() -> None:
        with Emulator() as emulator:
            emulator.route("POST", "/v1/x", broken)
            asyncio.run(ask(emulator.url, "/v1/x"))

    with pytest.raises(KeyError, match="step"):
        run()


@contextmanager
def program(*options: str) -> Iterator[str]:
    """Run the emulator as a program and give its address."""
    command = [sys.executable, "-m", "tests.emulator", *options]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as running:
        timer = threading.Timer(30, running.kill)
        timer.start()
        try:
            assert running.stdout
            yield running.stdout.readline().strip()
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait() == 0
            timer.cancel()


def asked(number: int) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": f"p{number}"}]}).encode()


def statuses(log: Path, *options: str) -> list[int | None]:
    """Ask forty prompts twice each, and read from the log what was answered."""
    with program("--log", str(log), *options) as url:
        for number in [*range(40)] * 2:
            asyncio.run(ask(url, "/v1/messages", asked(number)))
        asyncio.run(ask(url, "/v1beta/models/g:streamGenerateContent?alt=sse", b'{"contents": [{"parts": []}]}'))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "path", "model", "digest", "status"} == set(lines[0])
    assert [line["model"] for line in lines] == ["m"] * 80 + ["g"]
    return [line["status"] for line in lines[:80]]


def test_as_a_program_it_logs_and_fails_by_seed(tmp_path: Path) -> None:
    """The program prints its address, logs a line a request, and a seed decides which requests fail and how."""
    assert statuses(tmp_path / "plain.jsonl") == [200] * 80
    first, again = statuses(tmp_path / "a.jsonl", "--faults", "7"), statuses(tmp_path / "b.jsonl", "--faults", "7")
    assert first == again
    assert {200, 429, 529, None} == set(first)
    assert first != statuses(tmp_path / "c.jsonl", "--faults", "8")
