"""As much of HTTP/1.1 as an event stream and a publish need, on asyncio's own streams."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ._types import FanwireError

# The longest wait that a server can ask for, in seconds: the limit of a browser's timer.
WAIT_MAX = 2_147_483.0

# Interim answers (1xx) to skip before a request is given up.
_INTERIM_MAX = 16


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names are in lower case."""
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yields the body as it comes."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\n")).split(b";")[0], 16):
                yield await self._reader.readexactly(size)
                await self._reader.readuntil(b"\n")
            return
        left = int(self.headers["content-length"]) if "content-length" in self.headers else None
        while left != 0:
            piece = await self._reader.read(65_536 if left is None else min(left, 65_536))
            if not piece:
                return
            left = left if left is None else left - len(piece)
            yield piece

    async def body(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])

    def close(self) -> None:
        self._writer.transport.abort()


def wait_of(retry_after: str | None) -> float:
    """Returns the seconds in a `Retry-After`, given as a number or as a date (RFC 9110, 10.2.3); 0 for anything
    else."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:10]), WAIT_MAX)
    try:
        when = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, when - time.time()), WAIT_MAX)


async def request(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None, context: ssl.SSLContext | bool | None
) -> Answer:
    """Sends a request, and returns the answer once its head has come. Raises OSError and EOFError."""
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    port = parts.port or (443 if secure else 80)
    tls = (context or ssl.create_default_context()) if secure else None
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        lines = [f"{method} {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Connection: close"] + ([f"Content-Length: {len(body)}"] if body is not None else [])
        writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        for _ in range(_INTERIM_MAX):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            # 100, 102 and 103 come before the answer (RFC 9110, 15.2).
            if status >= 200:
                named = (line.partition(":") for line in head[1:] if line)
                found = {name.strip().lower(): value.strip() for name, _, value in named}
                return Answer(status, found, reader, writer)
        raise ValueError("no final answer")
    except (ValueError, IndexError, asyncio.LimitOverrunError) as cause:
        writer.transport.abort()
        raise FanwireError("protocol", "not an HTTP answer") from cause
    except BaseException:
        writer.transport.abort()
        raise
