"""Anchors: trees, lines, sealing, signatures, proofs, and the page of code that checks them without us."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.audit import read_lines, read_public_key, read_signing_key, seal_range, task_proof, verify
from ledger.audit.anchors import STREAM
from ledger.audit.merkle import Tree, leaf_hash
from ledger.envelope import Append, NewEvent
from ledger.errors import ConfigurationError, LedgerCorrupt, UsageError
from ledger.ports import Ports
from ledger.store.memory import MemoryStore
from ledger.store.protocol import Store
from tests.command_line import CONFIG, CommandLine, sql
from tests.contracts.appends import ticks

PAGE: Final = Path(__file__).parent.parent / "docs" / "audit.md"
PORTS: Final = Ports(now_ms=lambda: 5)


def naive_root(leaves: list[bytes]) -> bytes:
    """Write RFC 6962, 2.1, down as it stands there."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


def naive_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Write RFC 6962, 2.1.1, down as it stands there."""
    if len(leaves) <= 1:
        return []
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < half:
        return [*naive_path(index, leaves[:half]), naive_root(leaves[half:])]
    return [*naive_path(index - half, leaves[half:]), naive_root(leaves[:half])]


@pytest.mark.parametrize("size", range(34))
def test_roots_and_paths_are_those_of_the_rfc(size: int) -> None:
    """For every size up to a full tree and past it, and each leaf."""
    leaves = [leaf_hash(position, bytes(32)) for position in range(1, size + 1)]
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf, prove=True)
    assert naive_root(leaves) == tree.root()
    assert [naive_path(index, leaves) for index in range(size)] == [tree.path(index) for index in range(size)]


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = MemoryStore(now_ms=lambda: 7)
    yield store
    await store.aclose()


async def sealed(store: Store) -> tuple[int, int, int]:
    made = await seal_range(store, PORTS)
    assert made is not None
    return made.line.anchor, made.line.sealed.first_position, made.line.sealed.last_position


async def test_ranges_follow_each_other(store: Store) -> None:
    """Each begins after the one before, anchors included; nothing new gives the same anchor again."""
    assert await seal_range(store, PORTS) is None
    await store.append(ticks("s", 0, 3))
    assert (1, 1, 3) == await sealed(store)
    assert (1, 1, 3) == await sealed(store)
    await store.append(ticks("s", 3, 2))
    assert (2, 4, 6) == await sealed(store)
    stream = await store.read(STREAM)
    assert [stream[0].hash.hex(), None] == [json.loads(one.data)["previous"] for one in reversed(stream)]


async def test_two_at_once(store: Store) -> None:
    """One seals, the others find it done: no range is sealed twice."""
    await store.append(ticks("s", 0, 3))
    made = await asyncio.gather(*(sealed(store) for _ in range(5)))
    assert {(1, 1, 3)} == set(made)
    assert len(await store.read(STREAM)) == 1


async def test_what_no_anchor_covers_is_counted(store: Store) -> None:
    """By the ledger's anchors, else by those that were kept; an anchor's own event is covered by its line."""
    await store.append(ticks("s", 0, 3))
    first = await seal_range(store, PORTS)
    await store.append(ticks("s", 3, 2))
    assert 2 == (await verify(store)).unanchored
    await seal_range(store, PORTS)
    assert 0 == (await verify(store)).unanchored
    assert first is not None
    assert 3 == (await verify(store, kept=[first.line])).unanchored


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "{}", "[]", "word", '{"dispatch_ledger_anchor": 1}', "{" * 3000, "x" * 5000, "\x00"],
    ids=["nothing", "empty lines", "no fields", "a list", "a word", "a part", "nested", "long", "NUL"],
)
def test_what_is_no_line_is_refused(tmp_path: Path, text: str) -> None:
    """With the file and the line's number, before the ledger is read."""
    path = tmp_path / "lines"
    path.write_text(text)
    with pytest.raises(UsageError, match="lines"):
        read_lines(path)


