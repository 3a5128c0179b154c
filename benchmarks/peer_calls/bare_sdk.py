"""The Anthropic SDK and nothing else."""

from __future__ import annotations

import asyncio
import sys

import anthropic
from turns import KEY, MODEL, PROMPT, take_turns


async def main(url: str, _folder: str, in_flight: int) -> None:
    """Call as the SDK's own documentation does."""
    sdk = anthropic.AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0)
    await take_turns(
        "anthropic",
        lambda: sdk.messages.create(model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": PROMPT}]),
        in_flight,
    )


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
