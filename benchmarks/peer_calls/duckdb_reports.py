"""Ask DuckDB what reports answer: of a ledger's file, and of the same attempts as Parquet. Prints seconds as JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

import duckdb
from duckdb_extensions import extension_importer

LATENCY = """
SELECT started_at_ms // 86400000, tier, coalesce(response_model, request_model), count(*), avg(latency_ms),
    quantile_disc(latency_ms, [0.5, 0.95, 0.99]), max(latency_ms)
FROM {source} WHERE purpose = 'generate' AND state = 'succeeded' GROUP BY ALL
"""
COST = """
SELECT started_at_ms // 86400000, tier, coalesce(response_model, request_model), purpose, count(*), sum(tokens_input),
    sum(tokens_output), sum(cost_nano_usd), count(*) - count(cost_nano_usd),
    sum(CASE WHEN cost_nano_usd IS NULL THEN exposure_nano_usd END)
FROM {source} GROUP BY ALL
"""


def main() -> None:
    """Ask each question so many times of each source."""
    file, rounds = Path(sys.argv[1]), int(sys.argv[2])
    extension_importer.import_extension("sqlite_scanner")
    database = duckdb.connect()
    database.execute("LOAD sqlite_scanner")
    database.execute(f"ATTACH '{file}' AS ledger (TYPE sqlite, READ_ONLY)")
    parquet = file.with_suffix(".parquet")
    database.execute(f"COPY (SELECT * FROM ledger.attempts) TO '{parquet}' (FORMAT parquet)")  # noqa: S608 - our own folder
    told = {}
    for name, question in (("latency", LATENCY), ("cost", COST)):
        for of, source in (("file", "ledger.attempts"), ("Parquet", f"'{parquet}'")):
            took = []
            for _ in range(rounds):
                begun = time.perf_counter()
                database.execute(question.format(source=source)).fetchall()
                took.append(time.perf_counter() - begun)
            told[f"{name}, {of}"] = median(took)
    sys.stdout.write(json.dumps({"version": duckdb.__version__, "took": told}))


if __name__ == "__main__":
    main()
