"""The client's methods, with the real server."""

import asyncio
import json
import unittest
from typing import Any

from support import HERE, PATIENCE, Case, Fanwire, Gap, numbered, numbers, over_each_transport, take, until

from fanwire import Event, FanwireError, pattern
from fanwire._link import Link
from fanwire._text import evaluator

TEXTS = json.loads((HERE.parents[1] / "cases/filters.json").read_text())

FULL = {
    "type": "task.progress", "source": "core", "correlation_id": "run-42", "stream_id": "webhook", "execution_id": "ex-1",
    "entity": {"kind": "task", "id": "a:b"}, "channel": "dev-team", "payload": {"progress": 42},
}  # fmt: skip


class Patterns(unittest.TestCase):
    def test_patterns_match_as_on_the_server(self) -> None:
        for form, value, want in json.loads((HERE.parents[1] / "cases/patterns.json").read_text()):
            self.assertEqual(pattern(form)(value), want, f"{form} on {value}")

    def test_filter_texts_match_as_on_the_server(self) -> None:
        for text, name, want in TEXTS["cases"]:
            event = Event.from_dict({"event_id": "e-1", **TEXTS["events"][name]})
            self.assertEqual(evaluator(text)(event), want, f"{text} on {name}")
        big = Event.from_dict({"event_id": "e-1", "event_type": "big", "payload": 9007199254740993})
        self.assertFalse(evaluator("payload == 9007199254740992")(big))
        for unclear in ("payload ~ 5", "colour=red", "entity=a", "source=\"a", "type"):
            with self.assertRaises(ValueError, msg=unclear):
                evaluator(unclear)


