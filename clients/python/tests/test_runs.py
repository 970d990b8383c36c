"""Runs and pages of the past, with a server that plays `cases/runs.json`, which also drives the JavaScript client, and with
the real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import unittest
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support import HERE, Case, Proxy, Server, over_each_transport, unrest, until
from websockets.asyncio.server import ServerConnection, serve

from fanwire import Event, Fanwire, FanwireError, Gap, Past, Run, RunEnd

CASES: dict[str, Any] = json.loads((HERE.parents[1] / "cases/runs.json").read_text())


def number(place: str) -> int:
    return int(place.split("-")[1])


class Kept:
    """A server with one kept run, or with pages."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.log: list[str] = list(case.get("log", []))
        self.live: list[str] = list(case.get("live", []))
        self.gone: int = case.get("gone", 0)
        self.cuts: list[int] = list(case.get("cuts", []))
        self.is_apart: bool = case.get("apart", False)
        self.merge: dict[str, str] = case.get("merge", {})
        self.is_own, self.is_alone = bool(case.get("own")), bool(case.get("alone"))
        able = ["history_end", "own_past", "catch_up", "concat"] + (["from_start"] if case.get("able", True) else [])
        self.info = {"name": "fanwire", "capabilities": [one for one in able if one not in case.get("lacks", [])]}
        # Connections with another subscription, and faults of what the client asked for.
        self.others: set[ServerConnection] = set()
        self.faults: list[Any] = []
        self.total: int = case.get("total", 0)
        self.fails: list[str] = list(case.get("fails", []))

    def event(self, n: int) -> dict[str, Any]:
        payload = {"delta": f"{n};"} if self.merge else n
        return {"event_id": f"a-{n}", "event_type": self.log[n - 1], "correlation_id": None, "stream_id": "run-1", "payload": payload}

    def merged(self, start: int) -> tuple[int, dict[str, Any]]:
        """Returns the number of the last event that is merged with the one after this place, and that event."""
        n = start + 1
        while n < len(self.log) and self.log[n] == self.log[start]:
            n += 1
        more = {"merged": n - start} if n - start > 1 else {}
        return n, self.event(n) | {"payload": {"delta": "".join(f"{one};" for one in range(start + 1, n + 1))}} | more

    def check(self, asked: dict[str, Any], is_right: bool = True) -> None:
        """Notes a request that lacks an option of its case."""
        if not is_right or any(asked.get(name) != value for name, value in self.merge.items()):
            self.faults.append(asked)

    async def play(self, since: str | None, say: Any) -> bool:
        """Sends the run from a place on. Returns false if this connection is to be cut now."""
        left: float = self.cuts.pop(0) if self.cuts else float("inf")
        n = self.gone if since is None else number(since)
        if left == 0:
            return False
        if since is None and self.gone:
            await say("gap", {"missed": self.gone, "from": None, "to": f"a-{self.gone}", "recoverable": False})
        has_passed, count = False, 0
        while True:
            if n == len(self.log):
                if not has_passed:
                    has_passed = True
                    await say("history_end", {"events": count, "complete": since is not None or not self.gone})
                if not self.live:
                    break
                self.log.append(self.live.pop(0))
            count += 1
            n, what = self.merged(n) if "compact" in self.merge and not has_passed else (n + 1, self.event(n + 1))
            await say("event", what)
            left -= 1
            if self.is_apart:
                await asyncio.sleep(0.005)
            if left == 0:
                # The events that were written must arrive.
                await asyncio.sleep(0.005)
                return False
        if self.log and self.log[-1] == "run.finished":
            await say("end", {"by": "stream", "value": "run-1", "last_event_id": f"a-{n}", "complete": not self.gone})
        return True

    # WebSocket.

    async def start_ws(self, case: unittest.IsolatedAsyncioTestCase) -> str:
        server = await serve(self.socket, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1)
        case.addAsyncCleanup(server.wait_closed)
        case.addCleanup(server.close)
        return f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"

    async def socket(self, socket: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            async for text in socket:
                message = json.loads(text)
                await self.hear(socket, message["type"], message["payload"], message["message_id"])

    async def hear(self, socket: ServerConnection, kind: str, payload: Any, id: str) -> None:
        async def say(kind: str, payload: Any, to: str | None = None) -> None:
            name = payload if kind == "event" else payload | {"subscription_id": subscription_id}
            over = {"over": True} if kind == "end" else {}
            await socket.send(json.dumps({"type": kind, "payload": name | over, "correlation_id": to}))

        subscription_id = payload.get("subscription_id")
        if kind == "request":
            return await say("response", self.info, id)
        if kind == "ping":
            return await say("pong", {"last_event_id": f"a-{len(self.log)}"}, id)
        if kind != "subscribe":
            return await say("ack", {}, id)
        if "event_types" in payload:
            # The other subscription of a case.
            self.others.add(socket)
            return await say("ack", {}, id)
        # A merged event is for no other subscription.
        self.check(payload, not (self.is_alone and socket in self.others) and bool(payload.get("own_past") or not self.is_own))
        assert payload["stream_ids"] == ["run-1"] and ("since" in payload or payload["from"] == "start"), payload
        if "absent" in payload and not self.log:
            return await say("error", {"code": "no_such_log", "error": "nothing there"}, id)
        await say("ack", {"last_event_id": f"a-{len(self.log)}"}, id)
        if not await self.play(payload.get("since"), say):
            socket.transport.abort()

    # Event streams and pages.

    async def start_sse(self, case: unittest.IsolatedAsyncioTestCase) -> str:
        server = await asyncio.start_server(self.request, "127.0.0.1", 0)
        case.addCleanup(server.close)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(kind: str, what: Any) -> None:
            if kind == "history_end":
                block = f": history_end events={what['events']} complete={str(what['complete']).lower()}\n\n"
            else:
                name = "" if kind == "event" else f"event: {kind}\n"
                id = what.get("event_id") or what.get("last_event_id")
                block = f"{name}data: {json.dumps(what)}\n" + (f"id: {id}\n" if id else "") + "\n"
            writer.write(block.encode())
            await writer.drain()

        with contextlib.suppress(OSError, EOFError):
            _, target, _ = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)
            asked = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
            if target.startswith("/events"):
                return self.page(asked, writer)
            if target == "/api/server_info":
                body = json.dumps(self.info)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                return writer.close()
            if "type" in asked:
                # The other subscription of a case.
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: here\n\n")
                await reader.read()
                return writer.close()
            self.check(asked)
            since = asked.get("last_event_id")
            assert asked["stream"] == "run-1" and (since or asked["from"] == "start"), asked
            is_over = self.log[-1:] == ["run.finished"] and since == f"a-{len(self.log)}"
            if is_over or (asked.get("absent") == "204" and not self.log):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                return writer.close()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nretry: 10\n\n")
            if not await self.play(since, say):
                return writer.transport.abort()
            if self.log[-1:] != ["run.finished"]:
                await reader.read()
        writer.close()

    def page(self, asked: dict[str, str], writer: asyncio.StreamWriter) -> None:
        fails = self.fails.pop(0) if self.fails else None
        if fails == "reset":
            return writer.transport.abort()
        said: dict[str, Any] = {"error": "no"} | ({"code": "invalid_query"} if fails == "400" else {})
        if fails is None:
            assert (asked["type"], asked["limit"]) == ("x", "3"), asked
            is_desc = asked["order"] == "desc"
            place = asked.get("before" if is_desc else "after")
            every = [n for n in range(1, self.total + 1) if not place or (n < number(place) if is_desc else n > number(place))]
            shown = sorted(every, reverse=is_desc)[:3]
            events = [{"event_id": f"a-{n}", "event_type": "x", "payload": n} for n in shown]
            said = {"events": events, "next": f"a-{shown[-1]}" if len(shown) < len(every) else None, "complete": True}
        body = json.dumps(said).encode()
        status = f"{fails or 200} Said" + ("\r\nRetry-After: 0" if fails == "503" else "")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()


