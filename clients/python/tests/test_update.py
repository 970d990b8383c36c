"""Changes of a subscription's lists, with the real server."""

import unittest
from typing import Any

from support import Case, Event, Subscription, over_each_transport, take, until

from fanwire import FanwireError, Updated


def quote(id: str, n: int, type: str = "quote") -> dict[str, Any]:
    return {"type": type, "entity": {"kind": "symbol", "id": id}, "payload": n}


async def ids(subscription: Subscription, count: int) -> list[str]:
    items = await take(subscription, count)
    return [f"{item.entity[1]}{item.payload}" for item in items if isinstance(item, Event) and item.entity]


class Updates(Case):
    @over_each_transport
    async def test_added_values_come_and_removed_ones_do_not(self, transport: str) -> None:
        client = self.client(transports=[transport])
        watched, everything = client.subscribe(entities=["symbol:a", ("symbol", "b")]), client.subscribe("quote")
        await watched.ready()
        await everything.ready()
        await self.server.publish([quote(id, 1) for id in "cab"])
        self.assertEqual(await ids(watched, 2), ["a1", "b1"])
        updated = await watched.update(add={"entities": ["symbol:c", "symbol:b"]}, remove={"entities": [("symbol", "a")]})
        self.assertEqual(updated, Updated(1, 1))
        await self.server.publish([quote(id, 2) for id in "abc"])
        self.assertEqual(await ids(watched, 2), ["b2", "c2"])
        # A list without values matches nothing, and can be filled again.
        self.assertEqual(await watched.update(remove={"entities": ["symbol:b", "symbol:c"]}), Updated(0, 2))
        await self.server.publish([quote(id, 3) for id in "bc"])
        self.assertEqual(await ids(everything, 8), ["c1", "a1", "b1", "a2", "b2", "c2", "b3", "c3"])
        self.assertEqual(await watched.update(add={"entities": ["symbol:a"]}), Updated(1, 0))
        await self.server.publish([quote(id, 4) for id in "ab"])
        self.assertEqual(await ids(watched, 1), ["a4"])

    async def test_the_snapshot_of_added_values_comes_once_before_live_events(self) -> None:
        await self.server.publish([quote("x", 1, "tick"), quote("y", 1, "tick"), quote("x", 2, "tick")])
        client = self.client()
        other = client.subscribe("tick")
        watched = client.subscribe("tick", entities=["symbol:y"], snapshot=True)
        await other.ready()
        self.assertEqual(await ids(watched, 1), ["y1"])
        await watched.update(add={"entities": ["symbol:x"]})
        await self.server.publish([quote("y", 3, "tick"), quote("x", 3, "tick")])
        self.assertEqual(await ids(watched, 3), ["x2", "y3", "x3"])
        self.assertEqual(await ids(other, 2), ["y3", "x3"])

    async def test_a_changed_list_survives_a_lost_connection_and_so_does_a_change_that_waits(self) -> None:
        proxy = self.proxy
        client = self.client(transports=["ws"])
        watched = client.subscribe("cut", entities=["symbol:a", "symbol:b"])
        await watched.update(add={"entities": ["symbol:c"]})
        proxy.down = True
        proxy.cut()
        await until("the loss", lambda: client.status == "waiting")
        await self.server.publish([quote("c", 1, "cut")])
        proxy.down = False
        await watched.update(remove={"entities": ["symbol:b"]})
        await self.server.publish([quote(id, 2, "cut") for id in "abc"])
        self.assertEqual(await ids(watched, 3), ["c1", "a2", "c2"])

    async def test_a_refused_change_is_an_error_and_changes_nothing(self) -> None:
        client = self.client()
        watched = client.subscribe(entities=["symbol:a"])
        with self.assertRaises(FanwireError) as refused:
            await watched.update(add={"channels": ["c"]})
        self.assertEqual(refused.exception.code, "invalid_payload")
        await self.server.publish([quote("b", 1), quote("a", 2)])
        self.assertEqual(await ids(watched, 1), ["a2"])
        watched.close()
        with self.assertRaises(FanwireError) as refused:
            await watched.update(add={"entities": ["symbol:b"]})
        self.assertEqual(refused.exception.code, "closed")


if __name__ == "__main__":
    unittest.main()
