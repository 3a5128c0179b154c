"""A DBOS workflow of one step, its system database an SQLite file."""

from __future__ import annotations

import asyncio
import sys

from anthropic import AsyncAnthropic
from dbos import DBOS
from turns import KEY, MODEL, PROMPT, take_turns

URL, FOLDER, IN_FLIGHT = sys.argv[1], sys.argv[2], int(sys.argv[3])
DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{FOLDER}/dbos.sqlite", "log_level": "ERROR"})
SDK = AsyncAnthropic(api_key=KEY, base_url=URL, max_retries=0)


@DBOS.step()
async def ask(prompt: str) -> str:
    """Make the call."""
    message = await SDK.messages.create(model=MODEL, max_tokens=4096, messages=[{"role": "user", "content": prompt}])
    return message.content[0].text


@DBOS.workflow()
async def dispatch(prompt: str) -> str:
    """Make one durable step."""
    return await ask(prompt)


async def main() -> None:
    """Run workflows."""
    DBOS.launch()
    await take_turns("dbos", lambda: dispatch(PROMPT), IN_FLIGHT)


asyncio.run(main())
