"""The events of a ledger in PostgreSQL and their guards, as text: made by migration 0001, compared at every open.

Frozen: a migration may add a guard, never change one of these. ``{schema}`` stands for the quoted schema that holds
the ledger, so that no search path and no temporary table leads a guard to another table.

A sequence gives its numbers before they are committed, so a reader could see position 5 before 4. Hence every INSERT
takes the shared lock of positions *before* it draws its number and holds it until its transaction ends: whoever gets
that lock exclusively, for an instant, knows that no smaller number is still under way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "APPLICATION",
    "EVENTS",
    "FUNCTIONS",
    "GUARD_BROKEN",
    "MARK",
    "POSITIONS_LOCK",
    "SCHEMA_LOCK",
    "TRIGGERS",
    "Trigger",
    "statements",
]

APPLICATION: Final = 0x646C6467
"""The first half of our advisory locks' names: ``dldg``."""
POSITIONS_LOCK: Final = 1
SCHEMA_LOCK: Final = 2
"""Held by whoever creates or upgrades a ledger."""

MARK: Final = "dispatch-ledger"
"""The comment on ``events`` by which a ledger is known."""

GUARD_BROKEN: Final = "LG001"
"""The SQLSTATE of a refusal by a guard."""

EVENTS: Final = """
CREATE TABLE {schema}.events (
    position BIGINT NOT NULL,
    event_id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    schema_version BIGINT NOT NULL,
    recorded_at_ms BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    fence BIGINT NOT NULL,
    data TEXT COLLATE "C" NOT NULL,
    prev_hash BYTEA NOT NULL,
    hash BYTEA NOT NULL,
    CONSTRAINT events_pk PRIMARY KEY (position),
    CONSTRAINT events_event_id UNIQUE (event_id),
    CONSTRAINT events_stream UNIQUE (task_id, version),
    CONSTRAINT events_position_positive CHECK (position > 0),
    CONSTRAINT events_hash_length CHECK (length(prev_hash) = 32 AND length(hash) = 32)
)
"""

ONLY_APPEND: Final = """
DECLARE
    newest record;
BEGIN
    IF NEW.position IS NULL THEN
        PERFORM pg_advisory_xact_lock_shared(1684825191, 1);
        NEW.position := nextval('{schema}.events_position');
    ELSE
        -- Brought along from another ledger: nobody else may be drawing numbers meanwhile.
        PERFORM pg_advisory_xact_lock(1684825191, 1);
        IF NEW.position <= (SELECT max(position) FROM {schema}.events) THEN
            RAISE EXCEPTION 'events are only appended: position % is not after the newest', NEW.position
                USING ERRCODE = 'LG001';
        END IF;
        PERFORM setval('{schema}.events_position', NEW.position);
    END IF;
    SELECT version, hash INTO newest FROM {schema}.events
        WHERE task_id = NEW.task_id ORDER BY version DESC LIMIT 1;
    IF NEW.version IS DISTINCT FROM coalesce(newest.version, 0) + 1
        OR NEW.prev_hash IS DISTINCT FROM coalesce(newest.hash, decode(repeat('00', 32), 'hex')) THEN
        RAISE EXCEPTION 'events are only appended: next version and linked hash' USING ERRCODE = 'LG001';
    END IF;
    RETURN NEW;
END
"""

NEVER_CHANGE: Final = """
BEGIN
    RAISE EXCEPTION 'events are never changed or deleted: % refused', TG_OP USING ERRCODE = 'LG001';
END
"""

FUNCTIONS: Final = {"events_only_append": ONLY_APPEND, "events_never_change": NEVER_CHANGE}
"""The bodies of the guards' functions."""


class Trigger(NamedTuple):
    """When a guard stands in the way."""

    function: str
    when: str
    kind: int
    """``pg_trigger.tgtype``: 1 a row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate."""


# Of each row, also where that costs: a guard of the whole statement is passed by through a parent table.
TRIGGERS: Final = {
    "events_only_append": Trigger("events_only_append", "BEFORE INSERT ON {table} FOR EACH ROW", 1 | 2 | 4),
    "events_no_update": Trigger("events_never_change", "BEFORE UPDATE ON {table} FOR EACH ROW", 1 | 2 | 16),
    "events_no_delete": Trigger("events_never_change", "BEFORE DELETE ON {table} FOR EACH ROW", 1 | 2 | 8),
    "events_no_truncate": Trigger("events_never_change", "BEFORE TRUNCATE ON {table} FOR EACH STATEMENT", 2 | 32),
}


def statements(schema: str) -> list[str]:
    """Return what makes the events and their guards in a schema, whose name is quoted already."""
    table = f"{schema}.events"
    made = [
        EVENTS.replace("{schema}", schema),
        f"COMMENT ON TABLE {table} IS '{MARK}'",
        f"CREATE SEQUENCE {schema}.events_position AS BIGINT OWNED BY {table}.position",
    ]
    for name, body in FUNCTIONS.items():
        text = body.replace("{schema}", schema)
        made.append(
            f"CREATE FUNCTION {schema}.{name}() RETURNS trigger LANGUAGE plpgsql "
            f"SET search_path = pg_catalog, pg_temp AS $guard${text}$guard$"
        )
    for name, trigger in TRIGGERS.items():
        when = trigger.when.replace("{table}", table)
        made += [
            f"CREATE TRIGGER {name} {when} EXECUTE FUNCTION {schema}.{trigger.function}()",
            # Otherwise whoever sets session_replication_role to replica walks past.
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
        ]
    return made
