"""Storms beside Bun and a bare loop, and heartbeats beside a bare loop: `python3 storms.py [ROUNDS]` prints tables in Markdown.

Server on the first core, load (`storm`) on the second; contestants take turns. FANWIRE names the server's program, STORM the
load's, FANWIRE_SERVERS_JS the folder of the scripts. STORM_SECONDS bounds the whole run: no run begins after it.
"""
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
FANWIRE = os.environ.get("FANWIRE", f"{HERE}/../../target/dist/fanwire")
STORM = os.environ.get("STORM", f"{HERE}/target/release/storm")
JS = os.environ.get("FANWIRE_SERVERS_JS", f"{HERE}/js")
BEGUN, SECONDS = time.monotonic(), float(os.environ.get("STORM_SECONDS", "600"))
# Share of the clients in each row, for a trial.
PART = float(os.environ.get("STORM_PART", "1"))

# Row, contestants, settings of fanwire, options of the load, whether by TLS.
ROWS = [
    ("connect", ["fanwire", "Bun", "bare loop"], [], ["storm", "-n", 5000, "--others", 1000, "--seconds", 3, "--apart"], False),
    ("connect, TLS", ["fanwire", "Bun"], [], ["storm", "-n", 2000, "--others", 100, "--seconds", 3, "--apart"], True),
    ("connect, and all get the events", ["fanwire", "Bun", "bare loop"], [], ["storm", "-n", 5000, "--others", 1000, "--seconds", 3], False),
    ("resume", ["fanwire"], [], ["storm", "-n", 5000, "--others", 100, "--seconds", 3, "--past", 1000], False),
    ("heartbeats", ["fanwire", "bare loop"], ["--heartbeat", "1s"], ["heartbeats", "-n", 10000, "--seconds", 6], False),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(peer, settings, tls, folder):
    """Starts a contestant, and returns the process and its port."""
    port = free_port()
    cert = [f"{folder}/cert.pem", f"{folder}/key.pem"]
    if peer == "fanwire":
        command = [FANWIRE, "serve", "--listen", f"127.0.0.1:{port}", "--log-level", "warn", *settings]
        command += ["--tls-cert-file", cert[0], "--tls-key-file", cert[1]] if tls else []
    elif peer == "Bun":
        command = [f"{JS}/node_modules/.bin/bun", "run", f"{JS}/storm.js", str(port), *(cert if tls else [])]
    else:
        command = [STORM, "pings", str(port), "1" if settings else "30"]
    server = subprocess.Popen(["taskset", "-c", "0", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    return server, port


def turns(port, tls):
    """Returns bounds of the longest turn and of the 99th percentile of all turns of a fanwire server, in ms."""
    context = ssl._create_unverified_context() if tls else None
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/metrics"
    text = urllib.request.urlopen(url, timeout=10, context=context).read().decode()
    buckets = []
    for line in text.splitlines():
        if line.startswith("fanwire_server_loop_turn_seconds_bucket"):
            bound, count = line.split('le="')[1].split('"} ')
            buckets.append((float(bound) * 1000, float(count)))
    total = buckets[-1][1]
    at_least = lambda part: next(bound for bound, count in buckets if count >= part * total)
    return {"longest": at_least(1), "p99": at_least(0.99)}


def run(peer, settings, options, tls, folder):
    """Measures once, and returns the load's line, or None."""
    server, port = start(peer, settings, tls, folder)
    try:
        scaled = [str(int(option * PART)) if before == "-n" else str(option)
                  for before, option in zip(["", *options], options)]
        command = ["taskset", "-c", "1", STORM, *scaled, "--pid", str(server.pid), "--to", f"127.0.0.1:{port}"]
        command += ["--ca", f"{folder}/ca.pem"] if tls else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        result = json.loads(done.stdout)
        if peer == "fanwire":
            result["turns_ms"] = turns(port, tls)
        return result
    except (subprocess.TimeoutExpired, OSError, ValueError) as error:
        print(f"# {peer}: {error}", file=sys.stderr)
        return None
    finally:
        server.kill()
        server.wait()


def median(results, *path):
    values = []
    for result in results:
        for key in path:
            result = result[key]
        values.append(result)
    return statistics.median(values)


def ratio(results, others, *path):
    """Returns the median of the ratios of each round, as a cell."""
    def value(result):
        for key in path:
            result = result[key]
        return result
    pairs = [value(a) / value(b) for a, b in zip(results, others) if a and b and value(b) > 0]
    return f"{statistics.median(pairs):.2f}" if pairs else "-"


def report(found):
    print("\n| storm | server | CPU a client, us | of Bun | others' p99 before, ms | in it | after it | its seconds | rounds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, peers, _, options, _ in ROWS:
        if options[0] != "storm":
            continue
        for peer in peers:
            all_rounds = found[name, peer]
            results = [result for result in all_rounds if result]
            if not results:
                continue
            beside = ratio(all_rounds, found[name, "Bun"], "cpu_us_per_client") if "Bun" in peers else "-"
            print(f"| {name}: {options[2]:,} beside {options[4]:,} | {peer} | {median(results, 'cpu_us_per_client'):.1f} | "
                  f"{beside if peer != 'Bun' else '-'} | {median(results, 'calm', 'p99_ms'):.1f} | {median(results, 'stormy', 'p99_ms'):.1f} | "
                  f"{median(results, 'after', 'p99_ms'):.1f} | {median(results, 'newcomers', 'seconds'):.2f} | {len(results)} |")
    print("\n| heartbeats of 10,000 idle clients, one a second | CPU, ms a second | us a ping | of the loop | rounds |\n|---|---|---|---|---|")
    for peer in ["fanwire", "bare loop"]:
        all_rounds = found["heartbeats", peer]
        results = [result for result in all_rounds if result]
        if results:
            beside = ratio(all_rounds, found["heartbeats", "bare loop"], "cpu_us_per_ping")
            print(f"| {peer} | {median(results, 'cpu_ms_per_second'):.1f} | {median(results, 'cpu_us_per_ping'):.2f} | "
                  f"{beside if peer == 'fanwire' else '-'} | {len(results)} |")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = {(name, peer): [] for name, peers, *_ in ROWS for peer in peers}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([FANWIRE, "dev-cert", "--dir", folder], check=True, stdout=subprocess.DEVNULL)
        for _ in range(rounds):
            for name, peers, settings, options, tls in ROWS:
                for peer in peers:
                    if time.monotonic() - BEGUN > SECONDS:
                        found[name, peer].append(None)
                        continue
                    result = run(peer, settings, options, tls, folder)
                    print(f"# {name}: {peer}: {json.dumps(result)}", file=sys.stderr)
                    found[name, peer].append(result)
    report(found)


main()
