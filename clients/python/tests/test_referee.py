"""The promises of the client with a hostile server: `cases/referee.json`, which also drives the JavaScript
client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import unittest
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

from support import HERE, take, until
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.datastructures import Headers

from fanwire import Event, Fanwire, FanwireError, Gap

CASES: dict[str, Any] = json.loads((HERE.parents[1] / "cases/referee.json").read_text())
BASE = 0.02
ABLE = ["catch_up", "concat", "filter", "history_end", "own_past", "refill"]
SLOT = CASES["slot"] / 1000


def event(n: int) -> dict[str, Any]:
    return {"event_id": f"a-{n}", "event_type": "x", "correlation_id": None, "payload": n}


def number(place: str) -> int:
    return int(place.split("-")[1])


class Hostile:
    """A server with a log of numbered events. It breaks some connections in one state."""

    def __init__(self, state: str = "", reason: str = "", losses: int = 0) -> None:
        self.state, self.reason, self.left = state, reason, losses
        self.log = 0
        # Length of the log when a subscription was first accepted: all later events must come.
        self.first: int | None = None
        self.attempts: list[float] = []
        self.muted: set[object] = set()
        self.capabilities: list[str] | None = ABLE
        self.refills = 0
        self.gap: dict[str, Any] | None = None
        self.once: dict[str, Any] = {}
        # Accepted events, and their answers by name.
        self.published = 0
        self.names: dict[str, str] = {}

    def info(self) -> dict[str, Any]:
        able = {} if self.capabilities is None else {"capabilities": self.capabilities}
        return {"name": "fanwire", "dedupe_seconds": self.once.get("dedupe_seconds", 120)} | able

    def publish(self, event: dict[str, Any], is_stream: bool) -> str | None:
        """Accepts an event, once if it has a name. Returns its id; None if the connection is lost before that or after."""
        when = self.once.get("lose", "before" if self.state == "publishing" else None)
        if when == "before" and self.due(is_stream):
            return None
        name = event.get("dedupe_id")
        id = self.names.get(name) if name else None
        if id is None:
            self.published += 1
            id = f"p-{self.published}"
        if name:
            self.names[name] = id
        return None if when == "after" and self.due(is_stream) else id

    def due(self, is_stream: bool = True) -> bool:
        """Returns whether a connection is to be broken now. An event is published meanwhile."""
        if self.left <= 0:
            return False
        self.left -= 1
        if self.first is not None and is_stream:
            self.log += 1
        return True

    async def drop(self, socket: ServerConnection) -> None:
        if self.reason == "mute":
            self.muted.add(socket)
        elif self.reason.isdigit():
            await socket.close(int(self.reason), f"retry={CASES['slot']}" if self.reason in ("1012", "1013") else "")
        else:
            socket.transport.abort()

    # WebSocket.

    async def start_ws(self, case: unittest.IsolatedAsyncioTestCase) -> None:
        server = await serve(self.socket, "127.0.0.1", 0, process_request=self.greet, ping_interval=None, close_timeout=0.1)
        case.addAsyncCleanup(server.wait_closed)
        case.addCleanup(server.close)
        self.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    async def greet(self, socket: ServerConnection, _: Request) -> Response | None:
        self.attempts.append(time.monotonic())
        if self.state != "connecting" or not self.due():
            return None
        if self.reason == "mute":
            await asyncio.sleep(2)
        if self.reason in ("mute", "reset"):
            socket.transport.abort()
            return Response(500, "", Headers(), b"")
        status, kind = (503, "application/json") if self.reason == "503" else (200, "text/html")
        return Response(status, "Busy", Headers({"Content-Type": kind, "Content-Length": "2", "Connection": "close"}), b"{}")

    async def socket(self, socket: ServerConnection) -> None:
        async def say(kind: str, payload: Any, to: str | None = None) -> None:
            await socket.send(json.dumps({"type": kind, "payload": payload, "correlation_id": to}))

        with contextlib.suppress(Exception):
            async for text in socket:
                if socket not in self.muted:
                    message = json.loads(text)
                    await self.hear(socket, say, message["type"], message["payload"], message["message_id"])

    async def hear(self, socket: ServerConnection, say: Any, kind: str, payload: Any, id: str) -> None:
        if self.gap and kind in ("subscribe", "refill"):
            return await self.play(say, kind == "refill", payload, id)
        if kind == "request":
            if self.state == ("asking" if payload["action"] == "server_info" else "requesting") and self.due():
                return await self.drop(socket)
            await say("response", self.info(), id)
        elif kind == "ping":
            await say("pong", {"last_event_id": f"a-{self.log}"}, id)
        elif kind == "publish":
            event_id = self.publish(payload, is_stream=True)
            if event_id is None:
                return await self.drop(socket)
            await say("ack", {"event_id": event_id}, id)
        elif kind == "refill":
            if self.due():
                return await self.drop(socket)
            await say("ack", {}, id)
            for n in range(number(payload["since"]) + 1, self.log + 1):
                await say("event", event(n))
        elif kind == "subscribe":
            await self.subscribe(socket, say, payload, id)
        else:
            await say("ack", {}, id)

    async def subscribe(self, socket: ServerConnection, say: Any, payload: Any, id: str) -> None:
        if self.state == "subscribing" and self.due():
            return await self.drop(socket)
        self.first = self.log if self.first is None else self.first
        name = payload["subscription_id"]
        await say("ack", {"subscription_id": name, "last_event_id": f"a-{self.log}"}, id)
        is_other = payload.get("event_types") == ["other"]
        if is_other and self.state == "past" and self.left > 0:
            await say("event", event(1))
            self.due()
            return await self.drop(socket)
        since = self.log
        if "since" in payload:
            since = number(payload["since"])
        elif "history" in payload:
            since = max(0, self.log - payload["history"])
        for n in range(since + 1, self.log + 1):
            await say("event", event(n))
        if "since" in payload or "history" in payload:
            await say("history_end", {"subscription_id": name, "events": self.log - since, "complete": True})
        if is_other:
            return
        self.log += 1
        await say("event", event(self.log))
        if self.state == "draining" and self.left > 0:
            await say("reconnect", {"delay_ms": CASES["slot"]})
        if self.state == "refilling" and self.left > 0:
            start, self.log = self.log, self.log + 2
            await say("gap", {"missed": 2, "from": f"a-{start}", "to": f"a-{self.log}", "recoverable": True})
        elif self.state in ("subscribed", "draining", "text") and self.due():
            await self.drop(socket)

    async def play(self, say: Any, again: bool, payload: Any, id: str | None) -> None:
        """Sends the message of a gap case."""
        assert self.gap
        gap = {"missed": 2, "from": "a-1", "to": "a-3", "recoverable": True}
        if id is not None:
            await say("ack", {"subscription_id": payload.get("subscription_id"), "last_event_id": "a-0"}, id)
        if again:
            assert payload["since"] == "a-1", payload
            self.refills += 1
        for at, what in enumerate(self.gap["refill" if again else "say"]):
            if what == "all":
                for n in (2, 3, 4):
                    await say("event", event(n))
            elif what == "event":
                await say("event", event(4 if at or again else 1))
            elif what == "unknown":
                await say("news", {"what": 1})
            else:
                more: dict[str, Any] = {"lost": {"recoverable": False}, "nameless": {"from": None, "recoverable": False}}.get(what, {})
                await say("gap", gap | more)

    # Event streams.

    async def start_sse(self, case: unittest.IsolatedAsyncioTestCase) -> None:
        server = await asyncio.start_server(self.stream, "127.0.0.1", 0)
        case.addCleanup(server.close)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(kind: str, what: Any, _: str | None = None) -> None:
            name = f"id: {what['event_id']}" if kind == "event" else f"event: {kind}"
            writer.write(f"{name}\ndata: {json.dumps(what)}\n\n".encode())

        with contextlib.suppress(OSError, EOFError):
            method, target, head = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
            if method == "POST":
                length = int(head.lower().split("content-length: ")[1].split("\r")[0])
                event_id = self.publish(json.loads(await reader.readexactly(length)), is_stream=False)
                if event_id is None:
                    return await self.cut(reader, writer)
                return self.answer(writer, {"accepted": 1, "last_event_id": event_id})
            if target == "/api/server_info":
                return self.answer(writer, self.info(), "404 Not Found" if self.capabilities is None else "200 OK")
            self.attempts.append(time.monotonic())
            if self.state == "connecting" and self.due():
                return await self.cut(reader, writer)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            since = parse_qs(urlsplit(target).query).get("last_event_id", [None])[0]
            if self.gap:
                await self.play(say, since is not None, {"since": since}, None)
                await reader.read()
                return writer.close()
            self.first = self.log if self.first is None else self.first
            if since is None:
                writer.write(f"id: a-{self.log}\n\n".encode())
            for n in range(number(since) + 1 if since else self.log + 1, self.log + 1):
                await say("event", event(n))
            self.log += 1
            await say("event", event(self.log))
            if self.state == "refilling" and self.left > 0:
                start, self.log = self.log, self.log + 2
                await say("gap", {"missed": 2, "from": f"a-{start}", "to": f"a-{self.log}", "recoverable": True})
                # The stream that comes for it is broken at once.
                self.state = "connecting"
            elif self.state in ("subscribed", "text") and self.left > 0:
                await writer.drain()
                await asyncio.sleep(0.005)
                self.due()
                return await self.cut(reader, writer)
            await writer.drain()
            await reader.read()
        writer.close()

    def answer(self, writer: asyncio.StreamWriter, said: Any, status: str = "200 OK") -> None:
        body = json.dumps(said).encode()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async def cut(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.reason == "mute":
            await reader.read()
        elif self.reason in ("503", "html"):
            status, kind = ("503 Busy", "application/json") if self.reason == "503" else ("200 OK", "text/html")
            writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        elif self.reason == "reset":
            writer.transport.abort()
        writer.close()


class Timers:
    """Records the timers that the client's own code has started in this loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.handles: list[asyncio.TimerHandle] = []
        start = self.loop.call_at

        def call_at(*args: Any, **options: Any) -> asyncio.TimerHandle:
            handle = start(*args, **options)
            frame = sys._getframe(1)
            while frame and "src/fanwire" not in frame.f_code.co_filename:
                frame = frame.f_back  # type: ignore[assignment]
            if frame:
                self.handles.append(handle)
            return handle

        self.loop.call_at = call_at  # type: ignore[method-assign]

    def in_use(self) -> list[asyncio.TimerHandle]:
        """Returns the timers that have neither fired nor been cancelled."""
        return [one for one in self.handles if not one.cancelled() and one.when() > self.loop.time()]

    def stop(self) -> None:
        del self.loop.call_at