async def follow(run: Run, wait: float = 0.0) -> list[Any]:
    """Reads a run to its end. Returns its numbers and gaps."""
    items: list[Any] = []
    async for item in run:
        payload = "gap" if isinstance(item, Gap) else item.payload
        items.append(payload.get("n", payload.get("delta")) if isinstance(payload, dict) else payload)
        if wait:
            await asyncio.sleep(wait)
    return items


class Played(unittest.IsolatedAsyncioTestCase):
    def client(self, url: str, **options: Any) -> Fanwire:
        client = Fanwire(url, backoff=(0.005, 0.04), connect_options={"proxy": None}, **options)
        self.addAsyncCleanup(client.close)
        client.on_error(lambda _: None)
        return client

    async def run_case(self, case: dict[str, Any], transport: Any) -> None:
        server = Kept(case)
        url = await (server.start_ws if transport == "ws" else server.start_sse)(self)
        client = self.client(url, transports=[transport])
        if case.get("beside"):
            await client.subscribe("x").ready()
        run = client.run("run-1", absent=case.get("absent", "wait"), buffer=case.get("buffer", 10_000), **case.get("merge", {}))
        if "error" in case:
            with self.assertRaises(FanwireError) as caught:
                await follow(run)
            self.assertEqual(caught.exception.code, case["error"])
            return await client.close()
        items = await follow(run, 0.03 if "buffer" in case else 0.0)
        if "want" in case:
            self.assertEqual(items, case["want"])
        else:
            self.assertEqual("".join(items), case["text"])
            self.assertLessEqual(len(items), case["most"], items)
        self.assertEqual(server.faults, [])
        self.assertEqual(run.end, RunEnd(**case["end"]))
        with self.assertRaises(StopAsyncIteration):
            await anext(run)
        if case.get("again"):
            self.assertEqual(await follow(client.run("run-1")), case["want"])
        await client.close()

    async def test_a_run_comes_from_its_start_to_its_end(self) -> None:
        for transport in ("ws", "sse"):
            for case in CASES["runs"]:
                if case.get("only", transport) == transport:
                    with self.subTest(f"{transport}: {case['name']}"):
                        await asyncio.wait_for(self.run_case(case, transport), 40)

    async def test_the_past_comes_in_pages(self) -> None:
        for case in CASES["history"]:
            with self.subTest(case["name"]):
                client = self.client(await Kept(case).start_sse(self))
                pages: list[list[int]] = []

                async def walk() -> None:
                    async for page in client.history("x", limit=3, order=case.get("order", "asc"), after=case.get("after")):
                        self.assertTrue(page.complete)
                        pages.append([event.payload for event in page.events])

                try:
                    await asyncio.wait_for(walk(), 40)
                    code = None
                except FanwireError as error:
                    code = error.code
                self.assertEqual((pages, code), (case["want"], case.get("error")))
                await client.close()


