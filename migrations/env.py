"""How Alembic runs here: on the connection that ``ledger.store.upgrade`` hands over, inside its one transaction."""

from __future__ import annotations

from alembic import context

from ledger.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
    # Batch mode copies a table and silently drops its triggers and AUTOINCREMENT: schema changes only add.
    render_as_batch=False,
)
with context.begin_transaction():
    context.run_migrations()
