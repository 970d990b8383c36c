"""Posts each event to a URL, in order, with its stream in `X-Stream-ID`, and retries until it is accepted.

    python webhook.py http://127.0.0.1:8765 https://api.example.com/hook --stream production-agent-1 --state at.txt

Each event is posted once or, if an answer was lost, more often: `event_id` identifies repeats. Events that the target
refuses for good (4xx) are reported and skipped. With `--state` it continues after the last accepted event, also after a
restart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import urllib.error
import urllib.request
from pathlib import Path

from fanwire import Event, Fanwire, Gap

# Retried: these, and failures before an answer.
AGAIN = {408, 425, 429, 500, 502, 503, 504}


def post(url: str, event: Event) -> tuple[int, float | None]:
    """Returns the status, 0 without an answer, and the requested wait in seconds."""
    headers = {"Content-Type": "application/json", "X-Stream-ID": event.stream_id or ""}
    request = urllib.request.Request(url, json.dumps(event.to_dict()).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "")
        return error.code, float(after) if after.isdigit() else None
    except OSError:
        return 0, None


async def deliver(url: str, event: Event, wait: float) -> None:
    attempt = 0
    while True:
        status, after = await asyncio.to_thread(post, url, event)
        if 200 <= status < 300:
            return
        if status and status not in AGAIN:
            print(f"refused with {status}: {event.event_id}", flush=True)
            return
        jitter = random.random() * min(60, wait * 2**attempt)
        await asyncio.sleep(jitter if after is None else after + jitter)
        attempt = min(attempt + 1, 30)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("target")
    parser.add_argument("--type", action="append", help="an event type or a pattern; may be repeated")
    parser.add_argument("--stream", action="append", help="a stream or a pattern; may be repeated")
    parser.add_argument("--token", help="a token that the server accepts")
    parser.add_argument("--state", type=Path, help="a file that remembers the last accepted event")
    parser.add_argument("--wait", type=float, default=1, help="maximum number of seconds before the first retry")
    args = parser.parse_args()

    since = args.state.read_text().strip() if args.state and args.state.exists() else None
    async with Fanwire(args.server, token=args.token) as client:
        events = client.subscribe(args.type, stream_ids=args.stream or [], since=since)
        await events.ready()
        print(f"forwarding {args.server} to {args.target}", flush=True)
        async for item in events:
            if isinstance(item, Gap):
                print(f"missed {item.missed if item.missed is not None else 'an unknown number of'} events", flush=True)
                continue
            await deliver(args.target, item, args.wait)
            if args.state:
                # Complete or not at all, whenever this is stopped.
                new = args.state.with_suffix(".new")
                new.write_text(item.event_id)
                new.replace(args.state)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
