"""The docs are true: generated pages are current, examples run, and every command is described."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import pytest

from ledger.config import load_config
from tests.conftest import need_program
from tests.pages import DOCS, PAGES, commands

ROOT: Final = DOCS.parent
WRITTEN: Final = [ROOT / "README.md", *sorted(path for path in DOCS.glob("*.md") if path.name not in PAGES)]
"""The pages that people write."""

BLOCK: Final = re.compile(
    r"^```(?P<language>bash|python) run(?: needs=(?P<needs>[\w,.-]+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
"""A fenced example that is run: its info string is ``bash run`` or ``python run``, with ``needs=sqlite3`` for programs
that a machine may lack. The examples of a page run in its order, in one folder that is empty at first."""

SETTINGS: Final = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\((?!https?:|mailto:)(?P<path>[^)#]*)(?:#[^)]*)?\)")
TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class Example:
    """A block of a page."""

    language: str
    needs: tuple[str, ...]
    code: str

    def run(self, folder: Path) -> str:
        """Run it in a folder, as a reader would who has the command installed; return what was said if it failed."""
        command = ["bash", "-euo", "pipefail", "-c"] if self.language == "bash" else [sys.executable, "-c"]
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(  # noqa: PLW1510 - the code is looked at below
            [*command, self.code],
            cwd=folder,
            env={**os.environ, "PATH": binaries, "HOME": str(folder.parent), "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        return "" if done.returncode == 0 else f"{self.code}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"


def examples(page: Path) -> Iterator[Example]:
    """Yield the runnable blocks of a page."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        needs = tuple((block["needs"] or "").split(",")) if block["needs"] else ()
        yield Example(block["language"], needs, block["code"])


def page_ids(pages: list[Path]) -> list[object]:
    """Make one test a page."""
    return [pytest.param(page, id=page.name) for page in pages]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    """What ``make docs`` would write stands there already."""
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run: make docs"


@pytest.mark.slow
@pytest.mark.parametrize("page", page_ids([page for page in WRITTEN if any(examples(page))]))
def test_the_examples_of_a_page_run(page: Path, empty_folder: Path) -> None:
    """Every block that says so runs, in order, in an empty folder."""
    for example in examples(page):
        for program in example.needs:
            need_program(program)
        assert example.run(empty_folder) == ""


def test_the_readme_shows_the_program_at_work() -> None:
    """The first page has examples that run, of the command and of the Python API."""
    assert {"bash", "python"} == {example.language for example in examples(ROOT / "README.md")}


@pytest.mark.parametrize("page", page_ids([*WRITTEN, ROOT / "CHANGELOG.md", *(DOCS / name for name in PAGES)]))
def test_links_lead_somewhere(page: Path) -> None:
    """A link into the project names a file that exists."""
    paths = [link["path"] for link in LINK.finditer(page.read_text(encoding="utf-8")) if link["path"]]
    assert [path for path in paths if not (page.parent / path).exists()] == []


def test_the_readme_gives_the_defaults(empty_folder: Path) -> None:
    """The configuration on the first page is what holds without any."""
    (block,) = SETTINGS.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    written = empty_folder / "written.toml"
    written.write_text(block, encoding="utf-8")
    assert load_config(None) == load_config(str(written))


def test_every_design_page_is_in_the_readme() -> None:
    """A reader finds each page of docs/ from the first page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in readme] == []


def test_every_command_and_option_says_what_it_does() -> None:
    """``--help`` leaves nothing unexplained."""
    silent = [
        " ".join((*path, *getattr(parameter, "opts", ())))
        for path, command, _ in commands()
        for parameter in (command, *command.params)
        if not (isinstance(parameter, click.Argument) or getattr(parameter, "help", None))
    ]
    assert silent == []


def test_every_command_stands_in_a_page_that_people_wrote() -> None:
    """A command without docs fails."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in WRITTEN)
    names = [" ".join(path) for path, command, _ in commands() if not isinstance(command, click.Group)]
    assert [name for name in names if name not in text] == []
