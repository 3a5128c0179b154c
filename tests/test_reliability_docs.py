"""What docs/reliability.md promises is tested: every promise names a test, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "reliability.md"
TEST: Final = re.compile(r"\[(?P<file>[\w/.]+\.py)::(?P<name>\w+)\]\((?P<link>[^)]+)\)")
ITEM: Final = re.compile(r"^- .*?(?=^- |^#|\Z)", re.MULTILINE | re.DOTALL)
EXCEPTIONS: Final = "## Not promised"


def functions(file: Path) -> set[str]:
    """Return the names of a file's tests, those of its classes too."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_named_test_exists() -> None:
    """In the file that the link leads to, which is the one that it names."""
    named = list(TEST.finditer(PAGE.read_text(encoding="utf-8")))
    assert len(named) > 10
    wrong = [
        match[0]
        for match in named
        if match["link"] != f"../{match['file']}" or match["name"] not in functions(ROOT / match["file"])
    ]
    assert wrong == []


def test_every_promise_names_its_test() -> None:
    """Each item of the list, up to what is not promised."""
    promised, _, rest = PAGE.read_text(encoding="utf-8").partition(EXCEPTIONS)
    assert rest
    items = [match[0] for match in ITEM.finditer(promised)]
    assert len(items) > 10
    assert [item for item in items if not TEST.search(item)] == []
