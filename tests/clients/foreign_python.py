"""Python's clients against the proxies of tests/foreign: one process for all cases.

Each output line is about one client in one case: `got N ID`, `from ID` (where a stream begins), `gap …`, `note
…`.
"""

import asyncio
import json
import sys

import aiohttp
import httpx
import httpx_sse
import websockets

# Time before a program reconnects if its library does not, in seconds.
AGAIN = 1


class Place:
    """Place of a subscriber: its last event, or the start of its subscription."""

    def __init__(self, tell):
        self.tell = tell
        self.last = None

    def subscribe(self):
        since = {"since": self.last} if self.last else {}
        return json.dumps({"type": "subscribe", "payload": {"event_types": ["test.*"]} | since})

    def hear(self, text):
        message = json.loads(text)
        payload = message["payload"]
        if message["type"] == "event":
            self.last = payload["event_id"]
            self.tell(f"got {payload['payload']['n']} {self.last}")
        elif message["type"] == "ack":
            self.last = self.last or payload["last_event_id"]
            self.tell(f"from {payload['last_event_id']}")
        else:
            self.tell(f"{message['type']} {json.dumps(payload)}")


async def with_websockets(url, tell):
    """The library's own loop: `async for` reconnects, and waits longer after each failure."""
    place = Place(tell)
    while True:
        try:
            async for ws in websockets.connect(f"{url.replace('http', 'ws')}/ws?_client=websockets", proxy=None):
                try:
                    await ws.send(place.subscribe())
                    async for text in ws:
                        place.hear(text)
                except websockets.ConnectionClosed as error:
                    tell(f"note {error!r}")
        except websockets.InvalidHandshake as error:
            # Not among the failures that it retries.
            tell(f"dead {error!r}")
            await asyncio.sleep(AGAIN)


async def with_aiohttp(url, tell):
    place = Place(tell)
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.ws_connect(f"{url}/ws?_client=aiohttp", heartbeat=20, compress=15) as ws:
                    await ws.send_str(place.subscribe())
                    async for message in ws:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            place.hear(message.data)
            except (aiohttp.ClientError, ConnectionError) as error:
                tell(f"note {error!r}")
            await asyncio.sleep(AGAIN)


async def with_httpx_sse(url, tell):
    """The loop of its manual: `Last-Event-ID` from the last event, and the retry time that the server named."""
    last, delay = "", AGAIN
    async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            try:
                stream = httpx_sse.aconnect_sse(
                    client, "GET", f"{url}/sse", params={"type": "test.*", "_client": "httpx-sse"}, headers=headers
                )
                async with stream as source:
                    source.response.raise_for_status()
                    async for event in source.aiter_sse():
                        last = event.id
                        if event.retry is not None:
                            delay = event.retry / 1000
                        if event.event == "test.numbered":
                            tell(f"got {json.loads(event.data)['payload']['n']} {last}")
                        elif event.data:
                            tell(f"{event.event} {event.data}")
                        else:
                            tell(f"from {last}")
                tell("note ended")
            except (httpx.HTTPError, httpx_sse.SSEError) as error:
                tell(f"note {error!r}")
            await asyncio.sleep(delay)


CLIENTS = {"websockets": with_websockets, "aiohttp": with_aiohttp, "httpx-sse": with_httpx_sse}


async def run(job):
    def tell(line):
        print(f"{job['client']} {job['name']} {line}", flush=True)

    try:
        await CLIENTS[job["client"]](job["url"], tell)
    except Exception as error:
        tell(f"dead {error!r}")


async def main():
    await asyncio.gather(*(run(job) for job in json.loads(sys.argv[1])))


asyncio.run(main())
