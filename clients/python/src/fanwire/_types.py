"""Items of a stream, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """An event as delivered. Absent attributes are None."""

    event_id: str
    event_type: str
    timestamp: str | None
    """ISO 8601, UTC; with `lean`, None unless its publisher set one."""
    payload: Any
    source: str | None = None
    correlation_id: str | None = None
    stream_id: str | None = None
    execution_id: str | None = None
    entity: tuple[str, str] | None = None
    """Kind and id."""
    channel: str | None = None
    merged: int = 1
    """Number of events that this one stands for: more than 1 if neighbours were merged."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """The event as received."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Event:
        entity = raw.get("entity")
        return cls(
            event_id=raw["event_id"],
            event_type=raw["event_type"],
            timestamp=raw.get("timestamp"),
            payload=raw.get("payload"),
            source=raw.get("source"),
            correlation_id=raw.get("correlation_id"),
            stream_id=raw.get("stream_id"),
            execution_id=raw.get("execution_id"),
            entity=(entity["kind"], entity["id"]) if entity else None,
            channel=raw.get("channel"),
            merged=raw.get("merged", 1),
            raw=raw,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the event as received, as a new dict."""
        return dict(self.raw)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that this client did not get. A value like an event, so that no loop ends because of it."""

    missed: int | None
    """Number of missed events that this client wanted; None if it is unknown, as after a restart of the
    server."""
    from_id: str | None
    """The last event before the gap."""
    to_id: str | None
    """The last event within the gap."""
    recoverable: bool
    """Whether a subscription with `since=from_id` would still get the events."""
    at_most: int | None = None
    """An upper bound if `missed` is None, and the server knows one."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Gap:
        recoverable = bool(raw.get("recoverable"))
        return cls(raw.get("missed"), raw.get("from"), raw.get("to"), recoverable, raw.get("at_most"))


@dataclass(frozen=True, slots=True)
class Past:
    """The end of a subscription's past."""

    events: int
    """Number of events in it, without gaps."""
    complete: bool
    """Whether everything requested came. Otherwise a gap marks the missing events."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run."""

    status: str | None
    """The type of the event that ended it, as `run.finished`; None if the filter leaves that event out."""
    last_event_id: str
    """The event that ended it."""
    complete: bool
    """Whether no event is missing, from the run's first one to its end."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the past. It may have fewer events than asked for, or none, and more pages after it."""

    events: list[Event]
    next: str | None
    """The place of the next page; None if there is none."""
    complete: bool
    """Whether nothing that the walk requested has been evicted."""


@dataclass(frozen=True, slots=True)
class Updated:
    """Values that an update of a subscription has changed."""

    added: int
    removed: int
    not_held: int = 0
    """Values to remove that the lists did not have."""


Item = Event | Gap


class FanwireError(Exception):
    """An error. `code` is the server's (`invalid_filter`, ...), or one of the client's own: `queue_full`, `uncertain`
    (sent, and the connection broke before the answer), `unsupported` (the server is too old for it), `closed`,
    `unauthorized`, `gave_up`, `timeout`, `disconnected`, `handler`, `token`, `protocol`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
