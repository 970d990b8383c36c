"""Cost of TLS for a connection: `cargo build`, then `python3 benches/tls.py plain|tls COUNT`. Needs openssl."""
import base64
import os
import re
import socket
import ssl
import subprocess
import sys

kind, count = sys.argv[1], int(sys.argv[2])
folder = "target/tls-bench"
cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
if not os.path.exists(cert):
    os.makedirs(folder, exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, stderr=subprocess.DEVNULL)
command = ["target/debug/fanwire", "serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]
if kind == "tls":
    command += ["--tls-cert-file", cert, "--tls-key-file", key]
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
port = int(server.stdout.readline().strip().rsplit(":", 1)[1])
context = ssl.create_default_context(cafile=cert)


def resident_kib():
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.pid}/status").read()).group(1))


def cpu_ms():
    fields = open(f"/proc/{server.pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def client():
    sock = socket.create_connection(("127.0.0.1", port))
    if kind == "tls":
        sock = context.wrap_socket(sock, server_hostname="localhost")
    nonce = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096)
    subscribe = b'{"type":"subscribe","payload":{}}'
    sock.sendall(bytes([0x81, 0x80 | len(subscribe), 0, 0, 0, 0]) + subscribe)
    sock.recv(4096)
    return sock


try:
    clients = [client() for _ in range(50)]
    memory, cpu = resident_kib(), cpu_ms()
    clients += [client() for _ in range(count)]
    print(f"{kind}: {(resident_kib() - memory) / count:.1f} KiB and {(cpu_ms() - cpu) / count:.2f} ms CPU a connection")
finally:
    server.kill()
