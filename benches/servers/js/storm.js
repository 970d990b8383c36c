// Bun's publish and subscribe (uWebSockets inside), for storms: a client is subscribed by its first message, which is answered. One
// that names the channel "apart" is subscribed to a topic without events.
// `bun storm.js PORT [CERT KEY]`: with TLS if both files are given. With SUBSCRIBE=open a client is subscribed by its upgrade, as
// `fanwire bench --speak plain` expects.
const [, , port, cert, key] = process.argv;
const server = Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  idleTimeout: 0,
  tls: cert ? { cert: Bun.file(cert), key: Bun.file(key) } : undefined,
  async fetch(request, server) {
    const { pathname } = new URL(request.url);
    if (pathname === "/ws") {
      return server.upgrade(request) ? undefined : new Response("upgrade", { status: 400 });
    }
    if (pathname === "/publish") {
      for (const line of (await request.text()).split("\n")) server.publish("bench", line);
      return new Response("ok");
    }
    return new Response("", { status: 404 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open(socket) {
      if (process.env.SUBSCRIBE === "open") socket.subscribe("bench");
    },
    message(socket, text) {
      socket.subscribe(text.includes("apart") ? "apart" : "bench");
      socket.send('{"type":"ack"}');
    },
  },
});
console.log(`listening on ${server.port}`);
