"""Somebody with many prompts: ``python -m tests.hosts.submitting LEDGER`` queues each line of standard input."""

from __future__ import annotations

import asyncio
import sys

from ledger import Executor, Ledger

__all__: list[str] = []


async def main(url: str) -> None:
    """Queue the prompts, and print the tasks' ids."""
    async with Ledger.open(url) as ledger, Executor(ledger) as executor:
        for prompt in sys.stdin.read().splitlines():
            sys.stdout.write(f"{await executor.submit('haiku', prompt)}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
