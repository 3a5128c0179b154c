"""LiteLLM's Router with a callback that writes a line a call, flushed and not synced."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger
from turns import KEY, MODEL, PROMPT, take_turns


class Log(CustomLogger):
    """Writes what came of each call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", encoding="utf-8")

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Write a line."""
        usage = response_obj.usage
        line = {"model": kwargs["model"], "input": usage.prompt_tokens, "output": usage.completion_tokens}
        self._file.write(json.dumps({**line, "started": str(start_time), "ended": str(end_time)}) + "\n")
        self._file.flush()


async def main(url: str, folder: str, in_flight: int) -> None:
    """Call through a router with one deployment."""
    litellm.callbacks = [Log(Path(folder) / "log.jsonl")]
    parameters = {"model": f"anthropic/{MODEL}", "api_key": KEY, "api_base": url}
    router = litellm.Router(model_list=[{"model_name": "haiku", "litellm_params": parameters}], num_retries=2)
    await take_turns(
        "litellm",
        lambda: router.acompletion(model="haiku", max_tokens=4096, messages=[{"role": "user", "content": PROMPT}]),
        in_flight,
    )


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
