"""AutoSDLC's Python SDK in small: a bearer token at the handshake, handlers by type, subscriptions by agent."""

import asyncio
import json
import uuid

import websockets
from lib import check, done, publish, url


class AutoSdlc:
    def __init__(self, address, token):
        self.address, self.token, self.handlers = address, token, {}

    async def connect(self):
        headers = {"Authorization": f"Bearer {self.token}"}
        self.ws = await websockets.connect(self.address, additional_headers=headers)
        self.task = asyncio.create_task(self.listen())

    async def listen(self):
        async for message in self.ws:
            try:
                data = json.loads(message)
                for handler in self.handlers.get(data.get("type"), []):
                    await handler(data)
            except Exception as error:  # An error of a handler does not end the loop.
                print(f"handler: {error}")

    def on(self, kind, handler):
        self.handlers.setdefault(kind, []).append(handler)

    async def send(self, kind, **data):
        # In the SDK's form: no id, no timestamp, no metadata.
        await self.ws.send(json.dumps({"type": kind, "data": data}))

    async def subscribe_to_agent(self, agent, events=None):
        name = str(uuid.uuid4())
        events = events or ["status", "task_update", "log", "metric"]
        await self.send("subscribe", subscriptionId=name, resource="agent", resourceId=agent, events=events)
        return name


def collect(client, kind):
    queue = asyncio.Queue()
    client.on(kind, queue.put)
    return queue


async def main():
    client = AutoSdlc(url.replace("http", "ws") + "/ws", "your-auth-token")
    updates, statuses, logs, errors = (
        collect(client, kind) for kind in ["subscription_update", "agent_status", "agent_log", "error"]
    )

    async def subscribes():
        await client.connect()
        name = await client.subscribe_to_agent("coder-001")
        assert (await updates.get())["data"]["subscriptionId"] == name

    async def status():
        await publish(
            [
                {"type": "agent_status", "data": {"agentId": "coder-002", "status": "idle"}},
                {"type": "agent_status", "data": {"agentId": "coder-001", "previousStatus": "idle", "currentStatus": "busy"}},
            ]
        )
        event = await statuses.get()
        assert event["data"] == {"agentId": "coder-001", "previousStatus": "idle", "currentStatus": "busy"}

    async def faults():
        async def broken(_):
            raise ValueError("a handler's own")

        client.on("agent_log", broken)
        await publish({"type": "agent_log", "data": {"agentId": "coder-001", "message": "x"}})
        assert (await logs.get())["data"]["message"] == "x"
        await client.ws.send("no json")
        assert (await errors.get())["data"]["error"] == "Invalid message format"
        await publish({"type": "agent_status", "data": {"agentId": "coder-001", "status": "still here"}})
        assert (await statuses.get())["data"]["status"] == "still here"

    await check("a client subscribes to an agent", subscribes)
    await check("it gets that agent's status and no other's", status)
    await check("faults on either side end nothing", faults)
    done()


asyncio.run(main())
