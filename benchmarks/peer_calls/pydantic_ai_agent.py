"""pydantic-ai's Agent on its Anthropic model; it keeps no record."""

from __future__ import annotations

import asyncio
import sys

from anthropic import AsyncAnthropic
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from turns import KEY, MODEL, PROMPT, take_turns


async def main(url: str, _folder: str, in_flight: int) -> None:
    """Run an agent without tools."""
    sdk = AsyncAnthropic(api_key=KEY, base_url=url)
    agent = Agent(AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=sdk)))
    await take_turns("pydantic-ai-slim", lambda: agent.run(PROMPT), in_flight)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
