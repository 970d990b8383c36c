"""Runs: kept streams from their start to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ._subscription import Subscription
from ._types import Event, FanwireError, Gap, Item, Past, RunEnd


class Run:
    """A run's events and gaps, for `async for`, which ends with the run. `close` ends the iteration; the run itself goes on."""

    def __init__(self, subscribe: Callable[[dict[str, Any]], Subscription], start: dict[str, Any]) -> None:
        self._subscribe = subscribe
        # Whether the buffer is full. The rest of the run is at the server.
        self._is_full = False
        # The position after which the server has the rest.
        self._place: str | None = None
        self._is_over = False
        self._complete = True
        self._last: Event | None = None
        self._end: RunEnd | None = None
        self._start = start
        self._subscription = self._follow(start)
        self._first = self._subscription

    def _follow(self, start: dict[str, Any]) -> Subscription:
        subscription = self._subscribe(start)

        def pause() -> None:
            if not subscription.is_over:
                self._is_full, self._place = True, subscription._position
                subscription.close()

        # The subscription's position includes the event that filled the buffer only after this turn. Later events of a past
        # that is under way still move it.
        subscription._full = lambda: asyncio.get_running_loop().call_soon(pause)
        return subscription

    @property
    def end(self) -> RunEnd | None:
        """The end, once the loop has reached it. None before, and if the run was closed."""
        return self._end

    async def past(self) -> Past | None:
        """Waits until everything that was kept has come, before live events."""
        return await self._first.past()

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> Item:
        """Returns the next item. Raises FanwireError if the server refused the run or the client ended with an error."""
        while True:
            subscription = self._subscription
            try:
                item = await anext(subscription)
            except StopAsyncIteration:
                if self._is_over:
                    raise
                # Another call may have gone on already.
                if subscription is not self._subscription:
                    continue
                if self._is_full:
                    self._is_full = False
                    self._subscription = self._follow({"since": self._place} if self._place else self._start)
                    # The run's end may have come already.
                    self._subscription._ended = subscription._ended
                    continue
                self._is_over = True
                self._record_end(subscription)
                raise
            except FanwireError as error:
                if not str(error).endswith("from_start"):
                    raise
                text = "this server is too old for runs: it can start no subscription at the beginning of a stream"
                raise FanwireError("unsupported", text) from error
            if isinstance(item, Gap):
                self._complete = False
            else:
                self._last = item
            return item

    def _record_end(self, subscription: Subscription) -> None:
        if subscription._ended is None:
            return
        id = str(subscription._ended.get("last_event_id"))
        status = self._last.event_type if self._last and self._last.event_id == id else None
        self._end = RunEnd(status, id, bool(subscription._ended.get("complete")) and self._complete)

    def close(self) -> None:
        """Ends the iteration here; the run itself goes on. A loop gets the items that have come, then its end."""
        self._is_over = True
        self._subscription.close()

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
