// Bun's own publish and subscribe (uWebSockets inside): every line published goes to all clients, or to those of its topic.
//
// /ws is for clients that get everything, /ws?keys=1,2 for those of topics. Lines come by POST to /publish, or as messages
// of a WebSocket at /publish: `{…}` for all clients, `7 {…}` for those of topic 7. `bun bun.js PORT [CERT KEY]`: with TLS if
// both files are given.
const [, , port, cert, key] = process.argv;

function publish(line) {
  if (line.charCodeAt(0) === 123) {
    server.publish("bench", line);
    return;
  }
  const at = line.indexOf(" ");
  server.publish(line.slice(0, at), line.slice(at + 1));
}

const server = Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  idleTimeout: 0,
  tls: cert ? { cert: Bun.file(cert), key: Bun.file(key) } : undefined,
  async fetch(request, server) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname === "/ws") {
      const topics = searchParams.get("keys")?.split(",") ?? ["bench"];
      return server.upgrade(request, { data: topics }) ? undefined : new Response("upgrade", { status: 400 });
    }
    if (pathname === "/publish") {
      if (request.method === "GET") {
        return server.upgrade(request, { data: null }) ? undefined : new Response("upgrade", { status: 400 });
      }
      for (const line of (await request.text()).split("\n")) publish(line);
      return new Response("ok");
    }
    return new Response("", { status: 404 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open(socket) {
      for (const topic of socket.data ?? []) socket.subscribe(topic);
      // Bun keeps the list itself.
      socket.data = null;
    },
    message(_socket, message) {
      publish(message);
    },
  },
});
console.log(`listening on ${server.port}`);