def keys(folder: Path, name: str = "anchor") -> tuple[Path, Path]:
    """Write a pair of keys as openssl does."""
    key, public = folder / f"{name}.key", folder / f"{name}.pub"
    made = Ed25519PrivateKey.generate()
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.touch(0o600)
    key.write_bytes(made.private_bytes(pem, form, serialization.NoEncryption()))
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return key, public


async def test_signatures(store: Store, tmp_path: Path) -> None:
    """A signed anchor holds under its key and no other; an unsigned one after it is found, one before it is not."""
    key, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    assert ["anchor_signature"] == [one.kind for one in (await verify(store, keys=[read_public_key(public)])).problems]
    await store.append(ticks("s", 0))
    await seal_range(store, PORTS)
    await seal_range(store, PORTS, read_signing_key(key))  # though nothing but the unsigned anchor is new
    assert 2 == len(await store.read(STREAM))
    assert () == (await verify(store, keys=[read_public_key(public)])).problems
    wrong = (await verify(store, keys=[read_public_key(other)])).problems
    assert [("anchor_signature", 2)] == [(one.kind, one.version) for one in wrong]
    await store.append(ticks("s", 1))
    await seal_range(store, PORTS)
    unsigned = (await verify(store, keys=[read_public_key(public)])).problems
    assert [("anchor_signature", 3)] == [(one.kind, one.version) for one in unsigned]


async def test_a_signature_covers_every_field(store: Store, tmp_path: Path) -> None:
    """Whatever is changed in a line, the signature no longer fits."""
    key, public = keys(tmp_path)
    await store.append(ticks("s", 0))
    made = await seal_range(store, PORTS, read_signing_key(key))
    assert made is not None
    line, path = json.loads(made.line.text()), tmp_path / "line"
    for name, value in line.items():
        if name in {"dispatch_ledger_anchor", "anchor", "hash", "public_key", "signature"}:
            continue
        other = value + 1 if isinstance(value, int) else "0" * 64
        path.write_text(json.dumps(line | {name: other}))
        report = await verify(store, kept=read_lines(path), keys=[read_public_key(public)])
        assert {"anchor_line", "anchor_signature"} == {one.kind for one in report.problems}


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    """One that others may read, one that is no key, none at all: each is said."""
    key, public = keys(tmp_path)
    with pytest.raises(ConfigurationError, match="no private key"):
        read_signing_key(private(public))
    key.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_signing_key(key)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_signing_key(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="no public key"):
        read_public_key(key)


def private(path: Path) -> Path:
    path.chmod(0o600)
    return path


@pytest.mark.slow
def test_without_the_extra_it_is_said(tmp_path: Path) -> None:
    """Only who asks for signatures needs `cryptography`, and is told how to get it."""
    key, _ = keys(tmp_path)
    text = (
        "import sys; sys.modules['cryptography.hazmat.primitives'] = None\n"
        "from pathlib import Path; from ledger.audit import read_signing_key\n"
        f"read_signing_key(Path({str(key)!r}))"
    )
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert "pip install 'dispatch-ledger[sign]'" in ended.stderr


