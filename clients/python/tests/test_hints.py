"""Reconnect instructions of the server, and their absence, with a server that the test simulates."""

import asyncio
import base64
import contextlib
import json
import time
import unittest
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from support import Fanwire, take, until
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from fanwire import FanwireError

Heard = Callable[[dict[str, Any]], bool | dict[str, Any]]


class Hints(unittest.IsolatedAsyncioTestCase):
    async def play(self, heard: Heard = lambda message: False) -> None:
        """A simulated server: it answers subscribes and pings. The test sees everything, and may answer
        itself."""
        self.sockets: list[ServerConnection] = []
        self.headers: list[str | None] = []

        async def handle(socket: ServerConnection) -> None:
            self.sockets.append(socket)
            assert socket.request
            self.headers.append(socket.request.headers.get("Authorization"))
            with contextlib.suppress(ConnectionClosed):
                async for text in socket:
                    message = json.loads(text)
                    answer = heard(message)
                    if answer is True:
                        continue
                    kind = {"ping": "pong"}.get(message["type"], "ack")
                    reply = answer or {"type": kind, "payload": {}}
                    await socket.send(json.dumps({"correlation_id": message["message_id"]} | reply))

        server = await serve(handle, "127.0.0.1", 0)
        self.addAsyncCleanup(server.wait_closed)
        self.addCleanup(server.close)
        self.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    def client(self, **options: Any) -> Fanwire:
        client = Fanwire(self.url, **({"backoff": (0.005, 0.04), "connect_options": {"proxy": None}} | options))
        self.addAsyncCleanup(client.close)
        self.errors: list[str] = []
        client.on_error(lambda error: self.errors.append(error.code))
        return client

    async def test_hints_are_waited_for(self) -> None:
        for code, reason, slot, want in [
            (1012, "", 1234, 1.234),
            (1012, "restarting, retry=700", None, 0.704),
            (1013, "too busy; retry: 900 ms", None, 0.904),
            (1001, "server is shutting down", None, 0.004),
        ]:
            await self.play()
            client = self.client(backoff=(0.008, 0.008), heartbeat=(60.0, 61.0))
            await client.subscribe().ready()
            asked: list[float] = []
            real = asyncio.timeout

            def timeout(delay: float | None) -> asyncio.Timeout:
                if delay is not None and delay < 60:
                    asked.append(round(delay, 6))
                    delay = min(delay, 0.01)
                return real(delay)

            with patch("random.random", return_value=0.5), patch("asyncio.timeout", timeout):
                if slot:
                    await self.sockets[0].send(json.dumps({"type": "reconnect", "payload": {"delay_ms": slot}}))
                await self.sockets[0].close(code, reason)
                await until("another connection", lambda: len(self.sockets) == 2)
            self.assertIn(want, asked)
            await client.close()

    async def test_silence_causes_a_ping_and_silence_after_that_is_a_loss(self) -> None:
        mute = False
        pings = 0

        def heard(message: dict[str, Any]) -> bool:
            nonlocal pings
            pings += message["type"] == "ping"
            return mute

        await self.play(heard)
        client = self.client(heartbeat=(0.03, 2.0))
        await client.subscribe().ready()
        await until("pings", lambda: pings > 3)
        self.assertEqual(len(self.sockets), 1, "answered pings keep it")
        mute = True
        await until("another connection", lambda: len(self.sockets) > 1)
        self.assertEqual(self.errors[0], "timeout")

    async def test_a_token_is_requested_before_each_connection_and_replaced_before_it_expires(self) -> None:
        tokens: list[str] = []
        order: list[str] = []

        def heard(message: dict[str, Any]) -> bool:
            order.append(message["type"])
            if message["type"] == "auth":
                tokens.append(message["payload"]["token"])
            return False

        await self.play(heard)
        given: list[str] = []

        async def token() -> str:
            # From the second on they live for a fifth of a second.
            claims = {"exp": time.time() + (3600 if not given else 0.2), "n": len(given)}
            given.append(f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.x")
            return given[-1]

        client = self.client(token=token)
        await client.subscribe().ready()
        self.assertEqual(order[:3], ["auth", "request", "subscribe"])
        self.sockets[0].transport.abort()
        await until("new tokens on the same connection", lambda: len(tokens) >= 4)
        self.assertEqual(len(self.sockets), 2)
        self.assertEqual(tokens, given[: len(tokens)])
        self.assertEqual(self.headers, [f"Bearer {one}" for one in given[:2]])

    async def test_a_refused_token_that_can_not_be_replaced_ends_the_client(self) -> None:
        def heard(message: dict[str, Any]) -> bool | dict[str, Any]:
            if message["type"] != "auth" or message["payload"]["token"] == "good":
                return False
            return {"type": "error", "payload": {"error": "token expired", "code": "auth_failed"}}

        await self.play(heard)
        with self.assertRaises(FanwireError) as caught:
            await anext(self.client(token="bad").subscribe())
        self.assertEqual((caught.exception.code, str(caught.exception)), ("unauthorized", "token expired"))
        tokens = iter(["bad", "worse", "good"])
        client = self.client(token=lambda: next(tokens))
        await client.subscribe().ready()
        self.assertEqual(self.errors, ["unauthorized", "unauthorized"])

    async def test_an_invalid_message_is_reported_and_ends_nothing(self) -> None:
        await self.play()
        client = self.client()
        loop = client.subscribe()
        await loop.ready()
        for text in (
            "no json", "[]", '{"type":"event","payload":{}}', '{"type":"news","payload":null}',
            '{"type":"error","payload":{"error":"mind the gap","code":"odd"},"correlation_id":null}',
            '{"type":"event","payload":{"event_id":"a-1","event_type":"x","payload":{}}}',
        ):  # fmt: skip
            await self.sockets[0].send(text)
        (event,) = await take(loop, 1)
        self.assertEqual(event.event_id, "a-1")
        self.assertEqual(self.errors, ["protocol", "protocol", "protocol", "odd"])
        self.assertEqual(len(self.sockets), 1)


if __name__ == "__main__":
    unittest.main()
