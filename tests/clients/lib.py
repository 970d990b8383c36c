"""Shared by the Python scripts: named checks, waits that end, requests, requests to the test that runs them."""

import asyncio
import json
import sys

import httpx

url = sys.argv[1]

# Longest time for any single wait, in seconds.
PATIENCE = 60
_passed = 0


async def check(name, body):
    """Runs one check. A failure ends the script."""
    global _passed
    await asyncio.wait_for(body(), 3 * PATIENCE)
    _passed += 1
    print(f"ok {name}")


def done():
    print(f"passed {_passed}")


async def ask(wish):
    """Sends a request to the test (see support/script.rs) and returns its answer."""
    print(f"ask {wish}")
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def publish(events, to=url):
    """POSTs one event or a list, and returns the last id."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        answer = await client.post(f"{to}/publish", json=events)
    assert answer.status_code == 200, answer.text
    return answer.json()["last_event_id"]


def numbered(n, **more):
    return {"type": "test.numbered", "source": "test", "payload": {"n": n}} | more


class Native:
    """The native protocol over an open connection of `websockets`."""

    def __init__(self, ws):
        self.ws = ws

    async def message(self):
        return json.loads(await asyncio.wait_for(self.ws.recv(), PATIENCE))

    async def ask(self, kind, payload=None):
        """Sends a message and returns the answer, which must name it."""
        await self.ws.send(json.dumps({"type": kind, "payload": payload or {}, "message_id": f"m-{kind}"}))
        answer = await self.message()
        assert answer["correlation_id"] == f"m-{kind}", answer
        return answer

    async def subscribe(self, **payload):
        answer = await self.ask("subscribe", payload)
        assert answer["type"] == "ack", answer
        return answer["payload"]["subscription_id"]

    async def event(self):
        message = await self.message()
        assert message["type"] == "event", message
        return message["payload"]
