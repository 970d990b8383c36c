"""A pool of Python's that idles between requests: prints each answer."""

import asyncio
import json
import sys
import time

import aiohttp
import requests

kind, url, pauses = sys.argv[1], sys.argv[2], [int(pause) for pause in sys.argv[3].split(",")]
event = {"type": "test.pooled"}


def say(status, answer):
    print(status, json.dumps({"accepted": answer.get("accepted")}, separators=(",", ":")), flush=True)


def with_requests():
    with requests.Session() as session:
        session.trust_env = False
        for pause in [0, *pauses]:
            time.sleep(pause)
            answer = session.post(f"{url}/publish", json=event)
            say(answer.status_code, answer.json())


async def with_aiohttp():
    # By default it closes after 15 s.
    connector = aiohttp.TCPConnector(keepalive_timeout=70)
    async with aiohttp.ClientSession(connector=connector) as session:
        for pause in [0, *pauses]:
            await asyncio.sleep(pause)
            async with session.post(f"{url}/publish", json=event) as answer:
                say(answer.status, await answer.json())


if kind == "requests":
    with_requests()
else:
    asyncio.run(with_aiohttp())
