"""Hive's Python programs, as its users run them: webhook bridge, monitor, orchestrator, health check."""

import asyncio
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import websockets
from lib import check, done, publish, url

server = url.replace("http", "ws")


async def events(ready, **wanted):
    """Messages that a program's loop receives after it has subscribed."""
    async with websockets.connect(server) as ws:
        await ws.send(json.dumps({"action": "subscribe", **wanted}))
        async for message in ws:
            data = json.loads(message)
            if data["type"] == "event":
                yield data["event"]
            else:
                ready.set()


def event(kind, stream, **data):
    return {"type": kind, "stream_id": stream, "execution_id": f"ex-{stream}", "payload": data}


async def webhook():
    posted = asyncio.Queue()
    loop = asyncio.get_running_loop()

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            loop.call_soon_threadsafe(posted.put_nowait, (self.headers["X-Stream-ID"], body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=hook.serve_forever, daemon=True).start()
    ready = asyncio.Event()

    async def bridge(stream):
        async with httpx.AsyncClient(trust_env=False) as client:
            async for one in events(ready, stream_id=stream):
                target = f"http://127.0.0.1:{hook.server_port}"
                await client.post(target, json=one, headers={"X-Stream-ID": stream})

    task = asyncio.create_task(bridge("production-agent-1"))
    await ready.wait()
    await publish([event("NODE_EXECUTED", "other"), event("EXECUTION_COMPLETED", "production-agent-1", output=7)])
    stream, body = await posted.get()
    assert (stream, body["type"], body["data"]) == ("production-agent-1", "execution_completed", {"output": 7})
    task.cancel()
    hook.shutdown()


async def monitor():
    alerts, executions, ready = asyncio.Queue(), {}, asyncio.Event()

    async def watch():
        async for one in events(ready, event_types=["EXECUTION_STARTED", "EXECUTION_FAILED", "CONSTRAINT_VIOLATION"]):
            if one["type"] == "execution_started":
                executions[one["execution_id"]] = one["stream_id"]
            elif one["type"] == "execution_failed":
                await alerts.put(("error", one["data"].get("error"), one["execution_id"]))
            elif one["type"] == "constraint_violation":
                await alerts.put(("warning", one["data"], one.get("execution_id")))

    task = asyncio.create_task(watch())
    await ready.wait()
    await publish(
        [
            event("EXECUTION_STARTED", "webhook"),
            event("NODE_EXECUTED", "webhook"),
            event("EXECUTION_FAILED", "webhook", error="out of money"),
            {"type": "CONSTRAINT_VIOLATION", "payload": {"limit": 3}},
        ]
    )
    assert await alerts.get() == ("error", "out of money", "ex-webhook")
    assert await alerts.get() == ("warning", {"limit": 3}, None)
    assert executions == {"ex-webhook": "webhook"}
    task.cancel()


async def orchestrator():
    started, ready = asyncio.Queue(), asyncio.Event()

    async def conduct():
        follows = {"data-collector": "data-analyzer", "data-analyzer": "report-generator"}
        async for one in events(ready):
            stream = one["stream_id"]
            if one["type"] == "execution_completed" and stream in follows:
                await started.put((follows[stream], one["data"]))

    task = asyncio.create_task(conduct())
    await ready.wait()
    await publish([{"type": "anything"}, event("EXECUTION_COMPLETED", "data-collector", output=[1, 2])])
    assert await started.get() == ("data-analyzer", {"output": [1, 2]})
    await publish(event("EXECUTION_COMPLETED", "data-analyzer", output="sum 3"))
    assert await started.get() == ("report-generator", {"output": "sum 3"})
    task.cancel()


async def health():
    # The container's check connects and leaves without a message.
    await websockets.connect(server)


async def main():
    await check("the webhook bridge posts each event with its stream", webhook)
    await check("the monitor alerts on failures and violations", monitor)
    await check("the health check connects", health)
    await check("the orchestrator starts the next agent, also after a client left without a word", orchestrator)
    done()


asyncio.run(main())
