"""Both providers on loopback, for people and for end-to-end tests: ``python -m tests.emulator``."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from tests.emulator import anthropic as anthropic_api
from tests.emulator import gemini as google_api
from tests.emulator.server import Emulator, Reply, Request

FAULT_RATE = 0.3
KINDS = ("rate_limited", "overloaded", "dropped", "garbage")
ANTHROPIC_FAULTS = {
    "rate_limited": anthropic_api.error(429, "rate_limit_error", "slow down", headers={"retry-after": "1"}),
    "overloaded": anthropic_api.error(529, "overloaded_error", "overloaded"),
    "dropped": anthropic_api.dropped(),
    "garbage": anthropic_api.garbage(),
}
GOOGLE_FAULTS = {
    "rate_limited": google_api.error(429, "slow down", retry_delay_s=1, reason="RESOURCE_EXHAUSTED"),
    "overloaded": google_api.error(503, "overloaded", reason="UNAVAILABLE"),
    "dropped": google_api.dropped(),
    "garbage": google_api.garbage(),
}


class Playground(Emulator):
    """An emulator that logs each request with the status answered, and lets a part of them fail."""

    def __init__(self, port: int, log: TextIO | None, faults: Callable[[str], str | None]) -> None:
        super().__init__(port)
        self._file = log
        self._faults = faults
        self._lock = threading.Lock()
        anthropic_api.Anthropic(self)
        google_api.Google(self)

    def answer(self, request: Request) -> Reply:
        """Answer, or fail by the prompt's draw, and write one line."""
        model, digest = _read(request)
        kind = self._faults(digest) if model is not None else None
        reply = super().answer(request) if kind is None else _fault(kind, request)
        line = {
            "time": int(request.received_at * 1000),
            "path": request.path,
            "model": model,
            "digest": digest,
            "status": None if reply.hang or reply.drop_after is not None else reply.status,
        }
        if self._file is not None:
            with self._lock:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
        return reply


class Faults:
    """Which requests fail: decided by the seed, the prompt's digest and how often that prompt came before."""

    def __init__(self, seed: str | None, rate: float) -> None:
        self._seed = seed
        self._rate = rate
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, digest: str) -> str | None:
        """Name the fault of this request, if any."""
        if self._seed is None:
            return None
        with self._lock:
            self._seen[digest] += 1
            named = f"{self._seed}|{digest}|{self._seen[digest]}"
        draw = int.from_bytes(hashlib.sha256(named.encode()).digest()[:8]) / 2**64
        return KINDS[int(draw / self._rate * len(KINDS))] if draw < self._rate else None


def _read(request: Request) -> tuple[str | None, str]:
    """Give the model asked for and the digest of the user's text; no model, no call to one."""
    try:
        body = request.json()
        if request.path.partition("?")[0] == "/v1/messages":
            return str(body["model"]), _digest(anthropic_api.prompt_of(body))
        return google_api.model_of(request) or None, _digest(google_api.prompt_of(body))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, _digest("")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _fault(kind: str, request: Request) -> Reply:
    steps = ANTHROPIC_FAULTS if request.path.startswith("/v1/") else GOOGLE_FAULTS
    return steps[kind](request)


def main() -> None:
    """Serve until SIGINT or SIGTERM; the first line on stdout is the address."""
    parser = argparse.ArgumentParser(prog="python -m tests.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--log", type=Path, help="a file to which each request adds one JSON line")
    parser.add_argument("--faults", metavar="SEED", help="let a part of the requests fail, by this seed")
    parser.add_argument("--fault-rate", type=float, default=FAULT_RATE, help="which part, with --faults (%(default)s)")
    options = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    file = options.log.open("a", encoding="utf-8") if options.log else None
    with Playground(options.port, file, Faults(options.faults, options.fault_rate)) as playground:
        sys.stdout.write(f"{playground.url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)
    if file is not None:
        file.close()


if __name__ == "__main__":
    main()
