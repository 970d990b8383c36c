"""The fallback: a `/sse` stream for each subscription, and `POST /publish`."""

from __future__ import annotations

import asyncio
import codecs
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal
from urllib.parse import urlencode

from ._http import WAIT_MAX, Answer, request, wait_of
from ._link import PAST, Host, is_fillable, lacking
from ._once import Once, uncertain
from ._subscription import Answered, Subscription
from ._types import Event, FanwireError, Gap, Past

_NAMES = {
    "event_types": "type", "sources": "source", "correlation_ids": "correlation", "stream_ids": "stream",
    "execution_ids": "execution", "channels": "channel",
}  # fmt: skip


def query(filter: Any) -> list[tuple[str, str]]:
    """Returns the query of `/sse` that asks for the events of a filter in its wire form."""
    pairs = [(_NAMES[key], value) for key, values in filter.items() if key in _NAMES for value in values]
    pairs += [("filter", filter["filter"])] if "filter" in filter else []
    return pairs + [("entity", f"{entity['kind']}:{entity['id']}") for entity in filter.get("entities", ())]


_LISTS = {
    "stream": "stream_ids", "channel": "channels", "entity": "entities", "execution": "execution_ids",
    "correlation": "correlation_ids", "type": "event_types",
}  # fmt: skip


def _names_one_log(subscription: Subscription) -> bool:
    """Returns whether a filter's lists name one kept stream and no other: the one that has ended."""
    ended = subscription._ended or {}
    values = subscription.filter.get(_LISTS.get(str(ended.get("by")), ""), ())
    return list(values) == [ended.get("value")]


_HISTORY_END = re.compile(r"history_end events=([0-9]+) complete=(\w+)")

# Lifetime after which a stream counts as good, so that the next waits are short again. Seconds.
STABLE = 5.0


