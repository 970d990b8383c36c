"""The client of Fanwire: a stream of events that reconnects by itself and reports losses.

    async with Fanwire("http://127.0.0.1:8765") as client:
        async for item in client.subscribe("task.*"):
            if isinstance(item, Gap):
                print("missed", item.missed)
            else:
                print(item.event_type, item.payload)
"""

from ._client import Fanwire, Status
from ._filter import Entity, pattern
from ._run import Run
from ._subscription import Subscription
from ._types import Event, FanwireError, Gap, Page, Past, RunEnd, Updated

__all__ = [
    "Entity", "Event", "Fanwire", "FanwireError", "Gap", "Page", "Past", "Run", "RunEnd", "Status", "Subscription", "Updated",
    "pattern",
]  # fmt: skip
