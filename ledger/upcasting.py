"""Reading events of every version ever written: stored bytes in, today's events out.

Rows are never rewritten. When the fields of a type change, its ``SCHEMA_VERSION`` goes up by one and a pure function
``(type, v) -> v + 1`` over the decoded JSON joins ``UPCASTERS``; golden files of the old version stay in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from pydantic import ValidationError

from ledger import events, system_events
from ledger.errors import EventInvalid
from ledger.events import Event

__all__ = ["EVENT_TYPES", "UPCASTERS", "Upcaster", "decode"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

EVENT_TYPES: Final[Mapping[str, type[Event]]] = {
    event.TYPE: event
    for event in (
        events.TaskSubmitted,
        events.AttemptStarted,
        events.AttemptSucceeded,
        events.AttemptFailed,
        events.AttemptOrphaned,
        events.AttemptSettled,
        events.RetryScheduled,
        events.FallbackSelected,
        events.EscalationSelected,
        events.ValidationPassed,
        events.ValidationFailed,
        events.ValidationErrored,
        events.BudgetRefused,
        events.TaskHeld,
        events.TaskReleased,
        events.TaskSucceeded,
        events.TaskFailed,
        events.TaskCancelled,
        events.PayloadErased,
        system_events.BreakerOpened,
        system_events.BreakerClosed,
        system_events.PriceBookPublished,
        system_events.AnchorSealed,
    )
}

UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {}
"""From (type, version) to the function that makes the fields of version + 1; empty while every type is at 1."""


def decode(
    event_type: str,
    schema_version: int,
    data: str | bytes,
    *,
    types: Mapping[str, type[Event]] = EVENT_TYPES,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> Event:
    """Make today's event from stored bytes.

    Raises:
        EventInvalid: the type or version is unknown (a newer program wrote it), or the fields do not fit.
    """
    known = types.get(event_type)
    if known is None:
        raise EventInvalid(f"event type {event_type!r} is unknown; a newer version of this program may have written it")
    if schema_version > known.SCHEMA_VERSION:
        raise EventInvalid(
            f"{event_type} has schema_version {schema_version}, "
            f"this program knows up to {known.SCHEMA_VERSION}; upgrade it"
        )
    steps = [upcasters.get((event_type, version)) for version in range(schema_version, known.SCHEMA_VERSION)]
    if None in steps:
        raise EventInvalid(f"{event_type}: no upcaster from schema_version {schema_version + steps.index(None)}")
    try:
        if not steps:
            return known.model_validate_json(data)
        fields = orjson.loads(data)
        for upcast in filter(None, steps):
            fields = upcast(fields)
        return known.model_validate_json(orjson.dumps(fields))
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise EventInvalid(f"{event_type} v{schema_version}: the fields do not fit: {error}") from error
