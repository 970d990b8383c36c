"""Deduplication ids, by which the server publishes an event once even if the client sends it again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from ._types import FanwireError


def uncertain() -> FanwireError:
    return FanwireError("uncertain", "the connection broke before the answer")


class Once:
    """An event to publish."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        self.event = dict(event)
        # The time until which the event may be sent again. None before it was sent with a `dedupe_id`.
        self._until: float | None = None

    def name(self, info: Mapping[str, Any]) -> bool:
        """Gives the event a `dedupe_id`, if the server deduplicates. Returns whether the event may be sent now: false if it was
        sent so long ago that the server may have forgotten the id."""
        if "publish_once" not in (info.get("capabilities") or ()):
            may = self._until is None
            self._until = None
            return may
        if self._until is None:
            self.event.setdefault("dedupe_id", str(uuid.uuid4()))
            # The server counts from its answer. Half of that time leaves room for a slow network.
            self._until = time.monotonic() + info.get("dedupe_seconds", 120) / 2
            return True
        return self.may_be_sent_again()

    @property
    def was_sent(self) -> bool:
        """Whether the event was sent with a `dedupe_id`."""
        return self._until is not None

    def may_be_sent_again(self) -> bool:
        return self._until is not None and time.monotonic() <= self._until
