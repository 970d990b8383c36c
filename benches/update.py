"""Measures watch lists that change: clients of many symbols change one of them each, while quotes flow.

    python3 benches/update.py target/dist/fanwire [--clients 500] [--symbols 100] [--updates 210] [--quotes 250] [--seconds 20]

Prints, for quotes alone and for quotes with updates: the server's share of a core, and the p50 and p99 of acks and of
quotes in milliseconds. With --snapshot each subscription gets the latest quote of a symbol that it adds. It needs
only the standard library; the server gets the first CPU, this script the second one, if there are two.
"""

import argparse
import base64
import json
import os
import random
import re
import selectors
import socket
import struct
import subprocess
import time

QUOTE = re.compile(rb'"t":(\d+)')


def frame(message):
    text = json.dumps(message).encode()
    head = struct.pack("!BB", 0x81, 0x80 | len(text)) if len(text) < 126 else struct.pack("!BBH", 0x81, 0x80 | 126, len(text))
    # A mask of zeros changes nothing.
    return head + bytes(4) + text


class Client:
    def __init__(self, port, symbols, all_symbols, snapshot):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.socket.recv(4096)
        self.rest = self.rest.partition(b"\r\n\r\n")[2]
        self.held, self.known, self.all = symbols, set(symbols), all_symbols
        self.asked = {}
        self.number = 0
        entities = [f"symbol:S{n}" for n in symbols]
        payload = {"subscription_id": "w", "event_types": ["quote"], "entities": entities, "snapshot": snapshot}
        self.ask("subscribe", payload)

    def ask(self, kind, payload):
        self.number += 1
        self.asked[self.number] = time.monotonic_ns()
        self.socket.sendall(frame({"type": kind, "message_id": str(self.number), "payload": payload}))

    def update(self, dice):
        at, new = dice.randrange(len(self.held)), dice.randrange(self.all)
        while new in self.known:
            new = dice.randrange(self.all)
        old, self.held[at] = self.held[at], new
        self.known.discard(old)
        self.known.add(new)
        lists = {"add": {"entities": [f"symbol:S{new}"]}, "remove": {"entities": [f"symbol:S{old}"]}}
        self.ask("update", {"subscription_id": "w", **lists})

    def read(self, acks, quotes):
        now = time.monotonic_ns()
        data = self.rest + self.socket.recv(1 << 18)
        at = 0
        while len(data) - at >= 2:
            size, head = data[at + 1], 2
            if size >= 126:
                head = 4 if size == 126 else 10
                if len(data) - at < head:
                    break
                size = int.from_bytes(data[at + 2 : at + head], "big")
            if len(data) - at < head + size:
                break
            text = data[at + head : at + head + size]
            at += head + size
            if text.startswith(b'{"type":"event"'):
                found = QUOTE.search(text)
                if found:
                    quotes.append(now - int(found[1]))
            elif text.startswith(b'{"type":"ack"'):
                number = int(json.loads(text)["correlation_id"])
                acks.append(now - self.asked.pop(number))
            elif text.startswith((b'{"type":"error"', b'{"type":"gap"')):
                raise SystemExit(text.decode())
        self.rest = data[at:]


def cpu(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shown(values):
    values = sorted(values)
    if not values:
        return "none"
    return "p50 {:.2f} p99 {:.2f} ms of {}".format(*(values[int(len(values) * part)] / 1e6 for part in (0.5, 0.99)), len(values))


def run(clients, publisher, selector, pid, options, updates, seconds):
    acks, quotes = [], []
    dice = random.Random(7)
    start, before = time.monotonic(), cpu(pid)
    sent = changed = 0
    while (passed := time.monotonic() - start) < seconds:
        while sent < passed * options.quotes:
            quote = {"type": "quote", "entity": {"kind": "symbol", "id": f"S{dice.randrange(options.all)}"}, "data": {"t": time.monotonic_ns(), "bid": sent}}
            publisher.sendall(frame({"type": "publish", "ack": False, "payload": quote}))
            sent += 1
        while changed < passed * updates:
            clients[dice.randrange(len(clients))].update(dice)
            changed += 1
        for key, _ in selector.select(0.001):
            key.data.read(acks, quotes)
    used = (cpu(pid) - before) / seconds
    options.used[bool(updates)].append(used)
    print(f"{updates} updates/s, {options.quotes} quotes/s: server {used:.1%} of a core; acks {shown(acks)}; quotes {shown(quotes)}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("server")
    for name, value in (("clients", 500), ("symbols", 100), ("updates", 210), ("quotes", 250), ("seconds", 20)):
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--snapshot", action="store_true")
    options = arguments.parse_args()
    # No client's list has more than half of the symbols.
    options.all = max(1_000, 2 * options.symbols)
    options.used = {False: [], True: []}
    pin = len(os.sched_getaffinity(0)) > 1
    command = (["taskset", "-c", "0"] if pin else []) + [options.server, "serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if pin:
        os.sched_setaffinity(0, {1})
    try:
        port = int(server.stdout.readline().strip().rpartition(":")[2])
        dice = random.Random(1)
        clients = [Client(port, dice.sample(range(options.all), options.symbols), options.all, options.snapshot) for _ in range(options.clients)]
        selector = selectors.DefaultSelector()
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        publisher = Client(port, [options.all + 1], options.all, False)
        selector.register(publisher.socket, selectors.EVENT_READ, publisher)
        for updates in (0, options.updates, 0, options.updates):
            run(clients, publisher.socket, selector, server.pid, options, updates, options.seconds)
        alone, both = (sum(options.used[kind]) / len(options.used[kind]) for kind in (False, True))
        print(f"an update: {(both - alone) / options.updates * 1e6:.1f} us of the server's CPU")
    finally:
        server.terminate()
        server.wait()


main()
