"""Proves, with Python's `httpx-sse`: the stream's headers and fields, filters, and resuming at any byte by
hand."""

import asyncio
import json

import httpx
import httpx_sse
from lib import PATIENCE, ask, check, done, numbered, publish, url


def stream(client, query="", base=url, last=None):
    headers = {"Last-Event-ID": last} if last else {}
    return httpx_sse.aconnect_sse(client, "GET", f"{base}/sse{query}", headers=headers)


def new_client():
    return httpx.AsyncClient(timeout=PATIENCE, trust_env=False)


async def fields():
    async with new_client() as client, stream(client) as opened:
        headers = opened.response.headers
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache"
        assert headers["connection"] == "keep-alive"
        assert headers["x-accel-buffering"] == "no"
        event_id = await publish({"type": "task.done", "payload": {"text": "two\nlines ☃"}})
        retries = []
        async for event in opened.aiter_sse():
            retries.append(event.retry)
            if event.data:
                break
        assert (event.event, event.id) == ("task.done", event_id)
        assert json.loads(event.data)["payload"] == {"text": "two\nlines ☃"}
        assert any(retries), "it says when to come back"


async def filters():
    async with new_client() as client, stream(client, "?type=task.**&source=core&channel=dev") as opened:
        await publish(
            [
                {"type": "task.a.b", "source": "core", "channel": "dev", "payload": 1},
                {"type": "task.a", "source": "edge", "channel": "dev", "payload": 2},
                {"type": "tool.a", "source": "core", "channel": "dev", "payload": 3},
                {"type": "task.a", "source": "core", "payload": 4},
                {"type": "task.c", "source": "core", "channel": "dev", "payload": 5},
            ]
        )
        got = []
        async for event in opened.aiter_sse():
            if event.data:
                got.append(json.loads(event.data)["payload"])
            if got[-1:] == [5]:
                break
        assert got == [1, 5], got


async def bad_query():
    async with new_client() as client:
        answer = await client.get(f"{url}/sse?history=many")
        assert answer.status_code == 400 and "history" in answer.json()["error"], answer.text


async def resume():
    """Cuts each connection after some bytes. Incomplete events must come again, and nothing else."""
    base = await ask("proxy")
    total = 300
    last = await publish(numbered(-1))
    await publish([numbered(n) for n in range(total)])
    got, lives = [], 0
    while len(got) < total:
        await ask(f"cut-after {700 + 131 * lives}")
        lives += 1
        async with new_client() as client:
            try:
                async with stream(client, "?type=test.numbered", base, last) as opened:
                    async for event in opened.aiter_sse():
                        if event.data:
                            assert event.event == "test.numbered", event
                            got.append(json.loads(event.data)["payload"]["n"])
                            last = event.id
                            if len(got) == total:
                                break
            except httpx.TransportError:
                pass
        assert lives < 200
    assert got == list(range(total)), got
    assert lives > 10, lives


async def stale():
    """An id of another epoch is answered with a gap, then with new events."""
    last = await publish(numbered(1))
    await ask("restart")
    async with new_client() as client, stream(client, "", url, last) as opened:
        await publish(numbered(2))
        got = []
        async for event in opened.aiter_sse():
            if event.data:
                got.append((event.event, json.loads(event.data)))
            if len(got) == 2:
                break
    (first, gap), (second, event) = got
    assert first == "gap" and gap["missed"] is None and gap["recoverable"] is False, gap
    assert second == "test.numbered" and event["payload"] == {"n": 2}, event


async def drain():
    """SIGTERM ends a stream normally, not with an error."""
    async with new_client() as client, stream(client) as opened:
        await publish(numbered(3))

        async def read():
            return [event.event async for event in opened.aiter_sse() if event.data]

        names, code = await asyncio.gather(read(), ask("terminate"))
    assert names == ["test.numbered"] and code == "0", (names, code)
    await ask("restart")


async def main():
    await check("headers, id, event, data and retry", fields)
    await check("the query is the filter", filters)
    await check("a bad query is refused in words", bad_query)
    await check("cut at any byte, nothing is lost and nothing comes twice", resume)
    await check("an id of another life gives a gap", stale)
    await check("a drained stream ends cleanly", drain)


asyncio.run(main())
done()
