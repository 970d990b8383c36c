"""GatheRing's Python client: speaks in a circle, and listens."""

import asyncio
import json

import websockets
from lib import check, done, publish, url

circle = url.replace("http", "ws") + "/ws/circles/dev-team"


async def main():
    async def talk():
        async with websockets.connect(circle) as one, websockets.connect(circle) as two:
            await two.send(json.dumps({"type": "ping"}))
            assert json.loads(await two.recv()) == {"type": "pong"}, "the first answer is the pong"
            await one.send(json.dumps({"type": "message", "content": "Hello"}))
            assert json.loads(await two.recv())["content"] == "Hello"
            await two.send(json.dumps({"type": "user_message", "content": "Hi", "mood": {"good": True}}))
            received = json.loads(await one.recv())
            assert (received["type"], received["content"], received["mood"]) == ("user_message", "Hi", {"good": True})

    async def leave():
        async with websockets.connect(circle) as stays:
            async with websockets.connect(circle):
                pass
            await publish({"type": "agent_joined", "channel": "dev-team", "payload": {"agent_id": 1}})
            message = json.loads(await stays.recv())
            assert (message["type"], message["data"], message["channel"]) == ("agent_joined", {"agent_id": 1}, "dev-team")

    await check("a circle's clients hear each other", talk)
    await check("a client that leaves disturbs no other", leave)
    done()


asyncio.run(main())
