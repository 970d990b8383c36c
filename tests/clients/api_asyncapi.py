"""Proves, with `jsonschema`: each message of a conversation conforms to docs/api/asyncapi.yaml, and each
message in it occurs."""

import asyncio
import json
import sys
from collections import Counter

import jsonschema
import websockets
import yaml
from lib import check, done, numbered, publish, url

with open(sys.argv[2], encoding="utf-8") as file:
    document = yaml.safe_load(file)
seen: Counter[str] = Counter()


def resolve(reference):
    at = document
    for part in reference.removeprefix("#/").split("/"):
        at = at[part]
    return at


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def names(operation):
    return {reference["$ref"].rsplit("/", 1)[1] for reference in operation["messages"]}


commands, events = document["operations"]["receiveCommand"], document["operations"]["sendEvent"]
FROM_CLIENT, FROM_SERVER = names(commands), names(commands["reply"]) | names(events)


def validate(message, allowed):
    # A lean event has no message around it.
    kind = "leanEvent" if "event_type" in message else message["type"]
    assert kind in allowed, f"{kind} is not in the document: {message}"
    schema = document["components"]["messages"][kind]["payload"]
    validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    validator.validate(message)
    seen[kind] += 1


class Conversation:
    def __init__(self, ws):
        self.ws = ws
        self.number = 0

    async def receive(self):
        message = json.loads(await asyncio.wait_for(self.ws.recv(), 20))
        validate(message, FROM_SERVER)
        return message

    async def send(self, kind, payload=None, answer="ack"):
        self.number += 1
        message = {"type": kind, "message_id": str(self.number)} | ({} if payload is None else {"payload": payload})
        validate(message, FROM_CLIENT)
        await self.ws.send(json.dumps(message))
        while (reply := await self.receive()).get("correlation_id") != message["message_id"]:
            pass
        assert reply["type"] == answer, reply
        return reply


def connect(**options):
    return websockets.connect(url.replace("http", "ws") + document["channels"]["native"]["address"] + "?user=ann", proxy=None, **options)


FULL = {
    "type": "task.progress", "source": "core", "timestamp": 1_700_000_000_000, "correlation_id": "run", "stream_id": "st",
    "execution_id": "e", "entity": {"kind": "task", "id": "t"}, "channel": "ch", "payload": [1, {"a": None}],
}  # fmt: skip


async def whole():
    for reference in references(document):
        assert resolve(reference) is not None, reference
    assert document["asyncapi"].startswith("3.")
    for name, message in document["components"]["messages"].items():
        jsonschema.Draft202012Validator.check_schema(message["payload"])
        assert name in document["channels"]["native"]["messages"], name
        assert name in FROM_CLIENT | FROM_SERVER, name


async def conversation():
    async with connect() as ws:
        client = Conversation(ws)
        await client.send("subscribe", {"subscription_id": "all"})
        await client.send("subscribe", {"event_types": "x", "entities": ["a:b", {"kind": "c"}], "on_lag": "sample", "max_per_second": 5})
        await client.send("subscribe", {"sources": ["s"], "correlation_ids": ["c"], "stream_ids": ["st"], "execution_ids": ["e"], "channels": ["ch"]})
        for action in ("list_subscriptions", "subscription_count", "server_info"):
            await client.send("request", {"action": action}, "response")
        here = await client.send("request", {"action": "presence", "channel": "ch"}, "response")
        assert [user["user"] for user in here["payload"]["users"]] == ["ann"], here
        await client.send("request", {"action": "presence", "channel": ""}, "error")
        await client.send("ping", answer="pong")
        await client.send("publish", FULL)
        await client.send("publish", {"event_type": "bare"})
        await client.send("refill", {"since": "zzz-1"})
        await client.send("subscribe", {"subscription_id": "w", "event_types": ["x"], "entities": ["symbol:A"], "snapshot": True})
        lists = {"event_types": "y", "entities": ["symbol:B", {"kind": "symbol", "id": "C"}]}
        updated = await client.send("update", {"subscription_id": "w", "add": lists, "remove": {"entities": ["symbol:A", "symbol:D"]}})
        assert {name: updated["payload"][name] for name in ("added", "removed", "not_held")} == {"added": 3, "removed": 1, "not_held": 1}
        await client.send("update", {"subscription_id": "w", "add": {"channels": ["c"]}}, "error")
        unacked = {"type": "publish", "ack": False, "payload": {"type": "quiet"}}
        validate(unacked, FROM_CLIENT)
        await ws.send(json.dumps(unacked))
        await client.send("unsubscribe", {"subscription_id": "all"})
        await client.send("unsubscribe", {"subscription_id": "all"}, "error")
        await client.send("publish", {"type": "\n"}, "error")
        # Tokens are accepted, or reported as unknown.
        await ws.send('{"type":"auth","payload":{"token":"x"},"message_id":"t"}')
        validate({"type": "auth", "payload": {"token": "x"}}, FROM_CLIENT)
        await client.receive()
        await ws.send("no message")
        assert (await client.receive())["payload"]["code"] == "invalid_message"


async def lean():
    async with connect(subprotocols=["fanwire.v1.lean", "fanwire.v1"]) as ws:
        client = Conversation(ws)
        await client.send("subscribe", {"event_types": ["task.*", "bare"]})
        info = await client.send("request", {"action": "server_info"}, "response")
        assert info["payload"]["protocol"] == ws.subprotocol == "fanwire.v1.lean", info
        await client.send("publish", FULL)
        await client.send("publish", {"event_type": "bare"})
        while seen["leanEvent"] < 2:
            await client.receive()


async def gaps():
    first = await publish(numbered(0))
    async with connect() as ws:
        client = Conversation(ws)
        await client.send("subscribe", {"since": "elsewhere-1", "history": 1, "snapshot": False})
        gap = await client.receive()
        assert gap["type"] == "gap" and gap["payload"]["missed"] is None, gap
    # More than the ring holds.
    for _ in range(200):
        await publish([{"type": "filler"}] * 5_000)
        async with connect() as ws:
            client = Conversation(ws)
            await client.send("subscribe", {"event_types": ["test.*"], "since": first})
            await client.send("ping", answer="pong")
            if seen["gap"] > 1:
                return
    raise AssertionError("the ring has no end")


async def ends():
    async with connect() as ws:
        client = Conversation(ws)
        await client.send("subscribe", {"subscription_id": "run", "stream_ids": ["run-1"], "from": "start"})
        await publish([{"type": "token", "stream_id": "run-1"}, {"type": "run.finished", "stream_id": "run-1"}])
        while (reply := await client.receive())["type"] != "end":
            pass
        assert (reply["payload"]["value"], reply["payload"]["complete"]) == ("run-1", True), reply


async def all_seen():
    missing = (FROM_CLIENT | FROM_SERVER) - set(seen)
    assert not missing, missing
    print(dict(seen))


async def main():
    await check("the document is whole", whole)
    await check("the messages of a conversation conform to the document", conversation)
    await check("so are lean events", lean)
    await check("gaps are as it says", gaps)
    await check("the end of a run is as it says", ends)
    await check("each message that it names was seen", all_seen)


asyncio.run(main())
done()
