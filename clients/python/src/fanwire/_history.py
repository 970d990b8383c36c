"""The past in pages, by `GET /events`."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from ._http import request, wait_of
from ._types import Event, FanwireError, Page

# Statuses that are tried again: the server is busy or restarts, or its proxy cannot reach it.
_BUSY = (429, 502, 503, 504)
# Attempts for one page, if the client has no limit of its own.
_ATTEMPTS = 5


class Walk:
    """Reads pages of a client's server."""

    def __init__(
        self,
        base: str,
        context: ssl.SSLContext | bool | None,
        token: Callable[[], Awaitable[str | None]],
        is_closed: Callable[[], bool],
        backoff: tuple[float, float],
        attempts: int | None,
        timeout: float,
    ) -> None:
        self._base, self._context, self._token, self._is_closed = base, context, token, is_closed
        self._backoff, self._attempts, self._timeout = backoff, attempts or _ATTEMPTS, timeout

    async def pages(self, query: list[tuple[str, str]], place: str) -> AsyncGenerator[Page, None]:
        """Yields pages until there are no more. `place` is the parameter for the next one."""
        while True:
            page = await self._page(query)
            yield page
            if page.next is None:
                return
            onward = (place, page.next)
            if onward in query:
                raise FanwireError("protocol", "the next page is the same one")
            query = [pair for pair in query if pair[0] != place] + [onward]

    async def _page(self, query: list[tuple[str, str]]) -> Page:
        """Reads one page. A lost connection or a busy server is tried again."""
        attempt = 0
        while True:
            attempt += 1
            base, most = self._backoff
            wait = random.random() * min(most, base * 2 ** min(attempt - 1, 60))
            if self._is_closed():
                raise FanwireError("closed", "the client is closed")
            try:
                async with asyncio.timeout(self._timeout):
                    status, headers, reply = await self._ask(f"events?{urlencode(query)}")
            except (OSError, EOFError, TimeoutError, ValueError) as cause:
                error = FanwireError("disconnected", str(cause) or repr(cause))
                error.__cause__ = cause
            else:
                if status == 200 and "events" in reply:
                    events = [Event.from_dict(event) for event in reply["events"]]
                    return Page(events, reply.get("next"), bool(reply.get("complete")))
                error = _refusal(status, reply)
                if status not in _BUSY:
                    raise error
                wait += min(wait_of(headers.get("retry-after")), most)
            if attempt >= self._attempts:
                raise error
            await asyncio.sleep(wait)

    async def _ask(self, path: str) -> tuple[int, Any, dict[str, Any]]:
        token = await self._token()
        headers = {"Accept": "application/json"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        answer = await request("GET", self._base + path, headers, None, self._context)
        try:
            body = await answer.body()
        finally:
            answer.close()
        try:
            reply = json.loads(body)
        except ValueError:
            reply = {}
        return answer.status, answer.headers, reply if isinstance(reply, dict) else {}


def _refusal(status: int, reply: dict[str, Any]) -> FanwireError:
    if status == 404:
        return FanwireError("unsupported", "this server has no pages")
    code = {200: "protocol", 401: "unauthorized", 403: "forbidden", 501: "unsupported"}.get(status) or reply.get("code", f"http_{status}")
    return FanwireError(code, reply.get("error", f"refused with {status}"))
