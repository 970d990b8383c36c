"""Faults of servers, proxies, clocks and callers, each simulated for the client."""

import asyncio
import contextlib
import json
import time
import unittest
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

from support import Fanwire, Proxy, Server, take, until
from websockets.asyncio.server import ServerConnection, serve

from fanwire import Event, FanwireError

Answer = Callable[[int], str]
EVENT = 'data: {"event_id":"a-1","event_type":"x","payload":{}}\n\n'


def head(status: str, *headers: str) -> str:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""])


def stream(text: str) -> str:
    return head("200 OK", "Content-Type: text/event-stream; charset=utf-8") + text


class Faults(unittest.IsolatedAsyncioTestCase):
    async def serve(self, answer: Answer, ends: bool = True) -> list[float]:
        """Answers each request with a text. Returns the time of each request."""
        times: list[float] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError):
                await reader.readuntil(b"\r\n\r\n")
                times.append(time.monotonic())
                writer.write(answer(len(times)).encode())
                await writer.drain()
                if not ends:
                    await reader.read()
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.addCleanup(server.close)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return times

    def client(self, **options: Any) -> Fanwire:
        base: dict[str, Any] = {"backoff": (0.005, 0.04), "transports": ["sse"], "connect_options": {"proxy": None}}
        client = Fanwire(self.url, **(base | options))
        self.addAsyncCleanup(client.close)
        self.errors: list[str] = []
        client.on_error(lambda error: self.errors.append(error.code))
        return client

    async def test_retry_after_in_every_form_makes_no_storm(self) -> None:
        for header, most in [
            (formatdate(time.time() + 60, usegmt=True), 1),
            ("3000000", 1),
            ("9" * 5000, 1),
            (formatdate(0, usegmt=True), 15),
            ("soon", 15),
            ("-5", 15),
            ("\u00b2", 15),
        ]:
            times = await self.serve(lambda _, header=header: head("503 Busy", f"Retry-After: {header}", "Content-Length: 0"))  # type: ignore[misc]
            client = self.client(backoff=(0.08, 0.08))
            client.subscribe()
            await until("an attempt", lambda: len(times) > 0)
            start = time.monotonic()
            await asyncio.sleep(0.4)
            # On a busy machine the sleep takes longer, and there are as many more attempts.
            took = max(time.monotonic() - start, 0.4)
            self.assertLessEqual(len(times), 1 if most == 1 else most * took / 0.4, header[:40])
            await client.close()

    async def test_interim_answers_are_ignored(self) -> None:
        early = head("103 Early Hints", "Link: </style.css>; rel=preload") + head("100 Continue")
        await self.serve(lambda _: early + stream(EVENT), ends=False)
        client = self.client()
        self.assertEqual((await take(client.subscribe(), 1))[0].event_type, "x")
        await self.serve(lambda _: early + head("200 OK", "Content-Length: 25") + '{"last_event_id":"a-00001"}'[:25])
        publisher = self.client()
        with self.assertRaises(FanwireError):
            # Cut short: uncertain, not a success.
            await publisher.publish({"type": "x"})
        await self.serve(lambda _: early + head("200 OK", "Content-Length: 23") + '{"last_event_id":"a-1"}')
        self.assertEqual(await self.client().publish({"type": "x"}), "a-1")
        await self.serve(lambda _: head("102 Processing") * 100)
        endless = self.client(attempts=2)
        with self.assertRaises(FanwireError) as caught:
            await endless.subscribe().__anext__()
        self.assertEqual(caught.exception.code, "gave_up")

    async def test_a_page_is_no_stream_and_204_is_the_end(self) -> None:
        await self.serve(lambda _: head("200 OK", "Content-Type: text/html") + "<h1>Sign in</h1>")
        with self.assertRaises(FanwireError) as caught:
            await self.client(attempts=3).subscribe().__anext__()
        self.assertEqual((caught.exception.code, self.errors), ("gave_up", ["protocol"] * 3))
        times = await self.serve(lambda _: head("204 No Content"))
        with self.assertRaises(StopAsyncIteration):
            await self.client().subscribe().__anext__()
        await asyncio.sleep(0.1)
        self.assertEqual(len(times), 1)

    async def test_closed_is_the_end_of_a_token_and_unknown_names_are_ignored(self) -> None:
        closed = 'event: closed\ndata: {"code":"token_expired","error":"Token expired"}\n\n'
        await self.serve(lambda nth: stream("event: news\ndata: {}\n\n" + (closed if nth == 1 else EVENT)))
        gaps: list[object] = []
        fixed = self.client(token="fixed")
        fixed.on_gap(gaps.append)
        with self.assertRaises(FanwireError) as caught:
            await fixed.subscribe().__anext__()
        self.assertEqual((caught.exception.code, str(caught.exception)), ("unauthorized", "Token expired"))
        self.assertEqual((gaps, self.errors), ([], ["unauthorized"]))
        await self.serve(lambda nth: stream(closed if nth == 1 else EVENT))
        item = (await take(self.client(token=lambda: "fresh").subscribe(), 1))[0]
        assert isinstance(item, Event)

    async def test_a_request_made_during_a_wait_waits_too(self) -> None:
        connected: list[float] = []
        told = 0.0

        async def handle(socket: ServerConnection) -> None:
            nonlocal told
            connected.append(time.monotonic())
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "ping":
                    continue
                await socket.send(json.dumps({"type": "ack", "payload": {"event_id": "e-1"}, "correlation_id": message["message_id"]}))
                if len(connected) == 1:
                    told = time.monotonic()
                    await socket.send(json.dumps({"type": "reconnect", "payload": {"delay_ms": 400}}))
                    return

        server = await serve(handle, "127.0.0.1", 0)
        self.addAsyncCleanup(server.wait_closed)
        self.addCleanup(server.close)
        self.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        client = self.client(transports=["ws"])
        client.subscribe()
        await until("the wait", lambda: client.status == "waiting")
        client.subscribe("y")
        self.assertEqual(await client.publish({"type": "x"}), "e-1")
        self.assertEqual(len(connected), 2)
        # A timer may fire a little early.
        self.assertGreater(connected[1] - told, 0.395, "the slot was held")

    async def test_the_websocket_takes_over_from_the_fallback(self) -> None:
        server = await Server.start()
        self.addAsyncCleanup(server.stop)
        proxy = await Proxy.to(server)
        self.addAsyncCleanup(proxy.close)
        proxy.blocks = b"Upgrade: websocket"
        self.url = proxy.url
        client = self.client(transports=["ws", "sse"])
        loop = client.subscribe("test.*")
        await loop.ready()
        with self.assertRaises(FanwireError):
            await client.request("server_info")
        statuses: list[str] = []
        client.on_status(statuses.append)
        proxy.blocks = None
        for _ in range(1000):
            with contextlib.suppress(FanwireError):
                await client.request("server_info")
                break
            await asyncio.sleep(0.01)
        else:
            self.fail("no WebSocket")
        self.assertEqual(statuses, ["waiting", "connecting", "open"])
        await server.publish([{"type": "test.x"}])
        self.assertEqual((await take(loop, 1))[0].event_type, "test.x")

    async def test_the_runner_outlives_every_fault(self) -> None:
        server = await Server.start()
        self.addAsyncCleanup(server.stop)
        self.url = server.url
        with self.assertRaises(TypeError):
            Fanwire(server.url, token=b"bytes")  # type: ignore[arg-type]

        def cancelled() -> Awaitable[str]:
            task: asyncio.Task[str] = asyncio.get_running_loop().create_task(asyncio.sleep(60, "late"))
            task.cancel()
            return task

        async def silent() -> str:
            await asyncio.sleep(60)
            return ""

        faults: list[Callable[[], Any]] = [cancelled, lambda: b"bytes", lambda: 1 / 0, silent, lambda: "good"]
        client = self.client(token=lambda: (faults.pop(0) if len(faults) > 1 else faults[0])(), transports=["ws"], heartbeat=(25.0, 2.0))
        await asyncio.wait_for(client.subscribe().ready(), 20)
        # On a busy machine the server may be late, which is not tested here.
        self.assertEqual(self.errors.count("token"), 4)
        self.assertLessEqual(set(self.errors), {"token", "timeout", "disconnected"})
        # A SOCKS proxy without its package, and one that does not exist.
        away = self.client(transports=["ws"], attempts=2, connect_options={"proxy": "socks5://127.0.0.1:9"})
        with self.assertRaises(FanwireError) as caught:
            await asyncio.wait_for(away.subscribe().__anext__(), 20)
        self.assertEqual((caught.exception.code, self.errors), ("gave_up", ["disconnected"] * 2))

    async def test_a_refused_handler_is_reported(self) -> None:
        server = await Server.start()
        self.addAsyncCleanup(server.stop)
        self.url = server.url
        client = self.client(transports=["ws"])
        client.on([f"type-{n}" for n in range(2000)], print)
        await until("the refusal", lambda: bool(self.errors))


if __name__ == "__main__":
    unittest.main()
