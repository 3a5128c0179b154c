"""The work of ``doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from ledger.cli import output
from ledger.cli.exits import DONE, FOUND
from ledger.cli.options import Common
from ledger.cli.work.frame import perform
from ledger.doctor import Examination, Finding, examine

__all__ = ["tell_doctor"]

COLUMN: Final = 9
"""Where the words begin, behind the level."""


def tell_doctor(common: Common) -> int:
    """Examine this machine and return the exit code."""

    async def work() -> int:
        found = await examine(common.config, common.ledger)
        if common.as_json:
            output.document(_document(found))
        else:
            _tell(found)
        return DONE if found.can_dispatch else FOUND

    return perform(work)


def _document(found: Examination) -> dict[str, Any]:
    tiers = {tier: {"ok": why is None, "why": why} for tier, why in found.tiers.items()}
    return {"ok": found.can_dispatch, "tiers": tiers, "findings": [asdict(finding) for finding in found.findings]}


def _tell(found: Examination) -> None:
    for finding in found.findings:
        output.write(_shown(finding))
    ready = [tier for tier, why in found.tiers.items() if why is None]
    if found.can_dispatch:
        output.write(output.wrapped(f"this machine can dispatch: {', '.join(ready)}"))
    else:
        output.write(output.wrapped("this machine cannot dispatch; every line that begins with stop says why"))


def _shown(finding: Finding) -> str:
    """Return a finding's lines; what has lines of its own keeps them."""
    said, indent = f"{finding.check}: {output.visible(finding.said)}", " " * COLUMN
    first, *others = said.split("\n")
    lines = [output.wrapped(first, first=f"{finding.level:<{COLUMN}}", rest=indent)]
    lines += [output.wrapped(line.strip(), first=indent, rest=indent) for line in others]
    if finding.advice:
        lines.append(output.wrapped(f"→ {output.visible(finding.advice)}", first=indent, rest=indent))
    return "".join(lines)
