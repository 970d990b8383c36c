"""Proves, with Python's `websockets` and `aiohttp`: the native protocol, fragments, pings, limits, close
codes."""

import asyncio
import contextlib
import json

import aiohttp
import websockets
from lib import PATIENCE, Native, ask, check, done, numbered, publish, url

ws_url = url.replace("http", "ws") + "/ws"


def connect(address=ws_url, **options):
    # By default it offers compression.
    return websockets.connect(address, proxy=None, **options)


async def handshake():
    async with connect(subprotocols=["other", "fanwire.v1"]) as ws:
        assert ws.subprotocol == "fanwire.v1"
        assert ws.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        assert (await Native(ws).ask("ping"))["type"] == "pong"


async def protocol():
    async with connect() as ws:
        client = Native(ws)
        await publish(numbered(0))
        given = await client.subscribe()
        await client.subscribe(subscription_id="mine", event_types=["task.*"], sources=["core"])
        event_id = await publish({"type": "task.progress", "source": "core", "payload": {"progress": 42}})
        event = await client.event()
        assert event["event_id"] == event_id and event["payload"] == {"progress": 42}, event
        count = await client.ask("request", {"action": "subscription_count"})
        assert count["type"] == "response" and count["payload"] == {"count": 2}, count
        listed = (await client.ask("request", {"action": "list_subscriptions"}))["payload"]["subscriptions"]
        assert [one["subscription_id"] for one in listed] == [given, "mine"], listed
        assert (await client.ask("unsubscribe", {"subscription_id": given}))["type"] == "ack"
        await publish([{"type": "task.done", "source": "edge"}, {"type": "task.done", "source": "core"}])
        assert (await client.event())["source"] == "core"
        acked = await client.ask("publish", {"type": "note", "payload": [1, 2]})
        assert acked["type"] == "ack" and acked["payload"]["event_id"], acked


async def errors():
    async with connect() as ws:
        client = Native(ws)
        for sent in ["not valid json", "[]", "{}", b"\x00\x01"]:
            await ws.send(sent)
            answer = await client.message()
            assert answer["type"] == "error" and answer["payload"]["error"] == "Invalid message format", answer
        answer = await client.ask("request", {"action": "fly"})
        assert answer["payload"]["error"] == "Unknown action: fly", answer
        answer = await client.ask("dance")
        assert answer["payload"]["error"] == "Unknown message type: dance", answer


async def fragments():
    async with connect() as ws:
        client = Native(ws)
        await client.subscribe(event_types=["big"])
        text = "naïve ☃ 𝄞 " * 3000
        message = json.dumps({"type": "publish", "payload": {"type": "big", "payload": text}}, ensure_ascii=False)
        await ws.send(message[at : at + 777] for at in range(0, len(message), 777))
        answers = {answer["type"]: answer for answer in [await client.message(), await client.message()]}
        assert answers["event"]["payload"]["payload"] == text
        assert answers["ack"]


async def pings():
    async with connect() as ws:
        waiting = [await ws.ping(), await ws.ping(b"x" * 125)]
        for pong in waiting:
            assert await asyncio.wait_for(pong, PATIENCE) < PATIENCE


async def codes():
    async def closed_after(send):
        async with connect() as ws:
            # The answer may come while the message is still being sent.
            with contextlib.suppress(websockets.ConnectionClosed):
                await send(ws)
            await ws.wait_closed()
            return ws.close_code

    assert await closed_after(lambda ws: ws.send("x" * 65_537)) == 1009
    assert await closed_after(lambda ws: ws.send([b"\xff\xfe", b"\xff"], text=True)) == 1007
    assert await closed_after(lambda ws: ws.close(4321, "mine")) == 4321


async def heartbeat():
    # aiohttp pings by itself and gives up without a pong: after half of its heartbeat.
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(ws_url, heartbeat=8, compress=15, protocols=["fanwire.v1"]) as ws:
            assert ws.protocol == "fanwire.v1" and ws.compress > 0
            await ws.send_json({"type": "subscribe"})
            assert (await ws.receive_json())["type"] == "ack"
            await asyncio.sleep(9)
            await publish(numbered(5))
            assert (await ws.receive_json())["payload"]["payload"] == {"n": 5}


async def one_order():
    clients = [await connect() for _ in range(200)]
    natives = [Native(ws) for ws in clients]
    await asyncio.gather(*(client.subscribe(event_types=["order.*"]) for client in natives))

    async def publisher(name):
        for n in range(0, 50, 5):
            await publish([{"type": f"order.{name}", "payload": n + more} for more in range(5)])

    async def witness(client):
        return tuple([(await client.event())["event_id"] for _ in range(200)])

    orders = await asyncio.gather(*map(witness, natives), *map(publisher, "abcd"))
    assert len(set(orders[:200])) == 1 and len(set(orders[0])) == 200
    await asyncio.gather(*(ws.close() for ws in clients))


async def drain():
    clients = [await connect() for _ in range(20)]
    natives = [Native(ws) for ws in clients]
    await asyncio.gather(*(client.subscribe() for client in natives))
    await publish(numbered(9))

    async def witness(client):
        assert (await client.event())["payload"] == {"n": 9}
        await client.ws.wait_closed()
        return client.ws.close_code

    code, *closes = await asyncio.gather(ask("terminate"), *map(witness, natives))
    assert code == "0" and set(closes) <= {1001, 1012}, (code, closes)
    await ask("restart")


async def main():
    await check("the subprotocol and compression are taken", handshake)
    await check("subscriptions, requests, publishing", protocol)
    await check("errors have the words of the document, and end nothing", errors)
    await check("a message in fragments is one message", fragments)
    await check("pings come back", pings)
    await check("close codes name the fault", codes)
    await check("a client that pings often stays", heartbeat)
    await check("two hundred clients see one order", one_order)
    await check("SIGTERM closes with 1001 or 1012 after the published events", drain)


asyncio.run(main())
done()
