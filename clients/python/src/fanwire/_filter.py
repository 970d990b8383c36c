"""Evaluates filters by the server's rules, to find the subscriptions that an event is for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from ._types import Event

_SEGMENT = "[^.:/]*"
_SEGMENTS = f"{_SEGMENT}(?:[.:/]{_SEGMENT})*"

Entity = str | tuple[str, str] | Mapping[str, str]
"""`kind:id`, a kind alone, or both."""
Values = str | Sequence[str]


class Filter(TypedDict, total=False):
    """Filter of a subscription: one of the values for each attribute named; patterns allowed."""

    event_types: Values
    sources: Values
    correlation_ids: Values
    stream_ids: Values
    execution_ids: Values
    entities: Sequence[Entity]
    channels: Values
    filter: str
    """The text form, which must match in addition to the other fields: `payload.progress >= 50`."""


class RunFilter(TypedDict, total=False):
    """Lists that narrow a run."""

    event_types: Values
    sources: Values
    correlation_ids: Values
    execution_ids: Values
    entities: Sequence[Entity]
    channels: Values


def pattern(text: str) -> Callable[[str], bool]:
    """Returns whether a value matches a pattern: `.`, `:` and `/` cut it into segments, `*` stands for one
    segment, `**` for any number of them, including none. An asterisk beside other characters means itself."""
    parts = re.split("([.:/])", text)
    if not any(part in ("*", "**") for part in parts):
        return lambda value: value == text
    form = ""
    # Only `**` so far, or nothing.
    leading = True
    for at in range(0, len(parts), 2):
        part = parts[at]
        separator = f"[{parts[at - 1]}]" if at else ""
        if part == "**":
            form += "" if leading else f"(?:{separator}{_SEGMENTS})?"
            continue
        form += f"(?:{_SEGMENTS}{separator})?" if leading and at else separator
        form += _SEGMENT if part == "*" else re.escape(part)
        leading = False
    whole = re.compile(_SEGMENTS if leading else form, re.DOTALL)
    return lambda value: bool(value) and whole.fullmatch(value) is not None


_FIELDS = ("event_type", "source", "correlation_id", "stream_id", "execution_id", "channel")


def _list(values: Values) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def pair(entity: Entity) -> tuple[str, str]:
    """Returns kind and id. A kind alone matches every id."""
    if isinstance(entity, str):
        kind, _, id = entity.partition(":")
    elif isinstance(entity, Mapping):
        kind, id = entity.get("kind", ""), entity.get("id", "")
    else:
        kind, id = entity
    return kind or "**", id or "**"


def wire(filter: Filter) -> dict[str, Any]:
    """Returns the filter in the form of a subscribe message."""
    message: dict[str, Any] = {key: _list(values) for key, values in filter.items() if key not in ("entities", "filter")}  # type: ignore[arg-type]
    if unknown := set(message) - {f"{field}s" for field in _FIELDS}:
        raise TypeError(f"a filter has no {', '.join(sorted(unknown))}")
    if filter.get("filter"):
        message["filter"] = filter["filter"]
    if "entities" in filter:
        pairs = [pair(entity) for entity in filter["entities"]]
        message["entities"] = [{"kind": kind, "id": id} for kind, id in pairs]
    return message


def matcher(filter: Mapping[str, Any]) -> Callable[[Event], bool]:
    """Returns whether a filter, in its wire form, wants an event."""
    wanted = [(field, [pattern(value) for value in filter.get(f"{field}s", ())]) for field in _FIELDS]
    wanted = [(field, forms) for field, forms in wanted if forms]
    entities = [(pattern(entity["kind"]), pattern(entity["id"])) for entity in filter.get("entities", ())]

    def wants(event: Event) -> bool:
        if not all(any(form(getattr(event, field) or "") for form in forms) for field, forms in wanted):
            return False
        entity = event.entity
        return not entities or (entity is not None and any(kind(entity[0]) and id(entity[1]) for kind, id in entities))

    return wants
