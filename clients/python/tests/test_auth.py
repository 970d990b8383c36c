"""Tokens with the real server: signing in, renewing on an open connection, refusals."""

import asyncio
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import BINARY, Case, over_each_transport, take

from fanwire import FanwireError

SECRET = "only for this test, and long enough for it"


def token(*options: str) -> str:
    command = [BINARY, "token", "--secret", SECRET, "--sub", "me", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Tokens(Case):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = Path(folder.name) / "fanwire.toml"
        config.write_text(f'[auth.jwt]\nhs256_secret = "{SECRET}"\n')
        self.options = ("--config", str(config))
        await super().asyncSetUp()

    @over_each_transport
    async def test_a_stream_outlives_its_tokens(self, transport: str) -> None:
        made = 0

        def give() -> str:
            nonlocal made
            made += 1
            return token("--stream", "*", "--publish", "--ttl", "6s")

        client = self.client(transports=[transport], token=give)
        loop = client.subscribe("a.*")
        await loop.ready()
        # Each lives for six seconds at most. A busy machine makes them slowly.
        end = asyncio.get_running_loop().time() + 7
        while asyncio.get_running_loop().time() < end or made < 3:
            id = await client.publish({"type": "a.b"})
            self.assertEqual([item.event_id for item in await take(loop, 1)], [id])
            await asyncio.sleep(0.05)
        if transport == "ws":
            self.assertEqual(self.errors, [])
        await client.close()

    async def test_without_a_valid_token_it_ends_with_the_reason(self) -> None:
        for transport in ("ws", "sse"):
            for wrong in (None, "no.such.token"):
                with self.subTest(transport=transport, token=wrong):
                    with self.assertRaisesRegex(FanwireError, "Authentication required|Invalid token|refused with 401"):
                        await anext(self.client(transports=[transport], token=wrong).subscribe())

    @over_each_transport
    async def test_a_tokens_grants_hold(self, transport: str) -> None:
        narrow = self.client(transports=[transport], token=token("--type", "a.*"))
        loop = narrow.subscribe()
        await loop.ready()
        with self.assertRaises(FanwireError) as caught:
            await narrow.publish({"type": "a.b"})
        self.assertEqual(caught.exception.code, "forbidden")
        wide = self.client(transports=[transport], token=token("--stream", "*", "--publish"))
        await wide.publish({"type": "b.hidden"})
        id = await wide.publish({"type": "a.seen"})
        self.assertEqual([item.event_id for item in await take(loop, 1)], [id])


if __name__ == "__main__":
    unittest.main()
