"""Connections that break at any place, with the real server: nothing missed, nothing twice, in order; or a
gap."""

import asyncio
import unittest

from support import Case, Gap, numbered, numbers, over_each_transport, take, unrest, until

from fanwire import Event, FanwireError


class Cuts(Case):
    async def test_cut_at_random_every_event_comes_once_and_in_order(self) -> None:
        for transports in (("ws",), ("sse",), ("ws", "sse")):
            with self.subTest(transports=transports):
                await self.cut_at_random(transports)

    async def cut_at_random(self, transports: tuple[str, ...]) -> None:
        events = 1000
        client = self.client(transports=transports)
        # Overlapping subscriptions, as loops and as a handler.
        everything = client.subscribe("test.**", sources=["chaos", "odd"])
        odd = client.subscribe(sources="odd")
        text = client.subscribe(filter="source=odd payload.n >= 100")
        handled: list[int] = []
        hears = asyncio.Event()

        async def handle(event: Event) -> None:
            if event.source == "probe":
                hears.set()
            else:
                handled.append(event.payload["n"])

        client.on("test.numbered", handle)
        await everything.ready()
        await odd.ready()
        await text.ready()
        # A handler can show that it listens only by an event.
        while not hears.is_set():
            await self.server.publish([numbered(-1, source="probe")])
            await asyncio.sleep(0.01)
        trouble = asyncio.create_task(unrest(self.proxy, 42, lambda: len(handled)))
        loops = asyncio.gather(take(everything, events), take(odd, events // 2), take(text, events // 2 - 50))
        for n in range(0, events, 20):
            batch = [numbered(n, source="odd" if n % 2 else "chaos") for n in range(n, n + 20)]
            await self.server.publish([{"type": "other"}, *batch])
            # Otherwise everything is published before the network has failed.
            await asyncio.sleep(0.02)
        got, odds, later = await loops
        trouble.cancel()
        self.assertEqual(numbers(got), list(range(events)))
        self.assertEqual(numbers(odds), list(range(1, events, 2)))
        self.assertEqual(numbers(later), list(range(101, events, 2)))
        try:
            await until("the handler", lambda: len(handled) >= events)
        except AssertionError as error:
            missing = sorted(set(range(events)) - set(handled))
            raise AssertionError(f"the handler lacks {missing[:10]} of {len(missing)}; told: {self.errors[-3:]}") from error
        self.assertEqual(handled, list(range(events)))
        self.assertGreater(len(self.errors), 0, "losses were told")
        await client.close()

    @over_each_transport
    async def test_cut_before_its_first_event_a_client_misses_nothing(self, transport: str) -> None:
        client = self.client(transports=[transport])
        one, two = client.subscribe("first.*"), client.subscribe("first.a", sources=["s"])
        await one.ready()
        await two.ready()
        await self.offline(client)
        await self.server.publish([{"type": "first.a", "source": "s"}, {"type": "first.b"}])
        self.proxy.down = False
        self.assertEqual([item.event_type for item in await take(one, 2)], ["first.a", "first.b"])
        self.assertEqual([item.event_type for item in await take(two, 1)], ["first.a"])

    @over_each_transport
    async def test_a_restart_of_the_server_is_one_gap_for_each_loop(self, transport: str) -> None:
        client = self.client(transports=[transport])
        told: list[Gap] = []
        client.on_gap(told.append)
        loops = [client.subscribe("life.*"), client.subscribe("life.**")]
        for loop in loops:
            await loop.ready()
        before = await self.server.publish({"type": "life.before"})
        for loop in loops:
            await take(loop, 1)
        await self.server.restart()
        for loop in loops:
            self.assertEqual(await take(loop, 1), [Gap(None, before, None, False)])
        await self.server.publish({"type": "life.after"})
        for loop in loops:
            self.assertEqual([item.event_type for item in await take(loop, 1)], ["life.after"])
        self.assertEqual(len(told), 1 if transport == "ws" else 2)
        # The new server's positions count from here on.
        await self.offline(client)
        await self.server.publish({"type": "life.again"})
        self.proxy.down = False
        for loop in loops:
            self.assertEqual([item.event_type for item in await take(loop, 1)], ["life.again"])

    async def test_a_client_that_resumes_too_late_gets_the_number_of_missed_events(self) -> None:
        client = self.client()
        loop = client.subscribe("late")
        await loop.ready()
        await self.server.publish({"type": "late", "payload": 0})
        await take(loop, 1)
        await self.offline(client)
        # The client loses these. Its filter does not match the events that evict them.
        await self.server.publish([{"type": "late", "payload": "lost"}] * 10)
        while (await self.server.stats())["shards"][0]["oldest"] < 20:
            await self.server.publish([{"type": "filler"}] * 20_000)
        await self.server.publish({"type": "late", "payload": 1})
        self.proxy.down = False
        gap, event = await take(loop, 2)
        assert isinstance(gap, Gap) and isinstance(event, Event)
        self.assertTrue(gap.missed == 10 and not gap.recoverable, gap)
        self.assertEqual(event.payload, 1)

    async def test_a_publish_waits_while_offline_up_to_a_bound_and_comes_once_where_its_answer_is_lost(self) -> None:
        client = self.client(queue=3)
        loop = client.subscribe("queued")
        await loop.ready()
        await self.offline(client)
        never = asyncio.create_task(client.publish({"type": "queued", "payload": "never"}))
        sent = [asyncio.create_task(client.publish({"type": "queued", "payload": payload})) for payload in "ab"]
        await asyncio.sleep(0)
        with self.assertRaises(FanwireError) as caught:
            await client.publish({"type": "queued", "payload": "too many"})
        self.assertEqual(caught.exception.code, "queue_full")
        never.cancel()
        await asyncio.gather(never, return_exceptions=True)
        sent.append(asyncio.create_task(client.publish({"type": "queued", "payload": "c"})))
        await asyncio.sleep(0)
        self.proxy.down = False
        ids = await asyncio.gather(*sent)
        events = await take(loop, 3)
        self.assertEqual([(event.event_id, event.payload) for event in events], list(zip(ids, "abc")))
        # Without the server's answer the event is sent again, and published once.
        self.proxy.cut(1)
        again = [await client.publish({"type": "queued", "payload": payload}) for payload in "de"]
        events = await take(loop, 2)
        self.assertEqual([(event.event_id, event.payload) for event in events], list(zip(again, "de")))
        await client.close()
        with self.assertRaises(FanwireError) as caught:
            await client.publish({"type": "queued"})
        self.assertEqual(caught.exception.code, "closed")


class SeveralShards(Case):
    options = ("--bus-shards", "4")

    async def test_each_stream_comes_whole_and_in_order(self) -> None:
        for transport, lean in (("ws", False), ("ws", True), ("sse", False)):
            with self.subTest(transport=transport, lean=lean):
                await self.streams(transport, lean)

    async def streams(self, transport: str, lean: bool) -> None:
        events, streams = 600, 10
        client = self.client(transports=[transport], lean=lean)
        everything = client.subscribe("test.**")
        await everything.ready()
        came = 0
        next_of: dict[str, int] = {}

        async def read() -> None:
            nonlocal came
            async for item in everything:
                (n,) = numbers([item])
                stream = item.stream_id
                self.assertEqual(n, next_of.get(stream, n % streams), item)
                self.assertNotIn("position", item.to_dict())
                next_of[stream] = n + streams
                came += 1
                if came == events:
                    return

        reading = asyncio.create_task(read())
        trouble = asyncio.create_task(unrest(self.proxy, 7, lambda: came))
        for n in range(0, events, 20):
            await self.server.publish([numbered(n, stream_id=f"s{n % streams}") for n in range(n, n + 20)])
            await asyncio.sleep(0.02)
        await reading
        trouble.cancel()
        self.assertEqual(len(next_of), streams)
        await client.close()


if __name__ == "__main__":
    unittest.main()
