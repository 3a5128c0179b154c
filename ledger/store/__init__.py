"""Stores of events: one protocol, SQLite and memory behind it. They know events, never decisions."""
