"""A server, a failing network between it and a client, and helpers of the tests."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import signal
import sys
import unittest
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))

from fanwire import Event, Fanwire, Gap, Subscription  # noqa: E402

BINARY = os.environ.get("FANWIRE_BIN", str(HERE.parents[2] / "target/debug/fanwire"))
# Longest time for any single wait, in seconds.
PATIENCE = 20


class Server:
    """A `fanwire serve` of the test."""

    url: str

    @classmethod
    async def start(cls, *options: str) -> Server:
        server = cls()
        server.options = options
        await server._run("127.0.0.1:0")
        return server

    async def _run(self, listen: str) -> None:
        # Only the test sets its options.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("FANWIRE_", "RUST_LOG"))}
        # Clients of `/sse` get a short retry time.
        env["FANWIRE_RETRY"] = "20ms"
        self.process = await asyncio.create_subprocess_exec(
            BINARY, "serve", "--listen", listen, *self.options, stdout=asyncio.subprocess.PIPE, env=env
        )
        assert self.process.stdout
        line = (await asyncio.wait_for(self.process.stdout.readline(), PATIENCE)).decode()
        self.url = line.strip().removeprefix("listening on ")
        self.port = int(self.url.rpartition(":")[2])

    async def _ask(self, path: str, body: Any = None) -> Any:
        def ask() -> Any:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
                return json.load(answer)

        return await asyncio.to_thread(ask)

    async def publish(self, events: Any) -> str:
        return str((await self._ask("/publish", events))["last_event_id"])

    async def stats(self) -> Any:
        return await self._ask("/api/stats")

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(self.process.wait(), PATIENCE)

    async def restart(self) -> None:
        """Starts a new server at the same address."""
        await self.stop()
        await self._run(f"127.0.0.1:{self.port}")


class Proxy:
    """Passes bytes on until it cuts."""

    @classmethod
    async def to(cls, server: Server) -> Proxy:
        proxy = cls()
        proxy.server = server
        proxy.open: set[asyncio.StreamWriter] = set()
        # Whether no connection gets through.
        proxy.down = False
        # Requests with this in their first bytes get no answer.
        proxy.blocks = None
        # Whether nothing comes back from the server.
        proxy.swallows = False
        # Bytes for the clients before a cut.
        proxy.allowance = None
        proxy.listener = await asyncio.start_server(proxy._take, "127.0.0.1", 0)
        proxy.url = f"http://127.0.0.1:{proxy.listener.sockets[0].getsockname()[1]}"
        return proxy

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            return writer.transport.abort()
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        except OSError:
            return writer.transport.abort()
        self.open |= {writer, up_writer}
        try:
            await asyncio.gather(self._pass(reader, up_writer, False), self._pass(up_reader, writer, True))
        except OSError:
            pass
        finally:
            for one in (writer, up_writer):
                self.open.discard(one)
                one.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        while chunk := await reader.read(4096):
            if not down and self.blocks and self.blocks in chunk:
                raise ConnectionResetError
            if down and self.swallows:
                continue
            if down and self.allowance is not None:
                part, self.allowance = chunk[: self.allowance], self.allowance - len(chunk)
                if self.allowance < 0:
                    # A cut leaves any part of a frame.
                    self.allowance = None
                    writer.write(part)
                    await writer.drain()
                    return self.cut()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionResetError

    def cut(self, after: int = 0) -> None:
        """Cuts all open connections: at once, or after this many more bytes for a client."""
        if after:
            self.allowance = after
            return
        for writer in list(self.open):
            writer.close()

    async def close(self) -> None:
        self.listener.close()
        self.cut()


async def unrest(proxy: Proxy, seed: int, passed: Callable[[], int]) -> None:
    """Cuts again and again, at places from a seed, until it is cancelled. It usually waits for progress first, because a
    busy machine would otherwise get nothing through."""
    chance = random.Random(seed)
    while True:
        before = passed()
        await asyncio.sleep(chance.uniform(0.01, 0.06))
        while passed() == before and chance.random() < 0.99:
            await asyncio.sleep(0.005)
        proxy.cut(0 if chance.random() < 0.5 else chance.randrange(1, 4000))


async def until(what: str, done: Callable[[], Any]) -> Any:
    """Waits until a condition holds."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        value = done()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < end, f"timed out waiting for {what}"
        await asyncio.sleep(0.005)


async def take(subscription: Subscription, count: int) -> list[Event | Gap]:
    """Takes this many items of a loop."""
    items: list[Event | Gap] = []
    async with asyncio.timeout(2 * PATIENCE):
        while len(items) < count:
            items.append(await anext(subscription))
    return items


def numbered(n: int, **more: Any) -> dict[str, Any]:
    return {"type": "test.numbered", "payload": {"n": n}} | more


def numbers(items: Iterable[Event | Gap]) -> list[int]:
    """Returns the numbers of a subscription's events. A gap is a fault."""

    def number(item: Event | Gap) -> int:
        assert isinstance(item, Event), item
        return int(item.payload["n"])

    return [number(item) for item in items]


class Case(unittest.IsolatedAsyncioTestCase):
    """A test with a server, a proxy before it, and clients that end with it."""

    options: tuple[str, ...] = ()

    async def asyncSetUp(self) -> None:
        self.server = await Server.start(*self.options)
        self.addAsyncCleanup(self.server.stop)
        self.proxy = await Proxy.to(self.server)
        self.addAsyncCleanup(self.proxy.close)

    def client(self, url: str | None = None, **options: Any) -> Fanwire:
        """Through the proxy, with no long waits."""
        options = {"backoff": (0.005, 0.04), "connect_options": {"proxy": None}} | options
        client = Fanwire(url or self.proxy.url, **options)
        self.addAsyncCleanup(client.close)
        self.errors: list[str] = []
        client.on_error(lambda error: self.errors.append(error.code))
        return client

    async def offline(self, client: Fanwire) -> None:
        """Cuts a client off until the proxy is up again."""
        self.proxy.down = True
        self.proxy.cut()
        await until("the loss", lambda: client.status != "open")


C = TypeVar("C", bound=Case)


def over_each_transport(test: Callable[[C, str], Awaitable[None]]) -> Callable[[C], Coroutine[Any, Any, None]]:
    """Runs a test over WebSockets and over SSE."""

    @functools.wraps(test)
    async def over_both(self: C) -> None:
        for transport in ("ws", "sse"):
            with self.subTest(transport=transport):
                await test(self, transport)

    return over_both