async def made_proof(store: Store) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Prove a stream over two anchors, with two events that only the third anchor covers and one that none does."""
    lines = []
    for version in (0, 2, 4):
        await store.append(ticks("s", version, 2))
        await store.append(ticks("other", 3 * version // 2, 3))
        made = await seal_range(store, PORTS)
        assert made is not None
        lines.append(json.loads(made.line.text()))
    await store.append(ticks("s", 6))
    return json.loads(json.dumps(await task_proof(store, "s"))), lines


def page() -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return str(code)


@cache
def checker() -> Callable[[Any, Any], tuple[int, int]]:
    """Give the documented page's own function; the page imports nothing but three modules of Python's."""
    code = page()
    assert {"hashlib", "json", "sys"} == set(re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE))
    space: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), space)  # noqa: S102 - our own page
    check: Callable[[Any, Any], tuple[int, int]] = space["check"]
    return check


async def test_the_page_proves_what_is_sealed(store: Store) -> None:
    """By the newest line, by an older one as far as that reaches, and by none that is of another ledger."""
    proof, lines = await made_proof(store)
    check = checker()
    assert (6, 1) == check(proof, lines) == check(proof, lines[2:])
    assert (4, 3) == check(proof, lines[1:2])
    assert (2, 5) == check(proof, lines[:1])
    with pytest.raises(ValueError, match="no kept line"):
        check(proof, [lines[0] | {"hash": "0" * 64}])


async def test_the_page_refuses_what_was_changed(store: Store) -> None:
    """Any field of any event or anchor of the proof, and any node of a way, changed or left out."""
    proof, lines = await made_proof(store)
    for group, at, name in places(proof):
        changed = copy.deepcopy(proof)
        changed[group][at][name] = another(changed[group][at][name])
        assert not holds(changed, lines), (group, at, name)
    for group, at in (("events", 0), ("events", 3), ("events", 5), ("anchors", 1), ("anchors", 2)):
        less = copy.deepcopy(proof)
        del less[group][at]
        assert not holds(less, lines), (group, at)


def places(proof: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Give every field that matters: an anchor's own place is covered by the anchor after it."""
    for group, count in (("events", 6), ("anchors", 3)):
        for at, event in enumerate(proof[group][:count]):
            yield from ((group, at, name) for name in event if (group, name) != ("anchors", "position"))


def holds(proof: Any, lines: Any) -> bool:
    """Say whether as much is proved as was: who calls an event not covered proves less, and nothing false."""
    try:
        return checker()(proof, lines) == (6, 1)
    except (ValueError, KeyError):
        return False


def another(value: Any) -> Any:
    if isinstance(value, list):
        return value[:-1]
    if isinstance(value, int):
        return value + 1
    return value.replace(value[0], "1" if value[0] == "0" else "0", 1)


async def test_nothing_sealed_gives_no_proof(store: Store) -> None:
    """It is said what to do; a ledger that does not fit its anchor gives none either."""
    await store.append(ticks("s", 0, 2))
    with pytest.raises(UsageError, match="dispatch-ledger anchor"):
        await task_proof(store, "s")
    made = await seal_range(store, PORTS)
    assert made is not None
    wrong = made.line.sealed.model_copy(update={"first_position": 4, "last_position": 3, "root": "0" * 64})
    await store.append(Append(STREAM, 1, (NewEvent("x", wrong.model_copy(update={"last_position": 9}), "system"),)))
    await store.append(ticks("t", 0))
    with pytest.raises(LedgerCorrupt, match="verify"):
        await task_proof(store, "t")


def test_as_a_user(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run, anchor to a file, verify against it, prove, and check the proof by the page alone."""
    (empty_folder / "dispatch.toml").write_text(CONFIG)
    cli = CommandLine(capsys)
    cli("run", "-t", "flash", "hello")
    made = cli("anchor", "--out", "lines.txt")
    assert made.out == Path("lines.txt").read_text()
    assert cli("anchor", "--out", "lines.txt", "--json").json["sealed"] is False
    assert 1 == len(Path("lines.txt").read_text().splitlines())
    assert 0o600 == Path("lines.txt").stat().st_mode & 0o777
    report = cli("verify", "--anchor", "lines.txt", "--json").json
    assert (True, 0) == (report["ok"], report["unanchored"])
    (task_id,) = (task_id for (task_id,) in sql("dispatch.db", "SELECT task_id FROM tasks"))
    proof = cli("show", task_id, "--proof")
    assert "hello" not in proof.out
    Path("proof.json").write_text(proof.out)
    Path("check.py").write_text(page())
    words = [sys.executable, "-I", "check.py", "proof.json", "lines.txt"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout.endswith(" events proved, 0 not covered by a kept line\n")
    missing = cli("verify", "--anchor", "nowhere")
    assert (2, True) == (missing.code, "cannot be read" in missing.err)
