"""Watches executions, and alerts on failures, violated constraints and possibly missed events.

    python hive_monitor.py http://127.0.0.1:8765
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable

from fanwire import Event, Fanwire, Gap

TYPES = ["execution_started", "execution_completed", "execution_failed", "constraint_violation"]

Alert = Callable[[str, str, str | None], Awaitable[None]]


class AgentMonitor:
    def __init__(self, url: str, alert: Alert) -> None:
        self.url = url
        self.alert = alert
        self.executions: dict[str, float] = {}

    async def monitor(self) -> None:
        async with Fanwire(self.url) as client:
            events = client.subscribe(TYPES)
            await events.ready()
            print(f"watching {self.url}", flush=True)
            async for item in events:
                if isinstance(item, Gap):
                    missed = item.missed if item.missed is not None else "an unknown number of"
                    was = "was" if item.missed is None else "were"
                    await self.alert("warning", f"{missed} events {was} missed", None)
                else:
                    await self.handle(item)

    async def handle(self, event: Event) -> None:
        id = event.execution_id or ""
        if event.event_type == "execution_started":
            self.executions[id] = time.monotonic()
        elif event.event_type == "execution_completed":
            self.executions.pop(id, None)
        elif event.event_type == "execution_failed":
            started = self.executions.pop(id, None)
            after = f", after {time.monotonic() - started:.1f} s" if started is not None else ""
            where = f"{event.execution_id}, stream {event.stream_id}{after}"
            await self.alert("error", f"Agent failed: {event.payload.get('error')}", where)
        elif event.event_type == "constraint_violation":
            await self.alert("warning", f"Constraint violated: {event.payload}", event.execution_id)


async def send_alert(level: str, message: str, execution_id: str | None) -> None:
    """Prints an alert. Yours may go to a chat or a pager."""
    print(f"[{level.upper()}] {message} (exec: {execution_id})", flush=True)


if __name__ == "__main__":
    asyncio.run(AgentMonitor(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8765", send_alert).monitor())