def token(stream: str, n: int, **more: Any) -> dict[str, Any]:
    return {"type": "token", "stream_id": stream, "payload": {"n": n}} | more


class Real(Case):
    options = ("--retain", "by=stream; end=run.finished,run.failed; match=stream=run-*", "--bus-capacity", "256")

    @over_each_transport
    async def test_over_a_bad_network_a_run_comes_whole(self, transport: str) -> None:
        server = await Server.start(*self.options)
        self.addAsyncCleanup(server.stop)
        proxy = await Proxy.to(server)
        self.addAsyncCleanup(proxy.close)
        count, names = 1_000, ("run-1", "run-2")

        async def publish(start: int, end: int) -> None:
            for n in range(start, end, 100):
                await server.publish([token(name, one) for one in range(n, n + 100) for name in names])

        await publish(0, count // 2)
        client = self.client(proxy.url, transports=[transport])
        runs = [client.run(name, buffer=300) for name in names]
        passed = 0

        async def read(run: Run) -> list[int]:
            nonlocal passed
            numbers: list[int] = []
            async for item in run:
                assert isinstance(item, Event), item
                numbers.append(item.payload["n"])
                passed += 1
                if run is runs[1] and passed % 50 == 0:
                    await asyncio.sleep(0.001)
            return numbers

        reading = [asyncio.create_task(read(run)) for run in runs]
        cutting = asyncio.create_task(unrest(proxy, 5, lambda: passed))
        await publish(count // 2, count)
        kinds = ("run.finished", "run.failed")
        ends = [await server.publish({"type": kind, "stream_id": name, "payload": {"n": count}}) for kind, name in zip(kinds, names)]
        for at, numbers in enumerate(await asyncio.wait_for(asyncio.gather(*reading), 60)):
            self.assertEqual(numbers, list(range(count + 1)))
            self.assertEqual(runs[at].end, RunEnd(kinds[at], ends[at], True))
        cutting.cancel()
        again = client.run("run-1", event_types=["token"])
        self.assertEqual(await asyncio.wait_for(follow(again), 40), list(range(count)))
        self.assertEqual(again.end, RunEnd(None, ends[0], True))
        await client.close()

    @over_each_transport
    async def test_a_run_ends_where_its_loop_or_its_client_does(self, transport: str) -> None:
        name, client = f"run-{transport}", self.client(transports=[transport])
        await self.server.publish([token(name, n) for n in (1, 2, 3)])
        async with client.run(name) as left:
            async for item in left:
                assert isinstance(item, Event)
                if item.payload["n"] == 2:
                    break
        self.assertIsNone(left.end)
        closed = client.run(name)
        reading = asyncio.create_task(follow(closed))
        self.assertEqual(await asyncio.wait_for(closed.past(), 20), Past(3, True))
        closed.close()
        self.assertEqual(await asyncio.wait_for(reading, 20), [1, 2, 3])
        self.assertIsNone(closed.end)
        with self.assertRaises(FanwireError) as caught:
            await follow(client.run("run-none", absent="error"))
        self.assertEqual(caught.exception.code, "no_such_log")
        plain = client.subscribe(stream_ids=[name])
        await plain.ready()
        await client.publish({"type": "run.finished", "stream_id": name, "payload": {"n": 4}})
        self.assertEqual([item.payload["n"] async for item in plain if isinstance(item, Event)], [4])
        # The next life is another run.
        await client.publish(token(name, 5, reopen=True))
        await client.publish({"type": "run.failed", "stream_id": name, "payload": {"n": 6}})
        second = client.run(name)
        self.assertEqual(await asyncio.wait_for(follow(second), 20), [5, 6])
        assert second.end
        self.assertEqual(second.end.status, "run.failed")
        waiting = asyncio.create_task(follow(client.run("run-other")))
        await asyncio.sleep(0)
        await client.close()
        self.assertEqual(await asyncio.wait_for(waiting, 20), [])

    @over_each_transport
    async def test_a_publish_whose_answer_is_lost_is_published_once(self, transport: str) -> None:
        client = self.client(transports=[transport])
        every = self.client(self.server.url, transports=["ws"]).subscribe("paid.**")
        await every.ready()
        await client.subscribe("x").ready()
        await client.publish({"type": "first"})
        self.proxy.swallows = True
        outcome = asyncio.create_task(client.publish({"type": "paid", "payload": transport}))
        paid = await asyncio.wait_for(anext(every), 20)
        assert isinstance(paid, Event)
        self.proxy.swallows = False
        self.proxy.cut()
        self.assertEqual(await asyncio.wait_for(outcome, 20), paid.event_id)
        await client.publish({"type": "paid.last"})
        last = await asyncio.wait_for(anext(every), 20)
        assert isinstance(last, Event)
        self.assertEqual(last.event_type, "paid.last")

    async def test_history_walks_in_both_directions(self) -> None:
        for n in range(0, 1_000, 100):
            await self.server.publish([token("run-h", one) for one in range(n, n + 100)])
        client = self.client(self.server.url)

        async def walk(**options: Any) -> tuple[list[int], int]:
            numbers: list[int] = []
            count = 0
            async for page in client.history(stream_ids=["run-h"], **options):
                self.assertTrue(page.complete)
                numbers += [event.payload["n"] for event in page.events]
                count += 1
            return numbers, count

        every = list(range(1_000))
        self.assertEqual(await walk(limit=300), (every, 4))
        self.assertEqual(await walk(limit=300, order="desc"), (every[::-1], 4))
        some = await walk(filter="payload.n >= 990", since=datetime(2020, 1, 1, tzinfo=UTC))
        self.assertEqual(some[0], every[990:])
        await client.close()
        with self.assertRaises(FanwireError) as caught:
            await walk()
        self.assertEqual(caught.exception.code, "closed")


if __name__ == "__main__":
    unittest.main()
