"""One client as a witness: prints `ready`, then the id of each event, until it has received this many."""

import asyncio
import json
import sys

import aiohttp
import httpx
import httpx_sse
import websockets

url, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
left = count


def see(event):
    global left
    payload = json.dumps(event["payload"], separators=(",", ":"))
    print(f"saw {event['event_id']} {payload}")
    left -= 1
    return left > 0


def message(text):
    message = json.loads(text)
    if message["type"] == "ack":
        print("ready")
        return True
    return see(message["payload"])


async def main():
    ws = url.replace("http", "ws") + "/ws"
    subscribe = json.dumps({"type": "subscribe"})
    if kind == "websockets":
        async with websockets.connect(ws, subprotocols=["fanwire.v1"]) as client:
            await client.send(subscribe)
            while message(await client.recv()):
                pass
    elif kind == "aiohttp":
        async with aiohttp.ClientSession() as session, session.ws_connect(ws, compress=15) as client:
            await client.send_str(subscribe)
            while message(await client.receive_str()):
                pass
    else:
        async with httpx.AsyncClient(timeout=None) as client:
            async with httpx_sse.aconnect_sse(client, "GET", f"{url}/sse") as stream:
                print("ready")
                async for event in stream.aiter_sse():
                    if event.data and not see(json.loads(event.data)):
                        break


asyncio.run(main())
