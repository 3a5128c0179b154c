"""The limits of style that no linter knows: sizes, words, reasons beside exceptions, and what a module shows."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

pytestmark = pytest.mark.slow  # ``make lint`` runs it, as the other checks of style

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("ledger", "clients")

MODULE_LINES: Final = 250
FUNCTION_LINES: Final = 50
EXPORTS: Final = 30

UNFINISHED: Final = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
MACHINE: Final = re.compile(
    r"(?<![\w.])/(work|root|opt|home|Users)/\w|(registry\.npm" + r"js|py" + r"pi|pythonhosted)\.org"
)
REASON: Final = r"\s+[-#]\s+\S.{3,}"
EXCUSES: Final = (
    (re.compile(r"#\s*noqa\b"), re.compile(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)*" + REASON)),
    (re.compile(r"#\s*type:\s*ignore\b"), re.compile(r"# type: ignore\[[a-z-]+(, ?[a-z-]+)*\]" + REASON)),
)
VAGUE_CLASS: Final = re.compile(r"(Manager|Service|Helpers?|Utils?|Handler|Processor|Info)$|^(Abstract|Base)[A-Z]")
VAGUE_FILE: Final = re.compile(r"(^|_)(manager|service|helper|util|handler|processor|info|common|misc)s?$")

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def below(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    """Return the files of these folders, sorted."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in suffixes and "__pycache__" not in path.parts)


PRODUCT: Final = below("ledger", "clients", "migrations")
PYTHON: Final = [*PRODUCT, *below("tests", "docs", "benchmarks")]
TEXTS: Final = [
    *PYTHON,
    *below("ledger", "clients", "migrations", "tests", "docs", ".ci", suffixes=("", ".md", ".json", ".jsonl", ".mako")),
    *(path for path in ROOT.glob("*") if path.suffix in {"", ".md", ".toml"} and path.name != ".importlinter"),
    *ROOT.glob(".*.yaml"),
]


def module_name(path: Path) -> str:
    """Name a file as an import does."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES: Final = {module_name(path): path for path in below(*PACKAGES) if path.stem != "__main__"}


def parsed(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, line: int, text: object) -> str:
    """Say where something is, as editors and terminals link it."""
    return f"{path.relative_to(ROOT)}:{line}: {text}"


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """Return every line of the project that matches."""
    return [
        at(path, number, line.strip())
        for path in TEXTS
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def listed(tree: ast.Module) -> list[str] | None:
    """Return a module's ``__all__``; None where it has none.

    Raises:
        ValueError: it is no literal.
    """
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names: list[str] = ast.literal_eval(value)
                return names
            case _:
                continue
    return None


def order(name: str) -> tuple[int, str]:
    """Sort as ruff does: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def taken(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name for each name that is taken from a module of ours."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES):
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            if whole in MODULES:
                aliases[alias.asname or alias.name] = whole
            else:
                yield node.lineno, node.module, alias.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield node.lineno, aliases[node.value.id], node.attr


def test_a_module_fits_the_eye() -> None:
    """A product module has at most 250 lines."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in PRODUCT}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES} == {}


def test_a_function_fits_a_screen() -> None:
    """A product function has at most 50 lines."""
    functions = [(path, node) for path in PRODUCT for node in ast.walk(parsed(path)) if isinstance(node, FUNCTIONS)]
    long = [
        at(path, node.lineno, node.name)
        for path, node in functions
        if (node.end_lineno or node.lineno) - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


def test_names_say_what_a_thing_is() -> None:
    """No file and no class is named by a word that fits anything."""
    classes = [(path, node) for path in PRODUCT for node in ast.walk(parsed(path)) if isinstance(node, ast.ClassDef)]
    assert [at(path, node.lineno, node.name) for path, node in classes if VAGUE_CLASS.search(node.name)] == []
    assert [path.name for path in PYTHON if VAGUE_FILE.search(path.stem)] == []


def test_nothing_is_left_unfinished() -> None:
    """No note says that something is still to be done."""
    assert lines_with(UNFINISHED) == []


def test_nothing_names_a_machine() -> None:
    """No path of somebody's machine and no registry's host stands in a file."""
    assert lines_with(MACHINE) == []


def test_an_exception_to_a_rule_has_a_reason() -> None:
    """Every noqa and every type-ignore names its rule and says why."""
    comments = [
        (path, token)
        for path in PYTHON
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        if token.type == tokenize.COMMENT
    ]
    bare = [
        at(path, token.start[0], token.string)
        for path, token in comments
        for excuse, reasoned in EXCUSES
        if excuse.search(token.string) and not reasoned.search(token.string)
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("comment", "reasoned"),
    [
        pytest.param("# noqa: S101 - tests assert", True, id="a reason"),
        pytest.param("# noqa: S101, S102 - both rules", True, id="two rules"),
        pytest.param("# noqa", False, id="every rule"),
        pytest.param("# noqa: S101", False, id="no reason"),
        pytest.param("# type: ignore[arg-type]  # the stub is wrong", True, id="a type's reason"),
        pytest.param("# type: ignore[arg-type]", False, id="a type without"),
        pytest.param("# type: ignore  # why not", False, id="every type"),
    ],
)
def test_a_reason_is_recognised(comment: str, reasoned: bool) -> None:  # noqa: FBT001 - a column of the table
    """The pattern wants the rule's code and some words."""
    assert reasoned == any(pattern.search(comment) for _, pattern in EXCUSES)


def test_a_module_lists_what_it_shows() -> None:
    """``__all__`` is short, literal, sorted, and holds public names only; without it a module shows nothing."""
    wrong = []
    for path in MODULES.values():
        tree = parsed(path)
        names = listed(tree)
        if names is None:
            wrong += [
                at(path, node.lineno, f"{node.name} is public, and there is no __all__")
                for node in tree.body
                if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
            ]
        elif names != sorted(set(names), key=order) or len(names) > EXPORTS or any(n.startswith("_") for n in names):
            wrong.append(at(path, 1, f"not short, sorted and public: {names}"))
    assert wrong == []


@pytest.mark.parametrize("name", MODULES)
def test_a_listed_name_exists(name: str) -> None:
    """A module can be imported alone, and every name of its ``__all__`` can be had."""
    module = importlib.import_module(name)
    assert [listed for listed in getattr(module, "__all__", ()) if not hasattr(module, listed)] == []


def test_only_listed_names_are_taken() -> None:
    """Product code takes from another module of ours only what stands in its ``__all__``."""
    lists = {name: listed(parsed(path)) or [] for name, path in MODULES.items()}
    unlisted = [
        at(path, line, f"{module}.{name}")
        for path in PRODUCT
        for line, module, name in taken(parsed(path))
        if name not in lists.get(module, [name])
    ]
    assert unlisted == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_facade_leaks_nothing(package: str) -> None:
    """What a package shows of ours, beside its modules, is what it lists."""
    facade = importlib.import_module(package)
    ours = {
        name
        for name, value in inspect.getmembers(facade)
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and str(getattr(value, "__module__", "")).split(".")[0] in PACKAGES
    }
    assert ours - set(getattr(facade, "__all__", ())) == set()
