"""Tests of the dispatch ledger."""
