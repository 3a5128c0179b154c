"""The demonstration: a small batch over all five tiers, on models that are played. Nothing is sent, nothing costs."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from ledger.batch.lines import Asked, read_batch
from ledger.config import Config

__all__ = ["CONFIG", "TO_JUDGE", "demo_batch", "demo_config"]

PRICES: Final = {
    "flash": Decimal("0.3"),
    "pro": Decimal("1.25"),
    "haiku": Decimal(1),
    "sonnet": Decimal(3),
    "opus": Decimal(5),
}
"""Of input, in USD for a million tokens; played, as the models are."""

CONFIG: Final[Mapping[str, Any]] = {
    "ledger": "sqlite:///dispatch-demo.db",
    # The real waits (1 s, 2 s, 4 s …), twenty times as fast.
    "retry": {"backoff_initial_s": 0.05, "backoff_max_s": 0.4},
    "tiers": {
        "flash": {"provider": "simulated", "model": "demo-flash", "fallback": "haiku"},
        "pro": {"provider": "simulated", "model": "demo-pro"},
        "haiku": {"provider": "simulated", "model": "demo-haiku"},
        "sonnet": {"provider": "simulated", "model": "demo-sonnet"},
        "opus": {"provider": "simulated", "model": "demo-opus"},
    },
    "prices": {
        f"simulated/demo-{tier}": {"input_usd_per_mtok": price, "output_usd_per_mtok": 5 * price}
        for tier, price in PRICES.items()
    },
    "providers": {
        "simulated": {
            "seed": 633,
            "concurrency": 8,
            "models": {
                "demo-flash": {
                    "latency_ms": [20, 60],
                    "failures": {"rate_limited": 0.3, "overloaded": 0.15, "timeout": 0.15},
                },
                "demo-pro": {"latency_ms": [60, 160], "failures": {"rate_limited": 0.2}},
                "demo-haiku": {"latency_ms": [20, 70], "failures": {"overloaded": 0.15}},
                "demo-sonnet": {"latency_ms": [50, 140], "failures": {"overloaded": 0.1}},
                "demo-opus": {"latency_ms": [90, 220], "failures": {"overloaded": 0.2, "content_refused": 0.1}},
            },
        }
    },
}
"""A ``dispatch.toml`` as tables; the seed was chosen so that something of everything happens."""

PROMPTS: Final[Mapping[str, tuple[str, ...]]] = {
    "flash": (
        "Say in one line what a ledger is.",
        "Name three uses of a retry with backoff.",
        "Translate into French: every attempt is written down.",
        "Is 2027 a prime number? Answer yes or no.",
        "Give a headline for a note on audit trails.",
        "Sort these words: tier, route, task, attempt.",
    ),
    "pro": (
        "Compare optimistic and pessimistic locking in three sentences.",
        "Explain group commit to a student.",
        "List the risks of retrying a request that has side effects.",
    ),
    "haiku": (
        "Write a haiku about a queue that is empty at last.",
        "Shorten to ten words: a call that may have been billed is never counted as free.",
        "Suggest a name for a worker that never sleeps.",
    ),
    "sonnet": (
        "Review this rule: a deadline is an instant, a timeout is a duration.",
        "Draft a test plan for a process that may be killed at any instant.",
        "Explain why money is kept in integers.",
    ),
    "opus": (
        "Argue for and against keeping every event for ever.",
        "Design a scheme that shows when a row of a log was changed.",
        "What may an executor forget, and what may it never forget?",
    ),
}

TO_JUDGE: Final = (
    "Say in one line what a ledger is.",
    "Explain group commit to a student.",
    "Explain why money is kept in integers.",
    "Suggest a name for a worker that never sleeps.",
)
"""The prompts whose answers are judged."""


def demo_config() -> Config:
    """Return the configuration of the demonstration."""
    return Config.from_mapping(CONFIG, source="the demonstration")


def demo_batch() -> tuple[Asked, ...]:
    """Return its tasks, read as a batch's lines are, but without keys: each demonstration asks anew."""
    lines = [
        json.dumps({"prompt": prompt, "tier": tier, "labels": {"set": "demo"}})
        for tier, prompts in PROMPTS.items()
        for prompt in prompts
    ]
    batch = read_batch(io.BytesIO("\n".join(lines).encode()), "the demonstration")
    return tuple(replace(asked, request=replace(asked.request, default_key=None)) for asked in batch)
