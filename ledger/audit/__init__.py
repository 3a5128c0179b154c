"""Checking a ledger: against itself, and against what was kept of it elsewhere; sealing it for that."""

from __future__ import annotations

from ledger.audit.anchoring import Sealed, seal_range
from ledger.audit.anchors import Line, read_lines
from ledger.audit.proofs import task_proof
from ledger.audit.signing import Sign, read_public_key, read_signing_key
from ledger.audit.verification import Report, verify

__all__ = [
    "Line",
    "Report",
    "Sealed",
    "Sign",
    "read_lines",
    "read_public_key",
    "read_signing_key",
    "seal_range",
    "task_proof",
    "verify",
]
