"""Views of costs, latencies and readable times, and the indexes that they read.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

from ledger.store.views import INDEXES, POSTGRES_VIEWS, SQLITE_VIEWS

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes, then the views."""
    connection = op.get_bind()
    views = SQLITE_VIEWS if connection.dialect.name == "sqlite" else POSTGRES_VIEWS
    for statement in (*INDEXES.values(), *views.values()):
        connection.exec_driver_sql(statement)
