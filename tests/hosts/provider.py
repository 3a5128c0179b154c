"""The provider's host: ``python -m tests.hosts.provider ADDRESS PORT LOG`` plays Anthropic until standard input ends.

The first call of a prompt takes as long as its first word says, in seconds; any other is answered at once. Each call
is one line of the log, written before it is answered.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Final

from tests.emulator import Emulator, Reply, Request
from tests.emulator.anthropic import Anthropic, answer, prompt_of

__all__ = ["said"]


def said(prompt: str, index: int) -> str:
    """Return the answer to a call; no two calls have the same."""
    return f"{prompt}: answer {index}"


class Witness:
    """Answers, and writes down what was asked.

    Args:
        log: the file.
    """

    def __init__(self, log: Path) -> None:
        self._log: Final = log.open("a", encoding="utf-8")
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()

    def step(self, request: Request) -> Reply:
        """Answer one call."""
        prompt = prompt_of(request.json())
        with self._lock:
            self._asked[prompt] += 1
            delay_s = float(prompt.split()[0]) if self._asked[prompt] == 1 else 0.0
            line = {"index": request.index, "prompt": prompt, "at": request.received_at, "delay_s": delay_s}
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        return answer(said(prompt, request.index), delay_s=delay_s)(request)


def main(address: str, port: str, log: str) -> None:
    """Serve."""
    witness = Witness(Path(log))
    with Emulator(int(port), address) as emulator:
        Anthropic(emulator).by_prompt(lambda _: witness.step)
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
