"""As much of HTTP/1.1 as an event stream and a publish need, on asyncio's own streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ._types import FanwireError


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """With names in lower case."""
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
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


async def request(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None, context: ssl.SSLContext | bool | None
) -> Answer:
    """Asks, and gives the answer when its head is there. Raises OSError and EOFError."""
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
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        named = (line.partition(":") for line in head[1:] if line)
        found = {name.strip().lower(): value.strip() for name, _, value in named}
        return Answer(int(head[0].split()[1]), found, reader, writer)
    except (ValueError, IndexError, asyncio.LimitOverrunError) as cause:
        writer.transport.abort()
        raise FanwireError("protocol", "not an HTTP answer") from cause
    except BaseException:
        writer.transport.abort()
        raise