class Verbs(Case):
    @over_each_transport
    async def test_each_attribute_filters_at_the_server_and_between_subscriptions(self, transport: str) -> None:
        client = self.client(transports=[transport])
        everything = client.subscribe()
        await everything.ready()
        for filter, other in [
            ({"event_types": ["task.*"]}, {"type": "tool.called"}),
            ({"event_types": "task.progress"}, {"type": "task.done"}),
            ({"sources": ["core", "x"]}, {"source": "edge"}),
            ({"correlation_ids": ["run-42"]}, {"correlation_id": "run-43"}),
            ({"stream_ids": ["webhook"]}, {"stream_id": "mail"}),
            ({"execution_ids": ["ex-1"]}, {"execution_id": "ex-2"}),
            ({"entities": ["task:a:b"]}, {"entity": {"kind": "task", "id": "a"}}),
            ({"entities": ["task"]}, {"entity": {"kind": "agent", "id": "a:b"}}),
            ({"entities": [("task", "a:*")]}, {"entity": {"kind": "task", "id": "a"}}),
            ({"entities": [{"id": "a:b"}]}, {"entity": {"kind": "task", "id": "a"}}),
            ({"channels": ["dev-team"], "sources": ["core"]}, {"channel": "ops"}),
        ]:
            async with client.subscribe(**filter) as one:
                await one.ready()
                await self.server.publish([FULL | other | {"payload": 1}, FULL | {"payload": 2}, FULL | other | {"payload": 3}])
                self.assertEqual([item.payload for item in await take(one, 1)], [2], filter)
                self.assertEqual([item.payload for item in await take(everything, 3)], [1, 2, 3])
            with self.assertRaises(StopAsyncIteration):
                await anext(one)
        with self.assertRaises(TypeError):
            client.subscribe(colours=["red"])

    async def test_on_has_the_event_and_a_handlers_fault_is_its_own(self) -> None:
        client = self.client()
        progress: list[Event] = []
        all_types: list[str] = []

        async def handle(event: Event) -> None:
            await asyncio.sleep(0)
            progress.append(event)
            raise ValueError("mine")

        off = client.on("task.progress", handle)
        client.on("*", lambda event: all_types.append(event.event_type))
        await client.subscribe("none").ready()
        id = await client.publish(FULL | {"timestamp": "2026-01-27T10:21:33.123456Z"})
        await until("the event and the fault", lambda: progress and all_types and self.errors)
        (event,) = progress
        self.assertEqual(event, Event(
            id, "task.progress", "2026-01-27T10:21:33.123456Z", {"progress": 42}, "core", "run-42", "webhook", "ex-1",
            ("task", "a:b"), "dev-team",
        ))  # fmt: skip
        self.assertEqual(event.to_dict()["entity"], {"kind": "task", "id": "a:b"})
        self.assertEqual(Event.from_dict(event.to_dict()), event)
        self.assertEqual(self.errors, ["handler"])
        off()
        await client.publish({"type": "task.progress"})
        await client.publish({"type": "last"})
        await until("the last", lambda: all_types[-1] == "last")
        self.assertEqual(len(progress), 1)

    @over_each_transport
    async def test_the_past_is_each_subscriptions_own_however_many_there_are(self, transport: str) -> None:
        first = await self.server.publish(numbered(0, source="past"))
        await self.server.publish([numbered(n, source="past") for n in (1, 2, 3)])
        client = self.client(transports=[transport])
        await client.subscribe().ready()
        for past in ({"since": first}, {"history": 3}):
            async with client.subscribe(sources=["past"], **past) as one:
                self.assertEqual(numbers(await take(one, 3)), [1, 2, 3])
        (gap,) = await take(client.subscribe("x", since="elsewhere-1"), 1)
        assert isinstance(gap, Gap)
        self.assertIsNone(gap.missed)

        async def streams() -> bool:
            return bool((await self.server.stats())["connections"][transport] == (1 if transport == "ws" else 2))

        await until("those that ended have left", streams)
        await client.close()

    @over_each_transport
    async def test_a_refusal_is_raised_at_the_call_that_requested_it(self, transport: str) -> None:
        client = self.client(transports=[transport])
        good = client.subscribe("good")
        bad = client.subscribe("bad", on_lag="cry")
        with self.assertRaises(FanwireError):
            await anext(bad)
        with self.assertRaisesRegex(FanwireError, "event has no type"):
            await client.publish({"type": ""})
        await good.ready()
        await client.publish({"type": "good"})
        await take(good, 1)

    @over_each_transport
    async def test_a_publish_without_an_ack_is_answered_only_if_refused(self, transport: str) -> None:
        client = self.client(transports=[transport])
        # It waits for the connection like other publishes. The server has not announced unacked publishing yet.
        self.assertIsNone(await client.publish({"type": "early"}, ack=False))
        quiet = client.subscribe("quiet")
        await quiet.ready()
        sent: list[Any] = []
        link = client._link
        if isinstance(link, Link):
            send = link._socket.send

            async def watched(text: Any) -> None:
                sent.append(json.loads(text))
                await send(text)

            link._socket.send = watched  # type: ignore[method-assign]
            # The writer already waits with the method from before.
            await client.request("server_info")
        for n in (1, 2, 3):
            self.assertIsNone(await client.publish({"type": "quiet", "payload": n}, ack=False))
        came = [item.payload for item in await take(quiet, 3) if isinstance(item, Event)]
        # Streams publish by requests of their own, in any order.
        self.assertEqual(came if transport == "ws" else sorted(came), [1, 2, 3])
        self.assertIsNone(await client.publish({"type": ""}, ack=False))
        await until("the refusal", lambda: bool(self.errors))
        self.assertEqual(self.errors, ["invalid_event" if transport == "ws" else "http_400"])
        if transport == "ws":
            self.assertEqual([(one["type"], one["ack"]) for one in sent], [("publish", False)] * 4)
        await client.close()

    async def test_requests_are_answered_and_agents_and_workflows_have_their_names(self) -> None:
        client = self.client()
        agent, workflow = client.subscribe_to_agent("coder-001", ["status"]), client.subscribe_to_workflow("w-1")
        await agent.ready()
        await workflow.ready()
        self.assertEqual(await client.request("subscription_count"), {"count": 2})
        self.assertEqual((await client.request("server_info"))["protocol"], "fanwire.v1")
        with self.assertRaises(FanwireError) as refused:
            await client.request("presence", channel="nowhere")
        self.assertEqual(refused.exception.code, "no_presence")
        with self.assertRaisesRegex(FanwireError, "Unknown action: fly"):
            await client.request("fly")
        entity = {"kind": "agent", "id": "coder-001"}
        await self.server.publish([
            {"type": "agent_status", "entity": entity | {"id": "x"}}, {"type": "agent_log", "entity": entity},
            {"type": "agent_status", "entity": entity}, {"type": "agent.status", "entity": entity},
            {"type": "workflow_failed", "entity": {"kind": "workflow", "id": "w-1"}},
        ])  # fmt: skip
        self.assertEqual([item.event_type for item in await take(agent, 2)], ["agent_status", "agent.status"])
        self.assertEqual([item.event_type for item in await take(workflow, 1)], ["workflow_failed"])

    async def test_subscriptions_with_texts_share_one_socket_and_each_gets_its_own_events(self) -> None:
        client = self.client(transports=["ws"])
        every = client.subscribe(sources=["end"])
        each = {text: client.subscribe(filter=text) for text in {text for text, _, _ in TEXTS["cases"]}}
        for one in (every, *each.values()):
            await one.ready()
        self.assertEqual((await self.server.stats())["connections"]["ws"], 1)
        for event in TEXTS["events"].values():
            await self.server.publish(event)
        await client.publish({"type": "end", "source": "end"})
        await take(every, 1)
        types = {event["event_type"]: name for name, event in TEXTS["events"].items()}
        got = {}
        for text, one in each.items():
            one.close()
            got[text] = {types.get(item.event_type) async for item in one if isinstance(item, Event)}
        for text, name, want in TEXTS["cases"]:
            self.assertEqual(name in got[text], want, f"{text} on {name}")
        # A text of a later version has a socket of its own, and the server's answer.
        with self.assertRaisesRegex(FanwireError, "colour"):
            await anext(client.subscribe(filter="colour=red"))

    async def test_lean_events_lack_only_a_timestamp_that_was_not_set(self) -> None:
        client = self.client(lean=True)
        loop = client.subscribe("lean.*")
        await loop.ready()
        self.assertEqual((await client.request("server_info"))["protocol"], "fanwire.v1.lean")
        first = await client.publish({"type": "lean.a", "payload": {"type": "event"}})
        time = "2026-01-27T10:21:33.123456Z"
        second = await client.publish(FULL | {"type": "lean.b", "timestamp": time})
        want = [
            Event(first, "lean.a", None, {"type": "event"}),
            Event(second, "lean.b", time, {"progress": 42}, "core", "run-42", "webhook", "ex-1", ("task", "a:b"), "dev-team"),
        ]
        self.assertEqual(await take(loop, 2), want)
        # The past needs a client of its own, which is lean too.
        self.assertEqual(await take(client.subscribe("lean.*", history=2), 2), want)
        # Over SSE they are complete.
        (event, _) = await take(self.client(lean=True, transports=["sse"]).subscribe("lean.*", history=2), 2)
        assert isinstance(event, Event)
        self.assertEqual(event.event_id, first)
        self.assertTrue(event.timestamp)

    async def test_a_loop_that_is_too_slow_gets_a_gap_for_the_oldest(self) -> None:
        client = self.client()
        slow = client.subscribe("test.numbered", buffer=10)
        await slow.ready()
        first = await self.server.publish(numbered(0))
        self.assertEqual(numbers(await take(slow, 1)), [0])
        ids = [await self.server.publish(numbered(n)) for n in range(1, 31)]
        await client.publish({"type": "none"})
        gap, *rest = await take(slow, 11)
        self.assertEqual(gap, Gap(20, first, ids[19], True))
        self.assertEqual(numbers(rest), list(range(21, 31)))

    async def test_if_no_websocket_gets_through_the_client_uses_sse(self) -> None:
        self.proxy.blocks = b"GET /ws"
        client = self.client()
        loop = client.subscribe("test.numbered")
        await loop.ready()
        id = await client.publish(numbered(1))
        self.assertEqual([item.event_id for item in await take(loop, 1)], [id])
        with self.assertRaisesRegex(FanwireError, "need a WebSocket"):
            await client.request("server_info")
        # The client returns to the WebSocket once that is allowed again.
        self.proxy.blocks = None
        self.proxy.cut()
        await until("the loss", lambda: client.status != "open")
        await loop.ready()

        async def answered() -> bool:
            try:
                return bool(await client.request("server_info"))
            except FanwireError:
                return False

        await until("an answer that needs a WebSocket", answered)
        await self.server.publish(numbered(2))
        self.assertEqual(numbers(await take(loop, 1)), [2])

    async def test_a_subscription_made_while_the_first_stream_opens_is_not_forgotten(self) -> None:
        client = self.client(transports=["sse"])
        first = client.subscribe("first")
        # Checks at each step of the event loop, because the server answers within a millisecond.
        async with asyncio.timeout(PATIENCE):
            while client._link is None:
                await asyncio.sleep(0)
        self.assertEqual(client.status, "connecting")
        second = client.subscribe("second")
        async with asyncio.timeout(PATIENCE):
            await first.ready()
            await second.ready()
        await self.server.publish([{"type": "second"}, {"type": "first"}])
        for one, kind in ((second, "second"), (first, "first")):
            self.assertEqual([item.event_type for item in await take(one, 1) if isinstance(item, Event)], [kind])

    async def test_a_client_that_gives_up_reports_it(self) -> None:
        client = self.client("http://127.0.0.1:9", attempts=3)
        states: list[str] = []
        client.on_status(states.append)
        with self.assertRaises(FanwireError) as caught:
            await anext(client.subscribe())
        self.assertEqual(caught.exception.code, "gave_up")
        self.assertEqual(states.count("connecting"), 3)
        self.assertEqual(client.status, "closed")
        with self.assertRaises(ValueError):
            Fanwire("ftp://example.com")


if __name__ == "__main__":
    unittest.main()
