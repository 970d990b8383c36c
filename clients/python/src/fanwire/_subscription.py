"""One subscription: its items, in order, each once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ._filter import Filter, matcher, wire
from ._position import is_behind
from ._text import evaluator
from ._types import Event, FanwireError, Gap, Item, Past, Updated

Answered = Callable[[Any, FanwireError | None], None]


def _sum(numbers: Iterable[int | None]) -> int | None:
    """Returns the sum, if all of them are known."""
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _key(value: Any) -> Any:
    """Returns what equal values have in common: an entity is kind and id."""
    return value if isinstance(value, str) else (value["kind"], value["id"])


class Subscription:
    """Events and gaps in order, for `async for`. `close` ends it, and so does the end of the client. Leaving a
    loop does not end it; leaving `async with` does."""

    def __init__(
        self, id: str, filter: Mapping[str, Any], options: Mapping[str, Any], buffer: int, leave: Callable[[], None]
    ) -> None:
        self.id = id
        self.filter = filter
        # A value of each list that is empty now, so that the server keeps the list.
        self._kept: dict[str, Any] = {}
        self._text: Callable[[Event], bool] | None = None
        # Updates that wait for the confirmation of the subscription.
        self._updates: list[Callable[[], None]] = []
        # Whether the past of added values is coming. Events before the position are new.
        self._recalls = False
        # The channels of this client by the templates that the filter names, as `user:{sub}`.
        self._own: dict[str, str] = {}
        self._send: Callable[[Subscription, dict[str, Any], Answered], None] | None = None
        self._options = options
        self._buffer = buffer
        self._leave = leave
        self._wants = matcher(filter)
        # Whether it needs a connection of its own: this client can't evaluate the filter's text, or the server merges events of a
        # whole connection for it.
        self._is_apart = options.get("on_lag") == "concat"
        if "filter" in filter and "concat" in options:
            # A merged event has the payload of several.
            self._is_apart = True
        elif "filter" in filter:
            lists = self._wants
            try:
                text = self._text = evaluator(filter["filter"])
                self._wants = lambda event: lists(event) and text(event)
            except ValueError:
                self._is_apart = True
        # The last position up to which everything was delivered. It resumes there.
        self._position: str | None = None
        # Whether the server has never confirmed it, and whether it has on this connection.
        self._fresh = True
        self._active = False
        self._items: deque[Item] = deque()
        self._lost: Gap | None = None
        self._given: str | None = None
        self._over = False
        self._error: FanwireError | None = None
        self._ready = asyncio.Event()
        self._past: Past | None = None
        self._has_passed = asyncio.Event()
        self._more = asyncio.Event()
        # The last end of a kept stream that the server reported.
        self._ended: Mapping[str, Any] | None = None
        # Called when its buffer is full, instead of losing the oldest.
        self._full: Callable[[], object] | None = None

    async def ready(self) -> None:
        """Waits until the server has confirmed it: events published from then on will come."""
        await self._ready.wait()
        if self._error:
            raise self._error

    async def past(self) -> Past | None:
        """Waits until all of the requested past has come, before live events. Returns the number of its events and whether
        it is complete. None if no past was requested, or an older server does not report it."""
        await self._has_passed.wait()
        return self._past

    async def update(self, *, add: Filter | None = None, remove: Filter | None = None) -> Updated:
        """Adds values to lists of the filter and removes values; all others stay. The server confirms it: nothing that
        was removed comes from then on. With `snapshot` the latest events of what was added come next. While there is no
        connection it waits. Needs a WebSocket, or begins its event stream again."""
        lists = {"add": wire(add or {}), "remove": wire(remove or {})}
        answer: asyncio.Future[Updated] = asyncio.get_running_loop().create_future()

        def answered(payload: Any, error: FanwireError | None) -> None:
            if error and error.code == "uncertain" and not self._over:
                # Adding and removing again is harmless.
                self._updates.append(go)
            elif answer.done():
                return
            elif error:
                answer.set_exception(error)
            else:
                own = self._change(lists["add"], lists["remove"])
                self._own = self._own | payload.get("own_channels", {})
                counts = [payload.get(name, default) for name, default in (("added", own[0]), ("removed", own[1]), ("not_held", 0))]
                answer.set_result(Updated(*counts))

        def go() -> None:
            if self._over or self._send is None:
                answered(None, FanwireError("closed", "the subscription has ended"))
            else:
                self._send(self, {"subscription_id": self.id, **lists}, answered)

        if self._active or self._over:
            go()
        else:
            self._updates.append(go)
        return await answer

    def _change(self, add: Mapping[str, Any], remove: Mapping[str, Any]) -> tuple[int, int]:
        """Changes the lists as the server has changed them. Returns how many values were added and removed."""
        filter, kept, added, removed = dict(self.filter), dict(self._kept), 0, 0
        for name in (*add, *(name for name in remove if name not in add)):
            held = {_key(value): value for value in filter.get(name, ())}
            for value in remove.get(name, ()):
                if held.pop(_key(value), None) is not None:
                    removed += 1
                    if not held:
                        kept[name] = [value]
            for value in add.get(name, ()):
                added += _key(value) not in held
                held[_key(value)] = value
            if held:
                kept.pop(name, None)
            filter[name] = list(held.values())
        self.filter, self._kept = filter, kept
        lists, text = matcher(filter), self._text
        # A list without values matches nothing.
        self._wants = lambda event: not kept and lists(event) and (text is None or text(event))
        return added, removed

    def close(self) -> None:
        """Ends it. A loop gets the items that have come, then its end."""
        self._end()

    @property
    def is_over(self) -> bool:
        return self._over

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item:
        """Returns the next item. Raises FanwireError if the server refused the subscription."""
        while True:
            item: Item | None = self._lost
            self._lost = None
            if item is None and self._items:
                item = self._items.popleft()
            if item is not None:
                self._given = (item.to_id if isinstance(item, Gap) else item.event_id) or self._given
                return item
            if self._error:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # The following methods are for the client.

    def _taken(self) -> None:
        self._fresh = False
        self._active = True
        self._ready.set()
        self._go()

    def _go(self) -> None:
        updates, self._updates = self._updates, []
        for go in updates:
            go()

    def _passed(self, past: Past | None = None) -> None:
        if not self._has_passed.is_set():
            self._past = past
            self._has_passed.set()

    def _wants_less(self) -> bool:
        """Returns whether its lag policy allows losses."""
        return self._options.get("on_lag") in ("drop_newest", "conflate", "sample")

    def _needs(self) -> set[str]:
        """Returns the capabilities that it needs of its server."""
        options = self._options
        needs = {
            "filter": "filter" in self.filter,
            "from_start": self._fresh and "from" in options,
            "concat": "concat" in options,
            "catch_up": options.get("on_lag") == "catch_up",
        }
        return {capability for capability, is_needed in needs.items() if is_needed}

    def _reach(self, position: str | None) -> None:
        """Marks everything up to here as delivered. Earlier positions are ignored."""
        if position and is_behind(position, self._position):
            self._position = position

    def _is_for(self, event: Event) -> bool:
        # An event of this client's channel has the channel, and the filter the template.
        names = [name for name, channel in self._own.items() if channel == event.channel]
        return self._wants(event) or any(self._wants(replace(event, channel=name)) for name in names)

    def _offer(self, event: Event, is_own: bool = False) -> None:
        """Offers an event that may be for it, or that the server has chosen for it alone. Takes each event once."""
        if not self._recalls:
            if not is_behind(event.event_id, self._position):
                return
            self._position = event.event_id
        if not self._kept if is_own else self._is_for(event):
            self._push(event)

    def _push(self, item: Item) -> None:
        if self._over:
            return
        self._items.append(item)
        if len(self._items) > self._buffer and self._full:
            self._full()
        elif len(self._items) > self._buffer:
            oldest = self._items.popleft()
            lost = self._lost or Gap(0, self._given, None, True)
            both = (lost, oldest) if isinstance(oldest, Gap) else (lost, Gap(1, None, oldest.event_id, True))
            missed = _sum(gap.missed for gap in both)
            at_most = _sum(gap.at_most if gap.missed is None else gap.missed for gap in both)
            self._lost = Gap(
                missed, lost.from_id, both[1].to_id or lost.to_id, True, at_most if missed is None else None
            )
        self._more.set()

    def _end(self, error: FanwireError | None = None) -> None:
        if self._over:
            return
        self._over = True
        self._error = error
        self._ready.set()
        self._passed()
        self._more.set()
        self._go()
        self._leave()
