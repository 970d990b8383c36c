"""The package as installed: its types, its README, its examples."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest
from pathlib import Path

from support import HERE, PATIENCE, Case, Server, until

ROOT = HERE.parent
ENV = {name: value for name, value in os.environ.items() if not name.startswith("FANWIRE_")} | {"PYTHONPATH": str(ROOT / "src")}


class Package(unittest.TestCase):
    def test_its_types_are_complete_and_a_mistake_is_found(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            use = Path(folder) / "use.py"
            use.write_text(
                "from fanwire import Event, Fanwire, Gap\n"
                "async def main(client: Fanwire) -> str | None:\n"
                "    async for item in client.subscribe('task.*', sources=['core'], history=5):\n"
                "        if isinstance(item, Gap):\n"
                "            return str(item.missed)\n"
                "        return item.source\n"
                "    run = client.run('run-42', absent='error', event_types=['token'], on_lag='concat', compact='concat', concat='/payload/delta')\n"
                "    async for part in run:\n"
                "        print(part)\n"
                "    print(run.end and run.end.status)\n"
                "    async for page in client.history('audit.**', order='desc', limit=5):\n"
                "        print(page.next, [event.event_id for event in page.events])\n"
                "    client.run('run-42', stream_ids=['x'])\n"
                "    client.subscribe(colours=['red'])\n"
                "    client.on('x', lambda event: event.payloud)\n"
                "    return None\n"
            )
            command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(ROOT.parents[1] / "target/mypy"), "src", "examples", str(use)]
            result = subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=120)
        faults = [line for line in result.stdout.splitlines() if ": error:" in line]
        self.assertEqual(len(faults), 3, result.stdout + result.stderr)
        self.assertIn("stream_ids", faults.pop(0))

    def test_its_project_file_is_complete(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        self.assertEqual(project["project"]["license"], "MIT OR Apache-2.0")
        self.assertEqual([one.partition(">")[0] for one in project["project"]["dependencies"]], ["websockets"])
        self.assertTrue((ROOT / "src/fanwire/py.typed").exists())
        # setuptools leaves build/ and an egg-info folder in the tree that it is given.
        self.assertEqual(project["build-system"]["build-backend"], "flit_core.buildapi")
        for file in project["project"]["license-files"]:
            self.assertTrue((ROOT / file).exists(), file)


class Programs(Case):
    async def run_python(self, *args: str, **options: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-u", *args, stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, env=ENV | options
        )

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.communicate()

        self.addAsyncCleanup(end)
        return process

    async def line(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout
        return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().rstrip()

    async def test_the_first_example_of_the_readme_runs_as_it_stands(self) -> None:
        readme = (ROOT / "README.md").read_text()
        found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
        assert found and "http://127.0.0.1:8765" in found[1]
        process = await self.run_python("-c", found[1].replace("http://127.0.0.1:8765", self.server.url))
        self.assertEqual(await self.line(process), "task.progress {'progress': 42}")
        self.assertEqual(await asyncio.wait_for(process.wait(), PATIENCE), 0)

    async def test_the_run_of_the_readme_has_its_text_and_its_end(self) -> None:
        readme = (ROOT / "README.md").read_text()
        [example] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "client.run(" in code]
        server = await Server.start("--retain", "by=stream; end=run.finished; match=stream=run-*")
        self.addAsyncCleanup(server.stop)
        for delta in ("Hel", "lo"):
            await server.publish({"type": "token", "stream_id": "run-42", "payload": {"delta": delta}})
        last = await server.publish({"type": "run.finished", "stream_id": "run-42"})
        process = await self.run_python("-c", example.replace("http://127.0.0.1:8765", server.url))
        self.assertEqual(await self.line(process), f"Hello RunEnd(status='run.finished', last_event_id='{last}', complete=True)")

    async def test_the_monitor_alerts_and_survives_a_restart(self) -> None:
        monitor = await self.run_python(str(ROOT / "examples/hive_monitor.py"), self.proxy.url)
        self.assertEqual(await self.line(monitor), f"watching {self.proxy.url}")
        run = {"stream_id": "webhook", "execution_id": "ex-1"}
        await self.server.publish([
            {"type": "execution_started", **run}, {"type": "goal_progress", **run, "payload": {"progress": 0.5}},
            {"type": "execution_failed", **run, "payload": {"error": "out of budget"}},
        ])  # fmt: skip
        said = await self.line(monitor)
        self.assertRegex(said, r"^\[ERROR\] Agent failed: out of budget \(exec: ex-1, stream webhook, after \d+\.\d s\)$")
        await self.server.restart()
        self.assertEqual(await self.line(monitor), "[WARNING] an unknown number of events was missed (exec: None)")
        await self.server.publish({"type": "constraint_violation", "execution_id": "ex-2", "payload": {"limit": "cost"}})
        self.assertEqual(await self.line(monitor), "[WARNING] Constraint violated: {'limit': 'cost'} (exec: ex-2)")

    async def test_the_webhook_bridge_posts_each_event_in_order_whatever_fails(self) -> None:
        got: list[tuple[str, dict[str, object]]] = []
        answers = iter(["503 Busy\r\nRetry-After: 0", "cut", "200 OK", "200 OK", "400 No", "200 OK"])

        async def hook(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            stream = re.search(r"x-stream-id: (\S+)", head)
            assert length and stream
            got.append((stream[1], json.loads(await reader.readexactly(int(length[1])))))
            answer = next(answers, "200 OK")
            if answer != "cut":
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            writer.close()

        target = await asyncio.start_server(hook, "127.0.0.1", 0)
        self.addCleanup(target.close)
        url = f"http://127.0.0.1:{target.sockets[0].getsockname()[1]}/hook"
        with tempfile.TemporaryDirectory() as folder:
            args = [
                str(ROOT / "examples/webhook.py"), self.proxy.url, url, "--stream", "agent.*", "--state", f"{folder}/at",
                "--wait", "0.01",
            ]  # fmt: skip
            bridge = await self.run_python(*args, no_proxy="*")
            self.assertEqual(await self.line(bridge), f"forwarding {self.proxy.url} to {url}")
            await self.server.publish([{"type": "n", "stream_id": f"agent.{n}", "payload": {"n": n}} for n in range(2)])
            await until("two events, the first tried three times", lambda: len(got) == 4)
            self.assertEqual([stream for stream, _ in got], ["agent.0", "agent.0", "agent.0", "agent.1"])
            self.assertEqual([event["payload"] for _, event in got], [{"n": 0}, {"n": 0}, {"n": 0}, {"n": 1}])
            # Events that its target refuses for good are reported and skipped.
            refused = await self.server.publish({"type": "n", "stream_id": "agent.2"})
            self.assertRegex(await self.line(bridge), r"^refused with 400: \S+-2$")
            await until("its place is written", lambda: Path(f"{folder}/at").read_text() == refused)
            bridge.terminate()
            await asyncio.wait_for(bridge.wait(), PATIENCE)
            # It continues after the last accepted event, also in another process.
            await self.server.publish([{"type": "n", "stream_id": "other"}, {"type": "n", "stream_id": "agent.3"}])
            bridge = await self.run_python(*args, no_proxy="*")
            await until("the event published meanwhile", lambda: len(got) == 6)
            self.assertEqual(got[5][0], "agent.3")
            bridge.terminate()
            await asyncio.wait_for(bridge.wait(), PATIENCE)


if __name__ == "__main__":
    unittest.main()
