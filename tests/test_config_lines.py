"""Where the keys of a configuration file stand."""

from __future__ import annotations

import pytest

from ledger.config.lines import Lines

LINES = '''# ledger = "commented"
"ledger" = "x.db" # = [
[ providers . "a.b:make" ] # ]
text = """
[retry]
jitter = 1
"""
raw = \'\'\'
concurrency = "\'\' \'\'\'
list = [ # [tiers]
  "]", \'[\',
  { x = 1 },
]
"quoted key".below = 3
[[items]]
one = 1

[tiers.flash]
timeout_s = 3'''


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("ledger",), 2),
        (("providers",), 3),
        (("providers", "a.b:make"), 3),
        (("providers", "a.b:make", "text"), 4),
        (("providers", "a.b:make", "raw"), 8),
        (("providers", "a.b:make", "list"), 10),
        (("providers", "a.b:make", "list", 2, "x"), 10),
        (("providers", "a.b:make", "quoted key", "below"), 14),
        (("items", 0, "one"), 15),
        (("tiers", "flash", "timeout_s"), 19),
        (("tiers", "flash", "model"), 18),
        (("tiers", "pro"), 18),
        (("retry", "jitter"), None),
        (("concurrency",), None),
    ],
    ids=lambda value: ".".join(str(part) for part in value) if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_lines_of_keys(path: tuple[object, ...], expected: int | None, ends: str) -> None:
    """A key's line is found past comments, quotes, lists and texts over several lines, else that of its table."""
    assert expected == Lines(LINES.replace("\n", ends)).of(path)
