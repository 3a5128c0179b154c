"""This project: a dispatch through the ledger."""

from __future__ import annotations

import asyncio
import sys

from turns import KEY, PROMPT, take_turns

from clients import AnthropicClient
from ledger import Config, Executor, Ledger


async def main(url: str, folder: str, in_flight: int) -> None:
    """Dispatch, everything on."""
    config = Config.from_mapping({"providers": {"anthropic": {"concurrency": in_flight}}})
    client = AnthropicClient("haiku", api_key=KEY, base_url=url)
    async with (
        Ledger.open(f"{folder}/ledger.db") as ledger,
        Executor(ledger, config, build=lambda *_: client) as executor,
    ):
        await take_turns("dispatch-ledger", lambda: executor.execute("haiku", PROMPT), in_flight)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
