"""The client: subscriptions and waiting jobs, over links that come and go."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
import random
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Unpack, cast, overload
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from ._filter import Entity, Filter, RunFilter, wire
from ._history import Walk
from ._http import wait_of
from ._link import Link
from ._once import Once, uncertain
from ._run import Run
from ._sse import StreamLink, query
from ._subscription import Answered, Subscription
from ._types import Event, FanwireError, Gap, Item, Page

Status = Literal["idle", "connecting", "open", "waiting", "closed"]
Token = str | Callable[[], str | Awaitable[str]]
Handler = Callable[[Event], object]

_PROTOCOL = Subprotocol("fanwire.v1")
_LEAN_PROTOCOL = Subprotocol("fanwire.v1.lean")
_log = logging.getLogger("fanwire")

# Lifetime after which a link counts as good, so that the next waits are short again. Seconds.
_STABLE = 5.0


class _GetsThrough(FanwireError):
    """No fault: the fallback ends because WebSockets get through."""


@dataclass(eq=False, slots=True)
class _Job:
    """A message that needs an answer."""

    kind: Literal["publish", "request"]
    payload: object
    answer: asyncio.Future[Any] = field(repr=False)
    ack: bool = True
    """False if only an error is to be answered."""
    once: Once | None = None
    """An event that is answered."""


class Fanwire:
    """A client of the server at a URL. Opens nothing before there is something to do. Use it in one event loop.

    `token`: a text, or a function (async or not) that returns one: called before each connection, and again before a
    JWT ends. `transports`: in this order; the next one is tried if one has never worked. `path`: path of the server's
    WebSocket. `backoff`: seconds, a random wait of up to `base * 2 ** attempt`, at most `max`. `attempts`: in a row,
    before the client gives up; None for never. `heartbeat`: seconds of silence before a ping, and seconds for its
    answer. `queue`: publishes that wait while offline; the next one is refused with `queue_full`. `on_gap`: `refill`
    asks for lost events that the server still has, and delivers them in their place; `tell` delivers every gap.
    `lean`: over WebSocket, events in the lean form of the protocol: fewer bytes, and no time except one set by the
    publisher. `connect_options` go to `websockets.connect` (`ssl`, `proxy`, ...).
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        transports: Sequence[Literal["ws", "sse"]] = ("ws", "sse"),
        path: str = "ws",
        backoff: tuple[float, float] = (0.5, 30.0),
        attempts: int | None = None,
        heartbeat: tuple[float, float] = (25.0, 10.0),
        queue: int = 1000,
        lean: bool = False,
        on_gap: Literal["refill", "tell"] = "refill",
        connect_options: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        if scheme not in ("ws", "wss"):
            raise ValueError(f"not a URL of a server: {url!r}")
        base = parts.path if parts.path.endswith("/") else f"{parts.path}/"
        self._url = urlunsplit((scheme, parts.netloc, base + path.lstrip("/"), parts.query, ""))
        self._base = urlunsplit((scheme.replace("ws", "http"), parts.netloc, base, "", ""))
        self._source = url
        self._settings: dict[str, Any] = dict(
            token=token, transports=transports, path=path, backoff=backoff, attempts=attempts, heartbeat=heartbeat, queue=queue,
            lean=lean, on_gap=on_gap, connect_options=connect_options,
        )  # fmt: skip
        if token is not None and not isinstance(token, str) and not callable(token):
            raise TypeError(f"a token is a str, or a function that gives one: not {type(token).__name__}")
        self._token = token
        self._backoff = backoff
        self._attempts = attempts
        self._heartbeat = heartbeat
        self._queue = queue
        self._fills = on_gap != "tell"
        # The first one that the server knows is used.
        self._protocols = [_LEAN_PROTOCOL, _PROTOCOL] if lean else [_PROTOCOL]
        self._connect_options = dict(connect_options or {})
        self._status: Status = "idle"
        self._subscriptions: dict[str, Subscription] = {}
        self._children: set[Fanwire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox: deque[_Job] = deque()
        self._link: Link | StreamLink | None = None
        self._transports = tuple(transports)
        # The transport to try; whether it has ever worked, and now; attempts since then.
        self._transport = 0
        self._known = False
        self._proven = False
        self._misses = 0
        self._runner: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._number = 0
        self._on_status: list[Callable[[Status], object]] = []
        self._on_gap: list[Callable[[Gap], object]] = []
        self._on_error: list[Callable[[FanwireError], object]] = []

    @property
    def status(self) -> Status:
        """The state of the connection: `waiting` is between two attempts."""
        return self._status

    async def __aenter__(self) -> Fanwire:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def subscribe(
        self,
        types: str | Sequence[str] | None = None,
        *,
        since: str | None = None,
        history: int | None = None,
        snapshot: bool = False,
        on_lag: Literal["drop_oldest", "drop_newest", "catch_up", "concat", "conflate", "sample", "disconnect"] | None = None,
        compact: Literal["concat"] | None = None,
        concat: str | None = None,
        max_per_second: int | None = None,
        buffer: int = 10_000,
        **filter: Unpack[Filter],
    ) -> Subscription:
        """Subscribes. Returns items in order, each once, over all reconnects: events, and gaps for missing events.

        `types` are event types or patterns of them; other attributes by name (`sources=["core"]`,
        `entities=["agent:coder-001"]`). Starts with the next event, or with a past: `since` an event's id, the newest
        `history` events that match, or a `snapshot`, the latest of each key. `buffer`: items that wait for a slow loop
        before the oldest become a gap. `on_lag`: the server's action when this client is too slow. `compact="concat"` merges
        neighbours of the past that have the same type and attributes: their texts at `concat`, a JSON Pointer
        (`/payload/delta`), are put together. With `on_lag="concat"`, which needs `concat` too, the subscription has a
        connection of its own.
        """
        wanted: Filter = {**filter}
        if types is not None and types != "*" and "*" not in ([types] if isinstance(types, str) else types):
            wanted["event_types"] = types
        given = {
            "since": since, "history": history, "snapshot": snapshot or None, "on_lag": on_lag, "compact": compact, "concat": concat,
            "max_per_second": max_per_second,
        }  # fmt: skip
        options = {key: value for key, value in given.items() if value is not None}
        return self._subscribe(wire(wanted), options, buffer)

    def run(
        self,
        stream: str,
        *,
        absent: Literal["wait", "error"] = "wait",
        on_lag: Literal["drop_oldest", "catch_up", "concat", "disconnect"] | None = None,
        compact: Literal["concat"] | None = None,
        concat: str | None = None,
        buffer: int = 10_000,
        **filter: Unpack[RunFilter],
    ) -> Run:
        """Follows a run, the kept stream of this id: its events from the first on, each once and in order over all
        reconnects, until it has ended. Works for ended runs, too. A stream that no rule of the server keeps (`[[retain]]`) has no end.

        `on_lag`, `compact`, `concat`: as for `subscribe`. `absent`: `error` raises `no_such_log` if nothing of the run is kept; `wait` waits for it. `buffer`: items that wait
        for a slow loop; beyond it the rest waits at the server. Raises `unsupported` if the server is too old."""
        given = {"on_lag": on_lag, "compact": compact, "concat": concat}
        always = {key: value for key, value in given.items() if value is not None}
        wanted = wire({"stream_ids": [stream], **cast(Filter, filter)})
        start = {"from": "start"} | ({"absent": "error"} if absent == "error" else {})
        return Run(lambda options: self._subscribe(wanted, options | always, buffer), start)

    def history(
        self,
        types: str | Sequence[str] | None = None,
        *,
        order: Literal["asc", "desc"] = "asc",
        limit: int | None = None,
        since: str | int | datetime | None = None,
        after: str | None = None,
        before: str | None = None,
        **filter: Unpack[Filter],
    ) -> AsyncGenerator[Page, None]:
        """Walks the past, page by page, as long as the loop goes on: `async for page in client.history("audit.**", order="desc")`.

        `limit`: events of a page, 1 to 1,000. `since`: only events since this time (a text in ISO 8601, milliseconds since
        1970, or an aware datetime). `after` (with `asc`) or `before` (with `desc`): a place to begin at, `next` of a page or an
        event's id. A lost connection is tried again. Raises `unsupported` if the server has no pages."""
        wanted: Filter = {**filter}
        if types is not None:
            wanted["event_types"] = types
        moment = int(since.timestamp() * 1000) if isinstance(since, datetime) else since
        given = {"order": order, "limit": limit, "since": moment, "after": after, "before": before}
        asked = query(wire(wanted)) + [(key, str(value)) for key, value in given.items() if value is not None]
        walk = Walk(
            self._base, self._connect_options.get("ssl"), self._ask_token, self.is_closed, self._backoff, self._attempts, self._heartbeat[1]
        )  # fmt: skip
        return walk.pages(asked, "before" if order == "desc" else "after")

    def _subscribe(self, filter: Mapping[str, Any], options: Mapping[str, Any], buffer: int) -> Subscription:
        self._number += 1
        id = f"py-{self._number}"
        subscription = Subscription(id, filter, options, buffer, lambda: self._remove(id))
        if self._status == "closed":
            subscription._end(FanwireError("closed", "the client is closed"))
        elif subscription._is_apart:
            # All events of that connection are for it.
            self.apart(subscription)
        else:
            self._take(subscription)
        return subscription

    def _take(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.id] = subscription
        subscription._send = self._update
        if self._link and self._status == "open":
            self._link.add(subscription)
        else:
            self._start()

    def _update(self, subscription: Subscription, payload: dict[str, Any], answer: Answered) -> None:
        if self._link:
            self._link.update(subscription, payload, answer)
        else:
            answer(None, FanwireError("uncertain", "the connection is gone"))

    def _remove(self, id: str) -> None:
        subscription = self._subscriptions.pop(id, None)
        if subscription and self._link:
            self._link.remove(subscription)

    def apart(self, subscription: Subscription) -> None:
        """@private"""
        self._subscriptions.pop(subscription.id, None)
        child = Fanwire(self._source, **self._settings)
        child._on_gap, child._on_error = self._on_gap, self._on_error
        self._children.add(child)

        def gone() -> None:
            child._remove(subscription.id)
            self._spawn(self._drop(child))

        subscription._leave = gone
        child._take(subscription)

    async def _drop(self, child: Fanwire) -> None:
        self._children.discard(child)
        await child.close()

    def on(self, types: str | Sequence[str], handler: Handler, **options: Any) -> Callable[[], None]:
        """Calls a handler, async or not, with each event of this type, or of a type that matches this pattern; `*` is every
        event. One event after the other; its errors go to `on_error`. Call the result to stop."""
        own = self.subscribe(types, **options)

        async def call() -> None:
            try:
                async for item in own:
                    if isinstance(item, Event):
                        await handle(item)
            except FanwireError as error:
                # The server refused the subscription: a handler has no loop that would raise.
                self._failed(error)

        async def handle(event: Event) -> None:
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            except Exception as cause:
                error = FanwireError("handler", repr(cause))
                error.__cause__ = cause
                self._failed(error)

        self._spawn(call())
        return own.close

    def subscribe_to_agent(
        self, id: str, events: Sequence[str] = ("status", "task_update", "log", "metric")
    ) -> Subscription:
        """Subscribes to the events of one agent, under both names in use (`agent_status`, `agent.status`)."""
        return self._resource("agent", id, events)

    def subscribe_to_workflow(
        self, id: str, events: Sequence[str] = ("started", "step_complete", "complete", "failed")
    ) -> Subscription:
        """Subscribes to the events of one workflow."""
        return self._resource("workflow", id, events)

    def _resource(self, kind: str, id: str, events: Sequence[str]) -> Subscription:
        types = [f"{kind}{separator}{event}" for event in events for separator in "_."]
        entity: Entity = {"kind": kind, "id": id}
        return self.subscribe(types, entities=[entity])

    @overload
    async def publish(self, event: Mapping[str, Any], *, ack: Literal[True] = True) -> str: ...
    @overload
    async def publish(self, event: Mapping[str, Any], *, ack: Literal[False]) -> None: ...
    async def publish(self, event: Mapping[str, Any], *, ack: bool = True) -> str | None:
        """Publishes an event (`type`, and its other fields) and returns its id. While offline it waits without a limit. If
        the connection breaks before the answer, it is sent again with the same `dedupe_id`, so that it is published
        once. Raises FanwireError: `queue_full` if too many wait, `uncertain` if it may or may not have been published: the server
        does not deduplicate or may have forgotten the id, or the client was closed meanwhile.

        With `ack=False` it returns None, once the event is handed to the connection: the server answers only an error,
        which goes to `on_error`, and an event that is lost with the connection is not reported."""
        answer = await self._send("publish", dict(event), ack)
        return str(answer["event_id"]) if ack else None

    async def request(self, action: str, *, channel: str | None = None) -> Any:
        """Asks the server: `list_subscriptions`, `subscription_count`, `server_info`, `presence` of a channel.
        Needs a WebSocket."""
        return await self._send("request", {"action": action, **({"channel": channel} if channel is not None else {})})

    async def _send(self, kind: Literal["publish", "request"], payload: dict[str, Any], ack: bool = True) -> Any:
        if self._status == "closed":
            raise FanwireError("closed", "the client is closed")
        job = _Job(kind, payload, asyncio.get_running_loop().create_future(), ack)
        if kind == "publish" and ack:
            job.once = Once(payload)
        if self._link and self._status == "open":
            self._give(job)
        elif len(self._outbox) >= self._queue:
            raise FanwireError("queue_full", f"{self._queue} messages wait already")
        else:
            self._outbox.append(job)
            self._start()
        try:
            return await job.answer
        finally:
            if job in self._outbox:
                self._outbox.remove(job)

    def _give(self, job: _Job) -> None:
        def answered(payload: Any, error: FanwireError | None) -> None:
            if job.answer.done():
                return
            if error is None:
                job.answer.set_result(payload)
            elif error.code == "uncertain" and self._status != "closed" and (not job.once or job.once.may_be_sent_again()):
                # Asking again is harmless. Publishing again would make a second event, unless the server knows the
                # `dedupe_id` of the first.
                self._outbox.append(job)
                # Not to the link that is ending.
                asyncio.get_running_loop().call_soon(self._flush)
            else:
                job.answer.set_exception(error)

        assert self._link
        if job.once:
            self._link.publish(job.once, answered)
        elif job.ack:
            self._link.ask(job.kind, job.payload, answered)
        else:
            self._link.send_unacked(job.kind, job.payload)
            job.answer.set_result(None)

    def on_status(self, listener: Callable[[Status], object]) -> Callable[[], None]:
        return _add(self._on_status, listener)

    def on_gap(self, listener: Callable[[Gap], object]) -> Callable[[], None]:
        """Calls a listener with every gap of every subscription."""
        return _add(self._on_gap, listener)

    def on_error(self, listener: Callable[[FanwireError], object]) -> Callable[[], None]:
        """Calls a listener with every error: lost connections, handlers that raised, refused events that were published
        without an ack. None of them ends the client. Without a listener, errors are logged."""
        return _add(self._on_error, listener)

    def connect(self) -> None:
        """Opens the connection now, also out of a wait."""
        self._wake.set()
        self._start()

    def _start(self) -> None:
        """Opens the first connection. A wait between two attempts goes on, whatever is requested meanwhile."""
        if self._status == "idle":
            self._set("connecting")
            self._runner = asyncio.get_running_loop().create_task(self._run())
            self._runner.add_done_callback(self._stopped)

    def _stopped(self, runner: asyncio.Task[None]) -> None:
        """Ends the client with the error of its runner, so that nothing waits for it in vain."""
        if not runner.cancelled() and (cause := runner.exception()):
            error = FanwireError("internal", repr(cause))
            error.__cause__ = cause
            self._failed(error)
            self._end(error)
        elif not self.is_closed():
            self._end(FanwireError("closed", "the client's task was cancelled"))

    async def close(self) -> None:
        """Ends all subscriptions and the connection, for good."""
        self._end(None)
        # Handlers get the items that have come.
        work = [task for task in (self._runner, *self._tasks) if task and task is not asyncio.current_task()]
        await asyncio.gather(*work, return_exceptions=True)
        await asyncio.gather(*(child.close() for child in list(self._children)))

    async def _run(self) -> None:
        attempt = 0
        # A cancellation that meets the end of a connection may be lost, so the state is checked too.
        while not self.is_closed():
            self._set("connecting")
            self._wake.clear()
            opened = time.monotonic()
            error, delay, exact = await self._live()
            if self.is_closed():
                return
            if isinstance(error, _GetsThrough):
                self._transport = attempt = 0
                self._set("waiting")
                continue
            self._failed(error)
            if error.code == "unauthorized" and not callable(self._token):
                return self._end(error)
            # Back to the first transport that may work. One that has worked is given up only after repeated
            # failures.
            self._misses = 0 if self._proven else self._misses + 1
            self._known = self._known or self._proven
            if self._proven:
                self._transport = 0
            elif error.code != "token" and (not self._known or self._misses > 2):
                # Without a token nothing was tried.
                self._transport += 1
            attempt = 1 if time.monotonic() - opened > _STABLE else attempt + 1
            if self._attempts is not None and attempt >= self._attempts:
                gave_up = FanwireError("gave_up", f"no connection in {self._attempts} attempts")
                gave_up.__cause__ = error
                return self._end(gave_up)
            base, most = self._backoff
            chance = random.random() * min(most, base * 2 ** min(attempt - 1, 60))
            self._set("waiting")
            try:
                async with asyncio.timeout(delay if exact else delay + chance):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def is_closed(self) -> bool:
        """@private"""
        return self._status == "closed"

    async def _live(self) -> tuple[FanwireError, float, bool]:
        """Runs one connection to its end. Returns the reason, the wait that the server asks for, and whether that wait is
        this client's own slot."""
        link: Link | StreamLink | None = None
        self._proven = False
        renewal: asyncio.Task[None] | None = None
        probe: asyncio.Task[None] | None = None
        interval, timeout = self._heartbeat
        try:
            token = await self._ask_token()
            if self._transports[self._transport % len(self._transports)] == "sse":
                link = self._link = StreamLink(self._base, self._connect_options.get("ssl"), self, interval, timeout, self._backoff)
                if token is not None:
                    renewal = asyncio.create_task(self._renew(link, token))
                if "ws" in self._transports:
                    probe = asyncio.create_task(self._probe(link))
                await link.run(token)
            socket = await self._dial(token)
            link = self._link = Link(socket, self, interval, timeout)
            if token is not None:
                renewal = asyncio.create_task(self._renew(link, token))
            try:
                await link.run(token)
            finally:
                self._link = None
                await socket.close()
            raise AssertionError("a link ends with an exception")
        except FanwireError as cause:
            error, delay = cause, 0.0
        except InvalidStatus as cause:
            status = cause.response.status_code
            code = "unauthorized" if status in (401, 403) else "disconnected"
            error, delay = FanwireError(code, f"refused with {status}"), wait_of(cause.response.headers.get("Retry-After"))
        except ConnectionClosed as cause:
            number, reason = (cause.rcvd.code, cause.rcvd.reason) if cause.rcvd else (1006, "")
            # 1012 and 1013 may say when to come back: `retry=1500`, in milliseconds.
            retry = re.search(r"retry\D*([0-9]{1,9})", reason, re.IGNORECASE)
            denied = number == 4001 or (number == 1008 and "limit" not in reason)
            code = "unauthorized" if denied else "disconnected"
            error, delay = FanwireError(code, reason or f"closed with {number}"), int(retry[1]) / 1000 if retry else 0.0
        except Exception as cause:
            # Also errors of a proxy's package, a certificate store or a resolver: the next attempt may succeed.
            error, delay = FanwireError("disconnected", str(cause) or repr(cause)), 0.0
            error.__cause__ = cause
        finally:
            self._link = None
            for task in (renewal, probe):
                if task:
                    task.cancel()
            for subscription in self._subscriptions.values():
                subscription._active = subscription._recalls = False
        if link is None:
            return error, delay, False
        return error, max(delay, link.delay) if link.slot is None else link.slot, link.slot is not None

    async def _dial(self, token: str | None) -> ClientConnection:
        timeout = self._heartbeat[1]
        options: dict[str, Any] = {"ping_interval": None, "open_timeout": timeout, "close_timeout": 1, "max_size": None}
        if token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        return await connect(self._url, subprotocols=self._protocols, **(options | self._connect_options))

    async def _probe(self, link: StreamLink) -> None:
        """Checks, at growing intervals, whether WebSockets get through, and ends the fallback if they do. One failure, of
        a slow server for example, proves little about a network."""
        base, most = self._backoff
        wait = 10 * base
        while True:
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(2 * wait, 10 * most)
            try:
                socket = await self._dial(await self._ask_token())
            except Exception as cause:
                _log.debug("no WebSocket yet: %r", cause)
                continue
            await socket.close()
            return link.end(_GetsThrough("disconnected", "a WebSocket gets through"))

    async def _ask_token(self) -> str | None:
        """Returns a token. A function that does not answer in time gives none."""
        token = self._token
        if not callable(token):
            return token
        try:
            async with asyncio.timeout(self._heartbeat[1]):
                given = token()
                if inspect.isawaitable(given):
                    given = await given
            if given is not None and not isinstance(given, str):
                raise TypeError(f"a token is a str, not {type(given).__name__}")
            return given
        except asyncio.CancelledError as cause:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Not this task: the function's own wait was cancelled.
            raise FanwireError("token", "no token was given: cancelled") from cause
        except Exception as cause:
            raise FanwireError("token", f"no token was given: {cause!r}") from cause

    async def _renew(self, link: Link | StreamLink, token: str) -> None:
        """Replaces a token some seconds before its end, or at half its life."""
        while callable(self._token) and (left := _life(token)) > 0:
            await asyncio.sleep(max(left / 2, left - 30))
            try:
                token = await self._ask_token() or ""
                link.login(token)
            except FanwireError as error:
                return self._failed(error)

    # Calls of the link.

    def subscriptions(self) -> list[Subscription]:
        """The subscriptions of this connection."""
        return list(self._subscriptions.values())

    def opened(self) -> None:
        """@private"""
        if self._status == "open":
            return
        # Waiting jobs go before the publishes of a listener.
        self._give_all()
        self._set("open")

    def _flush(self) -> None:
        if self._link and not self._link.over and self._status == "open":
            self._give_all()

    def _give_all(self) -> None:
        jobs, self._outbox = self._outbox, deque()
        for job in jobs:
            if not job.answer.done():
                self._give(job)

    def fills(self) -> bool:
        """@private"""
        return self._fills

    def proven(self) -> None:
        """@private"""
        self._proven = True

    def deliver(self, item: Item, only: Subscription | None = None) -> None:
        """@private"""
        if isinstance(item, Gap):
            self._notify(self._on_gap, item)
        for subscription in [only] if only else self.subscriptions():
            if not subscription._active:
                continue
            if isinstance(item, Gap):
                subscription._push(item)
            else:
                subscription._offer(item, only is not None)

    def failed(self, error: FanwireError) -> None:
        """@private"""
        self._failed(error)

    def _failed(self, error: FanwireError) -> None:
        if self._on_error:
            self._notify(self._on_error, error)
        else:
            _log.warning("%s: %s", error.code, error)

    def _set(self, status: Status) -> None:
        if status != self._status and self._status != "closed":
            self._status = status
            self._notify(self._on_status, status)

    def _notify(self, listeners: Sequence[Callable[[Any], object]], value: object) -> None:
        for listener in list(listeners):
            try:
                listener(value)
            except Exception:
                # An error of a listener ends nothing.
                _log.exception("a listener raised")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, error: FanwireError | None) -> None:
        if self._status == "closed":
            return
        self._set("closed")
        if self._runner and self._runner is not asyncio.current_task():
            self._runner.cancel()
        for subscription in self.subscriptions():
            subscription._end(error)
        for child in list(self._children):
            child._end(error)
        for job in self._outbox:
            if not job.answer.done():
                was_sent = job.once and job.once.was_sent
                job.answer.set_exception(uncertain() if was_sent else error or FanwireError("closed", "the client is closed"))
        self._outbox.clear()


def _add(listeners: list[Any], listener: Any) -> Callable[[], None]:
    listeners.append(listener)
    return lambda: listeners.remove(listener) if listener in listeners else None


def _life(token: str) -> float:
    """Returns the seconds until a JWT ends; 0 if that is unknown."""
    try:
        claims = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"]) - time.time()
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0
