"""Providers' exports: every form adds up exactly, and a bad file is refused whole, with the line and the field."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.errors import RequestRefused
from ledger.reconciling.billed import COUNTS, DAY_MS, Span
from ledger.reconciling.exports import Theirs, opened_export, summed

HEADER: Final = "day,provider,model,request_id,output_tokens,cost_usd"
LINE: Final = "2026-11-21,anthropic,claude-haiku-5-5,req_1,12,0.5"
QUOTED: Final = '"claude-haiku-5-5","req_1","12","5e-1"\n'
DAY: Final = 20_778
BUCKET: Final = {"starting_at": "2026-11-21T00:00:00Z", "ending_at": "2026-11-22T00:00:00Z"}
USED: Final = {
    "uncached_input_tokens": 1,
    "cache_read_input_tokens": 2,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    "output_tokens": 5,
    "model": "m",
}


def read(folder: Path, content: str | bytes, name: str = "export.csv") -> Theirs:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return asyncio.run(summed(opened_export(path), lambda _, model: model))


def usage_report(*results: dict[str, Any], **bucket: Any) -> dict[str, Any]:
    return {"data": [{**BUCKET, "results": list(results), **bucket}], "has_more": False, "next_page": None}


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n{LINE}\n",
        f"{HEADER}\r\n{LINE}\r\n",
        f"\ufeff{HEADER}\n\n{LINE}",
        '"day","provider","model","request_id",output_tokens,cost_usd\n"2026-11-21"," anthropic ",' + QUOTED,
        f"{HEADER.replace('day', 'time')}\n2026-11-22T00:30:00+01:00{LINE[10:]}\n",
    ],
    ids=["plain", "crlf", "byte order mark, empty line", "quoted", "another zone"],
)
def test_one_row(tmp_path: Path, content: str) -> None:
    """However it is written it is the same row, on the UTC day; what has no column is unknown."""
    theirs = read(tmp_path, content)
    ((group, sums),) = theirs.groups.items()
    assert (DAY, "anthropic", "claude-haiku-5-5") == group
    assert (12, None, Fraction(500_000_000)) == (
        sums.counts["output_tokens"],
        sums.counts["cache_read_tokens"],
        sums.cost_nano_usd,
    )
    assert [Span(DAY * DAY_MS, (DAY + 1) * DAY_MS)] == theirs.covered


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["2026-11-21,anthropic,m,r,-1,"], "line 2: output_tokens: expected a whole number from 0 on, found '-1'"),
        (["2026-11-21,anthropic,m,r,1.0,"], "line 2: output_tokens"),
        (["2026-11-21,anthropic,m,r,٣,"], "line 2: output_tokens"),
        (["2026-11-21,anthropic,m,r,9223372036854775808,"], "line 2: output_tokens"),
        (["2026-11-21,anthropic,m,r,1,-0.5"], "line 2: cost_usd: expected a decimal number from 0 on, found '-0.5'"),
        (["2026-11-21,anthropic,m,r,1,NaN"], "line 2: cost_usd"),
        (["2026-11-21,anthropic,m,r,1,1e999"], "line 2: cost_usd"),
        (['2026-11-21,anthropic,m,r,1,"1,5"'], "line 2: cost_usd"),
        (["2026-11-21,anthropic,m,r,,"], "line 2: cost_usd: found neither a count nor a cost"),
        (["21.11.2026,anthropic,m,r,1,"], "line 2: day: expected a date or time as 2026-11-22"),
        (["1969-12-31,anthropic,m,r,1,"], "line 2: day: expected a time since 1970"),
        (["2026-11-21,,m,r,1,"], "line 2: provider: expected a name, found nothing"),
        (["2026-11-21,anthropic,,r,1,"], "line 2: model: expected a name, found nothing"),
        (["2026-11-21,anthropic,m\x1b[31m,r,1,"], "line 2: model: expected a name"),
        (["2026-11-21,anthropic,m,r,1"], "line 2: fields: expected 6 of them as in the header, found 5"),
        ([LINE, LINE], "line 3: row: the request 'req_1' is also at export.csv: line 2"),
        (
            ["2026-11-21,anthropic,m,,1,", "2026-11-21,anthropic,m,,2,"],
            "line 3: row: the same row, but for its figures, is also at export.csv: line 2",
        ),
        (['2026-11-21,anthropic,"m,r,1,'], "line 2: row: unexpected end of data"),
        (['2026-11-21,anthropic,"m"x,r,1,'], "line 2: row: ',' expected after '\"'"),
        (["2026-11-21,anthropic,m\0,r,1,"], "line 2: row: found a NUL character"),
        ([LINE, f"2026-11-21,anthropic,{'m' * 10_000_000},r,1,"], "line 3: row: field larger than field limit"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[8:40],
)
def test_a_row_that_cannot_be(tmp_path: Path, rows: list[str], said: str) -> None:
    """It is refused with its line and its field."""
    with pytest.raises(RequestRefused) as refused:
        read(tmp_path, "\n".join((HEADER, *rows)))
    assert f"export.csv: {said}" in str(refused.value)
    assert str(refused.value).endswith("; nothing was settled")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: header: found none"),
        (b"a,b\n", "line 1: header: expected the columns day or time, provider, model"),
        (b"day,provider,model,day\n", "line 1: header: found the column 'day' twice"),
        (b"day,time,provider,model\n", "line 1: header: expected day or time, found both"),
        (b"day,provider,model,output_token\n", "unknown column 'output_token'; did you mean output_tokens?"),
        (b"usage_date_utc,model\n", "line 1: header: expected the columns of the Console's usage export"),
        (f"{HEADER}\n".encode() + b"2026-11-21,\xff\n", "expected UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "expected UTF-8"),
        (b"{", "line 1, column 2: JSON: Expecting property name"),
        (b"[1]", "page 1: data: expected a usage or cost report"),
        (b'{"data": 1}', "data: expected a usage or cost report"),
        (b"[" * 100_000, "JSON"),
        (b'{"data": [{"results": 1}]}', "data[0]: results: expected an object with a list named results"),
        (b'{"data": [{"results": []}]}', "data[0]: starting_at: expected a date or time"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_file_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    """It is refused, and says what was expected."""
    with pytest.raises(RequestRefused) as refused:
        read(tmp_path, content)
    assert said in str(refused.value)


def test_a_usage_report(tmp_path: Path) -> None:
    """Rows of a model add up over service tiers and workspaces; a bucket without rows is known to be empty."""
    page = usage_report(USED, USED | {"service_tier": "batch"})
    empty = usage_report(starting_at="2026-11-22T00:00:00Z", ending_at="2026-11-23T00:00:00Z")
    theirs = read(tmp_path, json.dumps([page, empty]), "usage.json")
    ((group, sums),) = theirs.groups.items()
    assert (DAY, "anthropic", "m") == group
    assert dict(zip(COUNTS, (2, 4, 6, 8, 10), strict=True)) == sums.counts
    assert [Span(DAY * DAY_MS, (DAY + 2) * DAY_MS)] == theirs.covered
    assert sums.cost_nano_usd is None


def test_a_cost_report(tmp_path: Path) -> None:
    """Amounts are cents, as a text or a number, exact."""
    rows = ('{"amount": "123.45678901234567", "model": "m"}', '{"amount": 0.1, "model": "m", "token_type": "o"}')
    bucket = json.dumps(BUCKET)[:-1]
    theirs = read(tmp_path, f'{{"data": [{bucket}, "results": [{", ".join(rows)}]}}]}}', "cost.json")
    (sums,) = theirs.groups.values()
    assert Fraction("1.2355678901234567") * 10**9 == sums.cost_nano_usd
    assert dict.fromkeys(COUNTS) == sums.counts


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            usage_report(USED | {"model": None}),
            "model: found none; ask for the report with group_by[]=model",
        ),
        (usage_report(USED | {"output_tokens": None}), "results[0]: output_tokens: found none"),
        (usage_report(USED | {"output_tokens": True}), "results[0]: output_tokens: expected a whole number"),
        (usage_report(USED | {"uncached_input_tokens": -3}), "uncached_input_tokens: expected a whole number"),
        (usage_report(USED, USED), "results[1]: row: the same row, but for its figures, is also at"),
        (usage_report({"amount": "x", "model": "m"}), "results[0]: amount: expected a decimal number"),
        (usage_report({"amount": "1"}), "model: found none; ask for the report with group_by[]=description"),
        (usage_report({"amount": "1", "model": "m", "currency": "EUR"}), "currency: expected USD"),
        (usage_report(USED, ending_at="2026-11-21T00:00:00Z"), "ending_at: expected an end after starting_at"),
        (usage_report(USED, ending_at="2026-11-23T00:00:00Z"), "ending_at: expected a bucket within one UTC day"),
        ([usage_report(), usage_report()], "starting_at: its time is also that of"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_report_that_cannot_be(tmp_path: Path, page: Any, said: str) -> None:
    """It is refused with its bucket, its row and its field."""
    with pytest.raises(RequestRefused) as refused:
        read(tmp_path, json.dumps(page), "report.json")
    assert said in str(refused.value)
