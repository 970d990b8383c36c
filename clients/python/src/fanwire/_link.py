"""The native protocol over one WebSocket. A link lives once; what outlives it is the client's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection

from ._position import distance, place
from ._subscription import Subscription
from ._types import Event, FanwireError, Gap, Item

# What a subscription may ask to see of the past.
PAST = ("since", "history", "snapshot")

Answered = Callable[[Any, FanwireError | None], None]


class Host(Protocol):
    """The client, as its link sees it."""

    def subscriptions(self) -> Iterable[Subscription]: ...
    def opened(self) -> None: ...
    def proven(self) -> None: ...
    def deliver(self, item: Item, of: Subscription | None = None) -> None: ...
    def failed(self, error: FanwireError) -> None: ...


class Link:
    def __init__(self, socket: ClientConnection, host: Host, interval: float, timeout: float) -> None:
        self._socket = socket
        self._host = host
        self._interval = interval
        self._timeout = timeout
        self._out: asyncio.Queue[str] = asyncio.Queue()
        self._answers: dict[str, Answered] = {}
        self._number = 0
        # What several subscriptions resume with, until all of it is there: then it is put in order.
        self._merging: list[Item] | None = None
        # Where the newest subscription began.
        self._began: str | None = None
        self._fault: FanwireError | None = None
        self.over = False
        # When this client may come back, in seconds, if the server said; and what it wants to be waited for at least.
        self.slot: float | None = None
        self.delay = 0.0

    async def run(self, token: str | None) -> None:
        """Speaks until the connection ends, which it tells by an exception."""
        if token is None:
            self._begin()
        else:
            self.login(token, self._begin)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write())
                tasks.create_task(self._read())
        except BaseExceptionGroup as group:
            raise self._fault or group.exceptions[0] from None
        finally:
            self.over = True
            answers, self._answers = self._answers, {}
            for answer in answers.values():
                answer(None, FanwireError("uncertain", "the connection broke before the answer"))

    async def _write(self) -> None:
        while True:
            await self._socket.send(await self._out.get())

    async def _read(self) -> None:
        """Reads; asks when all is silent; silence after that is the end."""
        asked, patience = True, self._timeout
        while True:
            try:
                async with asyncio.timeout(patience):
                    text = await self._socket.recv()
            except TimeoutError:
                if asked:
                    raise FanwireError("timeout", f"no answer within {self._timeout} s") from None
                self._ping()
                asked, patience = True, self._timeout
                continue
            asked, patience = False, self._interval
            self._host.proven()
            self._message(text)
            if self._fault:
                raise self._fault

    def ask(self, kind: str, payload: object, answer: Answered) -> None:
        self._number += 1
        message_id = str(self._number)
        self._answers[message_id] = answer
        self._out.put_nowait(json.dumps({"type": kind, "payload": payload, "message_id": message_id}))

    def login(self, token: str, then: Callable[[], None] | None = None) -> None:
        def answer(_: Any, error: FanwireError | None) -> None:
            # A server that knows no tokens lets everybody in.
            if error and error.code not in ("unknown_type", "uncertain"):
                self._fault = FanwireError("unauthorized", str(error))
            elif then and not self.over:
                then()

        self.ask("auth", {"token": token}, answer)

    def _begin(self) -> None:
        subscriptions = list(self._host.subscriptions())
        # They may stand at different places: from the first of them on, then.
        first: str | None = None
        for one in subscriptions:
            if not one._fresh and one._position and (first is None or (distance(one._position, first) or 0) < 0):
                first = one._position
        if first and len(subscriptions) > 1:
            self._merging = []
        for one in subscriptions:
            since = one._position if distance(first, one._position) is None else first
            self._subscribe(one, None if one._fresh else since)
        self._ping()
        self._host.opened()

    def add(self, one: Subscription) -> None:
        self._subscribe(one, None)
        # What it asked for of the past stands before the pong.
        if one._options.get("history") or one._options.get("snapshot"):
            self._ping()

    def _subscribe(self, one: Subscription, resume: str | None) -> None:
        options: dict[str, Any] = dict(one._options)
        past: dict[str, Any] = {key: options.pop(key) for key in PAST if key in options}
        if resume:
            past = {"since": resume}

        def answer(ack: Any, error: FanwireError | None) -> None:
            if error is None:
                self._began = ack.get("last_event_id")
                one._taken()
                # What it is to see of the past comes first.
                if not any(past.values()):
                    one._reach(self._began)
            elif not self.over:
                one._end(error)

        self.ask("subscribe", {"subscription_id": one.id, **one.filter, **options, **past}, answer)

    def remove(self, one: Subscription) -> None:
        self.ask("unsubscribe", {"subscription_id": one.id}, lambda *_: None)

    def _ping(self) -> None:
        def answer(pong: Any, error: FanwireError | None) -> None:
            if error:
                return
            merged, self._merging = self._merging, None
            for item in _in_order(merged or []):
                self._pass(item)
            for one in self._active():
                one._reach(pong.get("last_event_id"))

        self.ask("ping", {}, answer)

    def _active(self) -> list[Subscription]:
        return [one for one in self._host.subscriptions() if one._active]

    def _message(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
            if "event_type" in message:
                # A lean event has no message around it.
                position = message.pop("position", None)
                return self._came(Event.from_dict(message), position)
            kind, payload = message["type"], message["payload"]
            to = message.get("correlation_id")
            if kind == "event":
                return self._came(Event.from_dict(payload), message.get("position"))
            if kind == "gap":
                return self._came(Gap.from_dict(payload))
            if kind == "reconnect":
                self.slot = payload["delay_ms"] / 1000
                return
            error = FanwireError(payload.get("code", "error"), payload["error"]) if kind == "error" else None
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            return self._host.failed(FanwireError("protocol", f"not a message: {cause!r}"))
        answer = self._answers.pop(to or "", None)
        if answer:
            answer(payload, error)
        elif error:
            self._host.failed(error)

    def _came(self, item: Item, position: str | None = None) -> None:
        if self._merging is not None:
            self._merging.append(item)
            return
        self._pass(item)
        # A server with several shards says in its own words where that leaves the client.
        for one in self._active() if position else ():
            one._reach(position)

    def _pass(self, item: Item) -> None:
        self._host.deliver(item)
        if isinstance(item, Gap):
            for one in self._active():
                if item.to_id:
                    one._reach(item.to_id)
                else:
                    # Behind a restart there are new places.
                    one._position = self._began


def _in_order(items: list[Item]) -> list[Item]:
    """Several replays as one run. Where each has a gap behind the same place, the last one counts: it reaches furthest."""

    def number(item: Item) -> int:
        at = place(item.to_id if isinstance(item, Gap) else item.event_id)
        return at[1] if at else -1

    one = {item.from_id if isinstance(item, Gap) else item.event_id: item for item in items}
    return sorted(one.values(), key=number)