class Referee(unittest.IsolatedAsyncioTestCase):
    async def start(self, server: Hostile, transport: str) -> None:
        await (server.start_ws if transport == "ws" else server.start_sse)(self)

    def client(self, server: Hostile, transport: Any, **options: Any) -> Fanwire:
        client = Fanwire(server.url, transports=[transport], connect_options={"proxy": None}, **options)
        self.addAsyncCleanup(client.close)
        client.on_error(lambda _: None)
        return client

    async def loss(self, transport: str, state: str, reason: str) -> None:
        losses: int = CASES["losses"]
        server = Hostile(state, reason, losses)
        await self.start(server, transport)
        refused = losses if state == "token" else 0

        def token() -> str:
            nonlocal refused
            refused -= 1
            if refused >= 0:
                raise OSError("none")
            return "any"

        tasks = asyncio.all_tasks()
        timers = Timers()
        heartbeat = (0.1, 0.4) if reason == "mute" else (25.0, 10.0)
        client = self.client(
            server, transport, backoff=(BASE, 8 * BASE), heartbeat=heartbeat, token=token if state == "token" else None
        )
        statuses: list[str] = []
        gaps: list[Gap] = []
        client.on_status(statuses.append)
        client.on_gap(gaps.append)
        # The server's capabilities are asked for before a text, and again on each connection.
        loop = client.subscribe(filter="type=x") if state in ("asking", "text") else client.subscribe("x")
        if state in ("publishing", "requesting"):
            await loop.ready()
            for _ in range(losses):
                try:
                    await (client.publish({"type": "y"}) if state == "publishing" else client.request("subscription_count"))
                except FanwireError as error:
                    self.assertEqual((error.code, state), ("uncertain", "publishing"))
        if state == "past":
            await loop.ready()
            client.subscribe("other", history=5)
        await until("the losses", lambda: server.left <= 0 or state == "token")
        await until("the client is back", lambda: client.status == "open")
        await loop.ready()
        await until("all that was published", lambda: loop._position == f"a-{server.log}")
        assert server.first is not None
        wanted = list(range(server.first + 1, server.log + 1))
        got = [item.payload if isinstance(item, Event) else item for item in await take(loop, len(wanted))]
        self.assertEqual((got, gaps), (wanted, []))
        # Each status once, one after the other.
        self.assertEqual([a for a, b in zip(statuses, statuses[1:]) if a == b], [])
        # Attempts keep to the backoff, or to the server's instructions.
        slot = SLOT if reason in ("1012", "1013") or state == "draining" else 0.0
        waits = [b - a for a, b in zip(server.attempts, server.attempts[1:])]
        if state not in ("publishing", "past") and (transport, state) != ("sse", "refilling"):
            for at, wait in enumerate(waits[:losses]):
                self.assertGreaterEqual(wait, (slot or BASE * 2**at) - 0.003, waits)
        self.assertLessEqual(len(server.attempts), losses + 2)
        self.assertNotEqual(timers.in_use(), [], "an open client has timers")
        await client.close()
        with self.assertRaises(FanwireError):
            await client.publish({"type": "y"})
        with self.assertRaises(StopAsyncIteration):
            await anext(loop)
        attempts = len(server.attempts)
        await asyncio.sleep(3 * BASE)
        self.assertEqual((len(server.attempts), statuses[-1]), (attempts, "closed"))
        # The server's own tasks have the names of its functions.
        left = [one for one in asyncio.all_tasks() - tasks if "src/fanwire" in str(one.get_coro())]
        self.assertEqual(left, [])
        self.assertEqual(timers.in_use(), [])
        timers.stop()

    async def losses(self, transport: str) -> None:
        with patch("random.random", lambda: 1.0):
            for state, reasons in CASES[transport].items():
                for reason in reasons:
                    with self.subTest(f"{transport}, {state}, {reason}"):
                        await asyncio.wait_for(self.loss(transport, state, reason), 40)

    async def test_the_promises_hold_however_a_websocket_ends(self) -> None:
        await self.losses("ws")

    async def test_the_promises_hold_however_a_stream_ends(self) -> None:
        await self.losses("sse")

    async def test_a_publish_is_accepted_once_or_uncertain(self) -> None:
        for transport in ("ws", "sse"):
            for case in CASES["once"]:
                for reason in case["reasons"][transport]:
                    with self.subTest(f"{transport}, {reason}: a publish is {case['name']}"):
                        await asyncio.wait_for(self.once(transport, reason, case), 40)

    async def once(self, transport: str, reason: str, case: dict[str, Any]) -> None:
        server = Hostile("", reason, case.get("losses", 1))
        server.once = case
        server.capabilities = [*ABLE, "publish_once"] if case.get("able", True) else ABLE
        await self.start(server, transport)
        timers = Timers()
        heartbeat = (0.1, 0.4 if reason == "mute" else 10.0)
        client = self.client(server, transport, backoff=(0.005, 0.04), heartbeat=heartbeat)
        await client.subscribe("x").ready()
        own = {"dedupe_id": case["dedupe_id"]} if "dedupe_id" in case else {}
        outcome = asyncio.create_task(client.publish({"type": "y"} | own))
        await until("the losses", lambda: server.left == 0)
        if case.get("close"):
            await client.close()
        try:
            said: str | None = await outcome
        except FanwireError as error:
            said = error.code
        self.assertEqual((said, server.published), (case["want"], case["published"]))
        if own:
            self.assertEqual(list(server.names), [case["dedupe_id"]])
        await client.close()
        self.assertEqual(timers.in_use(), [])
        timers.stop()

    async def test_a_gap_is_filled_or_reported(self) -> None:
        for transport in ("ws", "sse"):
            for case in CASES["gaps"]:
                if case.get("only", transport) != transport:
                    continue
                with self.subTest(f"{transport}: {case['name']}"):
                    server = Hostile()
                    server.gap, server.capabilities = case, case.get("capabilities", ABLE)
                    await self.start(server, transport)
                    timers = Timers()
                    client = self.client(server, transport, on_gap=case.get("client", "refill"), backoff=(0.005, 0.04))
                    gaps: list[Gap] = []
                    client.on_gap(gaps.append)
                    loop = client.subscribe("x", on_lag=case.get("on_lag"), concat=case.get("concat"))
                    items = await asyncio.wait_for(take(loop, len(case["want"])), 20)
                    self.assertEqual([one.payload if isinstance(one, Event) else "gap" for one in items], case["want"])
                    self.assertEqual((len(gaps), server.refills), (case["want"].count("gap"), case["refills"]))
                    await client.close()
                    self.assertEqual(timers.in_use(), [])
                    timers.stop()


if __name__ == "__main__":
    unittest.main()
