"""Checking a ledger against itself: hashes, links, versions, guards, projections, texts and decisions."""

from __future__ import annotations

from ledger.audit.verification import Report, verify

__all__ = ["Report", "verify"]
