"""The native protocol over one WebSocket. A link lives once. The client keeps everything that outlives it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection

from ._once import Once, uncertain
from ._position import distance, place
from ._subscription import Answered, Subscription
from ._types import Event, FanwireError, Gap, Item, Past

# Options of a subscription that ask for a past.
PAST = ("since", "history", "snapshot", "from", "absent")


class Host(Protocol):
    """The client, as its link sees it."""

    def subscriptions(self) -> Iterable[Subscription]: ...
    def opened(self) -> None: ...
    def proven(self) -> None: ...
    def deliver(self, item: Item, only: Subscription | None = None) -> None: ...
    def failed(self, error: FanwireError) -> None: ...
    def fills(self) -> bool:
        """Whether gaps are to be refilled."""
        ...

    def is_closed(self) -> bool: ...
    def apart(self, subscription: Subscription) -> None:
        """The subscription needs its own connection: the server cannot separate its past from the others'
        events."""
        ...


def is_fillable(host: Host, subscriptions: Iterable[Subscription], gap: Gap) -> bool:
    """Returns whether a gap is to be refilled: it is available, or the server no longer knows the events before it and
    all subscriptions that it concerns want everything."""
    is_there = gap.recoverable or gap.from_id is None
    return is_there and host.fills() and not any(subscription._wants_less() for subscription in subscriptions)


def lacking(capabilities: Iterable[str]) -> FanwireError:
    return FanwireError("unsupported", f"this server lacks {', '.join(sorted(capabilities))}")


class Link:
    def __init__(self, socket: ClientConnection, host: Host, interval: float, timeout: float) -> None:
        self._socket = socket
        self._host = host
        self._interval = interval
        self._timeout = timeout
        self._out: asyncio.Queue[str] = asyncio.Queue()
        self._answers: dict[str, Answered] = {}
        self._number = 0
        # Past events of several subscriptions, held until all have come. Then they are sorted.
        self._merging: list[Item] | None = None
        # Ends of kept streams that came meanwhile.
        self._ends: list[Any] = []
        # Position at which the newest subscription began.
        self._began: str | None = None
        # The server's description of itself and its capabilities, once it has named them; subscriptions that need one of
        # them, and publishes, which depend on one.
        self._info: dict[str, Any] = {}
        self._abilities: frozenset[str] | None = None
        self._held: list[Subscription] = []
        self._early: list[tuple[Once, Answered]] = []
        # The subscription with a past under way. Until the end of that past, no event is for others.
        self._recalling: Subscription | None = None
        # Position up to which everything has come.
        self._reached: str | None = None
        # Whether a refill was requested and not answered yet. Events until then will come again.
        self._is_refilling = False
        self._refilled: str | None = None
        self._fault: FanwireError | None = None
        self.over = False
        # Seconds after which this client may come back, if the server named them, and the least wait that it
        # asks for.
        self.slot: float | None = None
        self.delay = 0.0

    async def run(self, token: str | None) -> None:
        """Runs until the connection ends, which raises an exception."""
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
            early, self._early = self._early, []
            for answer in (*answers.values(), *(answer for _, answer in early)):
                answer(None, uncertain())

    async def _write(self) -> None:
        while True:
            await self._socket.send(await self._out.get())

    async def _read(self) -> None:
        """Reads. Pings when all is silent. Silence after that is the end."""
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

    def publish(self, once: Once, answer: Answered) -> None:
        """Publishes an event, once it is known whether the server deduplicates."""
        if self._abilities is None:
            self._early.append((once, answer))
        elif once.name(self._info):
            self.ask("publish", once.event, answer)
        else:
            answer(None, uncertain())

    def send_unacked(self, kind: str, payload: object) -> None:
        """Sends a message that the server answers only with an error, which goes to the host. An older server answers always."""
        quiet = {"ack": False} if "publish_unacked" in (self._abilities or ()) else {}
        self._out.put_nowait(json.dumps({"type": kind, "payload": payload, **quiet}))

    def login(self, token: str, then: Callable[[], None] | None = None) -> None:
        def answer(_: Any, error: FanwireError | None) -> None:
            # A server without tokens admits every client.
            if error and error.code not in ("unknown_type", "uncertain"):
                self._fault = FanwireError("unauthorized", str(error))
            elif then and not self.over:
                then()

        self.ask("auth", {"token": token}, answer)

    def _begin(self) -> None:
        # All resume together, and only if this server, too, can do what they need.
        waits = any(not subscription._fresh and subscription._needs() for subscription in self._host.subscriptions())

        def able(info: Any, _: FanwireError | None) -> None:
            if self.over:
                return
            self._info = info if isinstance(info, dict) else {}
            listed = self._info.get("capabilities")
            self._abilities = frozenset(listed if isinstance(listed, list) else ())
            early, self._early = self._early, []
            for job in early:
                self.publish(*job)
            if waits:
                self._resume()
            held, self._held = self._held, []
            for subscription in held:
                if not subscription.is_over:
                    self.add(subscription)

        self.ask("request", {"action": "server_info"}, able)
        if not waits:
            self._resume()

    def _resume(self) -> None:
        subscriptions = list(self._host.subscriptions())
        # A past with merged events is not for others.
        are_several = len(subscriptions) > 1
        resumed = [
            subscription for subscription in subscriptions
            if not subscription._fresh and subscription._position and not (are_several and "compact" in subscription._options)
        ]  # fmt: skip
        # Subscriptions may have different positions. Resume from the first of these.
        first: str | None = None
        for subscription in resumed:
            if first is None or (distance(subscription._position, first) or 0) < 0:
                first = subscription._position
        if len(resumed) > 1:
            self._merging = []
        for subscription in resumed:
            self._subscribe(subscription, subscription._position if distance(first, subscription._position) is None else first)
        # Pasts of their own come after what is merged.
        if self._merging is not None:
            self._ping()
        for subscription in subscriptions:
            if subscription not in resumed:
                self._subscribe(subscription, subscription._position, alone=subscription._position is not None)
        self._ping()
        self._host.opened()

    def add(self, subscription: Subscription) -> None:
        self._subscribe(subscription, None)
        # The past that it asked for comes before the pong.
        if subscription._options.get("history") or subscription._options.get("snapshot"):
            self._ping()

    def _subscribe(self, subscription: Subscription, resume: str | None, alone: bool = False) -> None:
        options: dict[str, Any] = dict(subscription._options)
        past: dict[str, Any] = {key: options.pop(key) for key in PAST if key in options}
        if resume:
            past = {"since": resume}
        has_past = any(past.values())
        # Beside other subscriptions it needs its own past: on one connection an event comes only once.
        is_own = alone or (resume is None and has_past and len(list(self._host.subscriptions())) > 1)
        needs = subscription._needs()
        if is_own or needs:
            if self._abilities is None:
                self._held.append(subscription)
                return
            if lacks := needs - self._abilities:
                return subscription._end(lacking(lacks))
            if is_own and not self._abilities >= {"own_past", "history_end"}:
                return self._host.apart(subscription)
        if is_own:
            options["own_past"] = True

        def answer(ack: Any, error: FanwireError | None) -> None:
            if error is not None:
                if not self.over:
                    subscription._end(error)
                return
            self._began = ack.get("last_event_id")
            subscription._own = ack.get("own_channels", {})
            subscription._taken()
            if not has_past or "history_end" not in (self._abilities or ()):
                subscription._passed()
            # The past comes first.
            if is_own:
                self._recalling = subscription
            elif not has_past:
                subscription._reach(self._began)
                if not self._is_refilling:
                    self._reached = self._began

        self.ask("subscribe", {"subscription_id": subscription.id, **subscription.filter, **subscription._kept, **options, **past}, answer)
        if subscription._kept:
            self.ask("update", {"subscription_id": subscription.id, "remove": subscription._kept}, lambda *_: None)

    def update(self, subscription: Subscription, payload: dict[str, Any], answer: Answered) -> None:
        # A subscription is confirmed after the server has named its capabilities.
        if "update" not in (self._abilities or ()):
            return answer(None, FanwireError("unsupported", "this server takes no updates"))

        def answered(ack: Any, error: FanwireError | None) -> None:
            # The past of what was added comes next.
            if not error and "history" in ack:
                self._recalling, self._began = subscription, ack.get("last_event_id")
                subscription._recalls = True
            answer(ack, error)

        self.ask("update", payload, answered)

    def _log_ended(self, payload: Any) -> None:
        """Handles the end of a kept stream. A refill delivers nothing to a subscription that is over, so such a subscription
        reads its past again."""
        for subscription in self._host.subscriptions():
            if subscription.id != payload["subscription_id"]:
                continue
            subscription._ended = payload
            if payload.get("over") and self._is_refilling:
                subscription._active = False
                self._subscribe(subscription, subscription._position, alone=True)
            elif payload.get("over"):
                subscription._end()
            return

    def _past_ended(self, payload: Any) -> None:
        """Live events come next."""
        past = Past(payload["events"], payload["complete"])
        for subscription in self._host.subscriptions():
            if subscription.id == payload["subscription_id"]:
                if subscription is self._recalling:
                    subscription._recalls = False
                    subscription._reach(self._began)
                subscription._passed(past)
        if self._recalling and self._recalling.id == payload["subscription_id"]:
            self._recalling = None

    def remove(self, subscription: Subscription) -> None:
        if subscription in self._held:
            self._held.remove(subscription)
            return
        self.ask("unsubscribe", {"subscription_id": subscription.id}, lambda *_: None)

    def _ping(self) -> None:
        def answer(pong: Any, error: FanwireError | None) -> None:
            if error:
                return
            merged, self._merging = self._merging, None
            for item in _in_order(merged or []):
                self._pass(item)
            ends, self._ends = self._ends, []
            for end in ends:
                self._log_ended(end)
            self._reach(pong.get("last_event_id"))

        self.ask("ping", {}, answer)

    def _reach(self, position: str | None) -> None:
        if self._is_refilling or not position:
            return
        self._reached = position
        for subscription in self._active():
            subscription._reach(position)

    def _active(self) -> list[Subscription]:
        return [subscription for subscription in self._host.subscriptions() if subscription._active]

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
            if kind == "history_end":
                return self._past_ended(payload)
            if kind == "end":
                return self._log_ended(payload) if self._merging is None else self._ends.append(payload)
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
        self._pass(item, position)

    def _pass(self, item: Item, position: str | None = None) -> None:
        if recalling := self._recalling:
            self._host.deliver(item, recalling)
            recalling._reach(position or (item.to_id if isinstance(item, Gap) else None))
        elif self._is_refilling:
            return
        elif isinstance(item, Event):
            self._host.deliver(item)
            self._reached = item.event_id
            # A server with several shards sends the position after the event in its own form.
            self._reach(position)
        elif not self._refill(item):
            self._report_gap(item)

    def _report_gap(self, gap: Gap) -> None:
        self._host.deliver(gap)
        for subscription in self._active():
            if gap.to_id:
                subscription._reach(gap.to_id)
            else:
                # After a restart there are new positions.
                subscription._position = self._began

    def _refill(self, gap: Gap) -> bool:
        """Asks for the content of a gap, if it is available and was not asked for in vain."""
        since = self._reached or gap.from_id
        if "refill" not in (self._abilities or ()) or not since or since == self._refilled:
            return False
        if not is_fillable(self._host, self._active(), gap):
            return False
        self._refilled = since
        self._is_refilling = True

        def answer(_: Any, error: FanwireError | None) -> None:
            self._is_refilling = False
            if error and not self.over:
                self._report_gap(gap)

        self.ask("refill", {"since": since}, answer)
        return True


def _in_order(items: list[Item]) -> list[Item]:
    """Merges several replays. If each has a gap after one position, the last gap counts: it reaches
    furthest."""

    def number(item: Item) -> int:
        at = place(item.to_id if isinstance(item, Gap) else item.event_id)
        return at[1] if at else -1

    unique = {item.from_id if isinstance(item, Gap) else item.event_id: item for item in items}
    return sorted(unique.values(), key=number)
