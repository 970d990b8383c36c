"""Tokens with the real server: signing in, renewing on an open connection, refusals."""

import asyncio
import subprocess
import tempfile
import unittest
from pathlib import Path

from support import BINARY, Case, over_each_transport, take

from fanwire import Event, FanwireError, Subscription

SECRET = "only for this test, and long enough for it"


def token(*options: str, subject: str = "me") -> str:
    command = [BINARY, "token", "--secret", SECRET, "--sub", subject, *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Tokens(Case):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        config = Path(folder.name) / "fanwire.toml"
        config.write_text(f'[auth.jwt]\nhs256_secret = "{SECRET}"\n[auth.grant]\nchannels = ["user:{{sub}}"]\n')
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

    @over_each_transport
    async def test_a_personal_channel_comes_by_its_template_beside_other_subscriptions(self, transport: str) -> None:
        # A subject is taken literally, and a template is no name of a channel.
        client = self.client(transports=[transport], token=token("--channel", "**", "--publish", subject="a:*"))

        async def notes(*channels: str) -> None:
            for channel in channels:
                await client.publish({"type": "note", "channel": channel})

        async def channels(of: Subscription, count: int) -> list[str | None]:
            return [item.channel for item in await take(of, count) if isinstance(item, Event)]

        own, everything = client.subscribe(channels=["user:{sub}"]), client.subscribe()
        lobby, text = client.subscribe(channels=["lobby"]), client.subscribe(filter='channel="user:{sub}"')
        for one in (own, everything, lobby, text):
            await one.ready()
        sent = ["user:a:b", "user:a:*", "user:b", "user:a:*", "lobby"]
        await notes(*sent)
        self.assertEqual(await channels(everything, 5), sent)
        self.assertEqual(await channels(lobby, 1), ["lobby"])
        for one in (own, text):
            self.assertEqual(await channels(one, 2), ["user:a:*", "user:a:*"])
        # An update may name it too.
        await lobby.update(add={"channels": ["user:{sub}"]})
        await notes("user:b", "user:a:*", "lobby")
        self.assertEqual(await channels(lobby, 2), ["user:a:*", "lobby"])
        await lobby.update(remove={"channels": ["user:{sub}"]})
        await notes("user:a:*", "lobby")
        self.assertEqual(await channels(lobby, 1), ["lobby"])


if __name__ == "__main__":
    unittest.main()