class Parser:
    """Takes bytes in any pieces, and returns each block at its empty line."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._block: dict[str, str] = {}
        # The last piece ended with a CR. An LF at the start of the next one belongs to it.
        self._split = False

    def feed(self, data: bytes) -> Iterator[dict[str, str]]:
        text = self._decoder.decode(data)
        if not text:
            return
        if self._split:
            text = text.removeprefix("\n")
        self._split = text.endswith("\r")
        # Lines end at CR, LF or CRLF and nowhere else, so not `splitlines`: U+2028 is a character of a value.
        *lines, self._rest = re.split(r"\r\n|\r|\n", self._rest + text)
        for line in lines:
            if not line:
                block, self._block = self._block, {}
                yield block
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name or value.startswith("history_end "):
                block = self._block
                block[name] = f"{block['data']}\n{value}" if name == "data" and "data" in block else value


class StreamLink:
    def __init__(
        self,
        base: str,
        context: ssl.SSLContext | bool | None,
        host: Host,
        interval: float,
        timeout: float,
        backoff: tuple[float, float],
    ) -> None:
        self._backoff = backoff
        self._base = base
        self._context = context
        self._host = host
        self._interval = interval
        self._timeout = timeout
        self._token: str | None = None
        self._streams: dict[Subscription, asyncio.Task[None]] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The server's description of itself, once it was asked for.
        self._info: dict[str, Any] | None = None
        # Set when the link has ended: publishes that wait for their next attempt are for the next one.
        self._closing = asyncio.Event()
        # Streams whose last block was the end of all that they name.
        self._complete: set[Subscription] = set()
        # The end of the token, if the server reported it.
        self._denied: FanwireError | None = None
        # Refills of one stream in a row, and the position of the last one.
        self._refills: dict[Subscription, tuple[int, str]] = {}
        self.over = False
        self.slot: float | None = None
        # The wait that the server asks for, in seconds.
        self.delay = 0.0

    async def run(self, token: str | None) -> None:
        """Reads until one of the streams ends, which raises an exception."""
        self._token = token
        try:
            for subscription in self._host.subscriptions():
                self.add(subscription)
            self._open_if_idle()
            await self._ended
        finally:
            self.over = True
            self._closing.set()
            # Running publishes have connections of their own, and go on.
            streams = list(self._streams.values())
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    def _open_if_idle(self) -> None:
        # Without a stream, publishing shows whether the transport works. The last stream may end before it opens, as that of a
        # run that is over.
        if not self._streams and not self.over:
            self._opened()

    def _opened(self) -> None:
        self._host.opened()
        # Subscriptions that were made since this link began, while it was not open.
        for subscription in list(self._host.subscriptions()):
            if subscription not in self._streams:
                self.add(subscription)

    def add(self, subscription: Subscription) -> None:
        task = asyncio.get_running_loop().create_task(self._read(subscription))
        self._streams[subscription] = task

        def ended(task: asyncio.Task[None]) -> None:
            # A stream that is no longer wanted ends alone. Any other one ends the link.
            wanted = self._streams.get(subscription) is task and self._streams.pop(subscription)
            if task.cancelled():
                return
            fault = task.exception()
            if wanted:
                self.end(self._denied or fault or FanwireError("disconnected", "the stream ended"))

        task.add_done_callback(ended)

    def end(self, why: BaseException) -> None:
        """Ends the link for this reason, unless it has ended."""
        if not self._ended.done():
            self._ended.set_exception(why)

    def update(self, subscription: Subscription, payload: dict[str, Any], answer: Answered) -> None:
        """The stream begins again at its position, with the changed lists."""
        answer({}, None)
        self.remove(subscription)
        self.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        if task := self._streams.pop(subscription, None):
            task.cancel()
        asyncio.get_running_loop().call_soon(self._open_if_idle)

    async def _ask(self, method: Literal["GET", "POST"], path: str, headers: dict[str, str], body: bytes | None) -> Answer:
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return await request(method, self._base + path, headers, body, self._context)

    async def _read(self, subscription: Subscription) -> None:
        """Reads the stream to its end. For a refill it begins again at its position before the gap."""
        while await self._read_once(subscription):
            count = self._refills[subscription][0]
            if count > 1:
                # The first refill is immediate, the next one waits like after a lost connection.
                base, most = self._backoff
                await asyncio.sleep(random.random() * min(most, base * 2 ** min(count, 60)))

    def _refill(self, subscription: Subscription, gap: Gap) -> bool:
        count, since = self._refills.get(subscription, (0, None))
        place = subscription._position
        if place is None or place == since or not is_fillable(self._host, [subscription], gap):
            return False
        self._refills[subscription] = (count + 1, place)
        return True

    async def _read_once(self, subscription: Subscription) -> bool:
        # The server itself refuses what else it does not know.
        if needs := subscription._needs() & {"concat", "catch_up"}:
            info = await self._describe()
            if self._info is None:
                raise FanwireError("disconnected", "the server did not say what it can do")
            if lacks := needs - set(info.get("capabilities") or ()):
                self._streams.pop(subscription, None)
                subscription._end(lacking(lacks))
                return False
        options = {key: value for key, value in subscription._options.items() if key not in ("since", "absent")}
        fails_if_absent = "absent" in subscription._options and subscription._fresh
        if fails_if_absent:
            options["absent"] = "204"
        since = subscription._position or subscription._options.get("since")
        more = [(key, str(value).lower()) for key, value in options.items()] + ([("last_event_id", since)] if since else [])
        path = f"sse?{urlencode(query({**subscription.filter, **subscription._kept}) + more)}"
        async with asyncio.timeout(self._timeout):
            answer = await self._ask("GET", path, {"Accept": "text/event-stream", "Cache-Control": "no-store"}, None)
        try:
            if answer.status == 204:
                # The server will never have more for this subscription (HTML, 9.2.3).
                self._streams.pop(subscription, None)
                if fails_if_absent:
                    subscription._end(FanwireError("no_such_log", "nothing is kept there"))
                    return False
                # The end itself was lost with the connection.
                subscription._ended = subscription._ended or {"last_event_id": since or "", "complete": True}
                subscription._end()
                return False
            if answer.status != 200:
                error = await self._refusal(answer)
                if answer.status in (400, 403):
                    # The subscription's request is wrong or not allowed, which concerns no other subscription.
                    self._streams.pop(subscription, None)
                    subscription._end(error)
                    return False
                raise error
            kind = answer.headers.get("content-type", "")
            if kind.partition(";")[0].strip().lower() != "text/event-stream":
                # A login page or a proxy's own answer, for example.
                raise FanwireError("protocol", f"not an event stream: {kind}")
            subscription._taken()
            if not any(subscription._options.get(key) for key in PAST):
                subscription._passed()
            self._opened()
            began = time.monotonic()
            parser = Parser()
            pieces = answer.pieces()
            while True:
                # The server's heartbeat is a comment each 30 s, by default.
                async with asyncio.timeout(3 * self._interval):
                    try:
                        piece = await anext(pieces)
                    except StopAsyncIteration:
                        # A stream ends after the end of all that its filter names.
                        if subscription in self._complete:
                            self._streams.pop(subscription, None)
                            subscription._end()
                        return False
                self._host.proven()
                if time.monotonic() - began > STABLE:
                    self._refills.pop(subscription, None)
                for block in parser.feed(piece):
                    if self._take(subscription, block):
                        return True
        finally:
            self._complete.discard(subscription)
            answer.close()

    def _take(self, subscription: Subscription, block: dict[str, str]) -> bool:
        """Takes a block. Returns true if the stream is to begin again before it."""
        if ended := _HISTORY_END.match(block.get("", "")):
            subscription._passed(Past(int(ended[1]), ended[2] == "true"))
        retry = block.get("retry", "")
        if retry.isascii() and retry.isdigit():
            self.delay = min(float(retry[:12]) / 1000, WAIT_MAX) * random.random()
        place = block.get("id")
        self._complete.discard(subscription)
        try:
            raw = json.loads(block.get("data") or "{}")
            if "event_type" in raw:
                self._host.deliver(Event.from_dict(raw), subscription)
            elif block.get("event") == "gap":
                gap = Gap.from_dict(raw)
                if self._refill(subscription, gap):
                    return True
                self._host.deliver(gap, subscription)
                place = gap.to_id
            elif block.get("event") == "end":
                subscription._ended = raw
                if _names_one_log(subscription):
                    self._complete.add(subscription)
            elif block.get("event") == "closed":
                code = str(raw.get("code"))
                # The next thing is the end of the stream.
                self._denied = FanwireError("unauthorized" if code.startswith("token_") else code, str(raw.get("error")))
        except (ValueError, KeyError, TypeError, AttributeError) as cause:
            self._host.failed(FanwireError("protocol", f"not an event: {cause!r}"))
        subscription._reach(place)
        return False

    async def _refusal(self, answer: Answer) -> FanwireError:
        try:
            reply = json.loads(await answer.body())
        except (ValueError, OSError, EOFError):
            reply = {}
        self.delay = wait_of(answer.headers.get("retry-after")) or self.delay
        code = {401: "unauthorized", 403: "forbidden"}.get(answer.status) or reply.get("code", f"http_{answer.status}")
        return FanwireError(code, reply.get("error", f"refused with {answer.status}"))

    def ask(self, kind: str, payload: object, answered: Answered) -> None:
        if kind == "request":
            return answered(None, FanwireError("no_transport", "requests need a WebSocket"))

        self._start(self._post(payload, answered))

    def publish(self, once: Once, answered: Answered) -> None:
        """Publishes an event, and again if there was no answer and the server deduplicates."""

        async def post() -> None:
            attempt = 0
            while once.name(await self._describe()):
                lost = False

                def note(payload: Any, error: FanwireError | None) -> None:
                    nonlocal lost
                    lost = error is not None and error.code == "uncertain"
                    if not lost or self.over or self._host.is_closed() or not once.may_be_sent_again():
                        lost = False
                        answered(payload, error)

                await self._post(once.event, note)
                if not lost:
                    return
                base, most = self._backoff
                wait = random.random() * min(most, base * 2 ** min(attempt, 60))
                attempt += 1
                try:
                    async with asyncio.timeout(wait):
                        await self._closing.wait()
                    # The next link sends it.
                    return answered(None, uncertain())
                except TimeoutError:
                    pass
            answered(None, uncertain())

        self._start(post())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _describe(self) -> dict[str, Any]:
        """Asks the server once for its description. One that is too old has none."""
        if self._info is None:
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._ask("GET", "api/server_info", {"Accept": "application/json"}, None)
                    try:
                        reply = json.loads(await answer.body()) if answer.status == 200 else {}
                    finally:
                        answer.close()
                self._info = reply if isinstance(reply, dict) else {}
            except (OSError, EOFError, TimeoutError, ValueError, FanwireError):
                return {}
        return self._info

    async def _post(self, event: object, answered: Answered) -> None:
        try:
            body = json.dumps(event).encode()
            async with asyncio.timeout(self._timeout):
                answer = await self._ask("POST", "publish", {"Content-Type": "application/json"}, body)
                try:
                    if answer.status != 200:
                        return answered(None, await self._refusal(answer))
                    reply = json.loads(await answer.body())
                finally:
                    answer.close()
            self._host.proven()
            answered({"event_id": reply["last_event_id"]}, None)
        except (OSError, EOFError, TimeoutError, ValueError, FanwireError, asyncio.CancelledError) as cause:
            answered(None, uncertain())
            if isinstance(cause, asyncio.CancelledError):
                raise

    def send_unacked(self, kind: str, payload: object) -> None:
        """Publishes an event. Only an error is reported, to the host."""

        def answered(_: Any, error: FanwireError | None) -> None:
            if error:
                self._host.failed(error)

        self.ask(kind, payload, answered)

    def login(self, token: str, then: Callable[[], None] | None = None) -> None:
        """A stream keeps the token it began with, so all streams reconnect with the new one."""
        self.end(FanwireError("disconnected", "a new token"))
