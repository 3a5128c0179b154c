"""This project: a dispatch with retries under a key; begun again, the key finds what is recorded."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

from turns import KEY, PROMPT

from clients import AnthropicClient
from ledger import Config, Executor, Ledger


async def main(url: str, folder: str, tries: int, pause_s: float) -> None:
    """Dispatch."""
    retry = {"backoff_initial_s": pause_s, "backoff_max_s": pause_s, "jitter": 0}
    client = AnthropicClient("haiku", api_key=KEY, base_url=url)
    async with (
        Ledger.open(f"{folder}/kept.db") as ledger,
        Executor(ledger, Config.from_mapping({"retry": retry}), build=lambda *_: client) as executor,
    ):
        result = await executor.execute("haiku", PROMPT, retry_count=tries - 1, idempotency_key="the-task")
    sys.stdout.write(f"{version('dispatch-ledger')}\n{result.error_type}\n")


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
