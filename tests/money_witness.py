"""What the providers billed, worked out by hand: nothing but their own log, a price list and decimal arithmetic.

``python -m tests.money_witness requests.jsonl dispatch.db`` prints what every report has to say, as JSON. It reads of
the ledger only which request an attempt was: by its id, else by model, prompt and time. All figures come from the log.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import sys
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

__all__ = ["figures"]

USD_PER_MTOK: dict[str, list[tuple[int, str, str, str | None, str | None, str]]] = {
    # input, cache read, 5-minute write, 1-hour write, output; above so many tokens of input, all of it
    "gemini-2.5-flash": [(0, "0.3", "0.03", None, None, "2.5")],
    "gemini-2.5-pro": [(0, "1.25", "0.125", None, None, "10"), (200_000, "2.5", "0.25", None, None, "15")],
    "claude-haiku-5-5": [
        (0, "0.1", "0.01", "0.125", "0.2", "0.5"),
        (100_000, "0.5", "0.05", "0.625", "1", "2.5"),
    ],
    "claude-sonnet-5-5": [(0, "2", "0.1", "2.5", "4", "10")],
}


def billed(request: dict[str, Any]) -> tuple[tuple[int, ...], int | None]:
    """Return the five counts that a provider charged for, and what they cost in nano-USD: None without a price."""
    usage = request["usage"]
    if request["provider"] == "anthropic":
        writes = usage["cache_creation"]
        counts = (
            usage["input_tokens"],
            usage["cache_read_input_tokens"],
            writes["ephemeral_5m_input_tokens"],
            writes["ephemeral_1h_input_tokens"],
            usage["output_tokens"],
        )
    else:
        cached = usage.get("cachedContentTokenCount", 0)
        out = usage["candidatesTokenCount"] + usage.get("thoughtsTokenCount", 0)
        counts = (usage["promptTokenCount"] - cached, cached, 0, 0, out)
    if request["served"] not in USD_PER_MTOK:
        return counts, None
    step = [step for step in USD_PER_MTOK[request["served"]] if sum(counts[:4]) > step[0] or not step[0]][-1]
    rates = [Decimal(rate or 0) for rate in step[1:]]
    dollars = sum((Decimal(count) * rate / 10**6 for count, rate in zip(counts, rates, strict=True)), Decimal(0))
    return counts, int((dollars * 10**9).to_integral_value(ROUND_HALF_EVEN))


def figures(log: Path, ledger: Path) -> dict[str, Any]:
    """Return the totals by tier, model and purpose, and each attempt's cost as it has to be."""
    ids, prompts = {}, defaultdict(list)
    for request in map(json.loads, log.read_text().splitlines()):
        if request["provider"] == "anthropic":
            ids[request["id"]] = request
        else:
            prompts[request["asked"], request["digest"]].append(request)
    database = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    texts = database.execute("SELECT task_id, bytes FROM payloads WHERE slot = 'prompt'")
    digests = {task_id: hashlib.sha256(text).hexdigest() for task_id, text in texts}
    columns = "task_id, attempt, tier, provider, request_model, purpose, request_id, started_at_ms, ended_at_ms, state"
    rows: dict[tuple[str, str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    costs: dict[str, int | None] = {}
    for task_id, attempt, tier, provider, asked, purpose, request_id, began, ended, state in database.execute(
        f"SELECT {columns} FROM attempts ORDER BY started_at_ms, task_id, attempt"
    ):
        request = ids.get(request_id)
        if provider == "gemini":
            mine = prompts[asked, digests[task_id]]
            request = next((one for one in mine if ended is not None and began <= one["time_ms"] <= ended), None)
            if request is not None:
                mine.remove(request)
        known = request is not None and request["answered"] and state != "orphaned"  # its answer reached nobody
        served = request["served"] if request and known and request["status"] == 200 else asked
        row = rows[tier, served, purpose]
        row["attempts"] += 1
        if request is None or not known:
            row["unknown"] += 1
            continue
        counts, cost = ((0,) * 5, 0) if request["status"] != 200 else billed(request)
        costs[f"{task_id}/{attempt}"] = cost
        row["unknown"] += cost is None
        row["cost"] += cost or 0
        row["input"] += sum(counts[:4])
        row["output"] += counts[4]
    totals = [dict(zip(("tier", "model", "purpose"), key, strict=True)) | row for key, row in sorted(rows.items())]
    return {"totals": totals, "costs": costs, "calls_left": sum(map(len, prompts.values()))}


if __name__ == "__main__":
    print(json.dumps(figures(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))  # noqa: T201 - what it is for
