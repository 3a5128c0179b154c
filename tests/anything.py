"""Arbitrary values of our models, made from the models' own annotations."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import BaseModel

from ledger.canonical import INT64_MAX, INT64_MIN
from ledger.events import Event
from ledger.upcasting import EVENT_TYPES

__all__ = ["events", "json_values", "texts"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(INT64_MIN, INT64_MAX) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def _of(annotation: Any, metadata: Iterable[Any] = ()) -> st.SearchStrategy[Any]:
    """Return a strategy for an annotation, within the bounds of its metadata."""
    rules = list(metadata)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [getattr(rule, "metadata", [rule]) for rule in args[1:]]
        return _of(args[0], [*(rule for group in inner for rule in group), *args[1:], *rules])
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of(*(_of(arg, rules) for arg in args))
    if origin is tuple:
        return st.lists(_of(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(texts, texts, max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model(annotation)
    if annotation is str and any(getattr(rule, "pattern", None) for rule in rules):
        return digests
    simple = {str: texts, bool: st.booleans(), type(None): st.none(), int: _integers(rules)}
    return simple[annotation]


def _integers(rules: list[Any]) -> st.SearchStrategy[int]:
    low = max((rule.ge for rule in rules if getattr(rule, "ge", None) is not None), default=INT64_MIN)
    high = min((rule.le for rule in rules if getattr(rule, "le", None) is not None), default=INT64_MAX)
    return st.integers(low, high)


def _model(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {name: _of(field.annotation, field.metadata) for name, field in model.model_fields.items()}
    return st.builds(model, **fields)


events: st.SearchStrategy[Event] = st.deferred(
    lambda: st.one_of(*(_model(event_type) for event_type in EVENT_TYPES.values()))
)
"""Any event of any type, whatever came before it."""
