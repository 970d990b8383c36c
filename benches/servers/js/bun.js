// Bun's own publish and subscribe (uWebSockets inside): every line posted to /publish goes to all clients.
const [, , port] = process.argv;
const server = Bun.serve({
  port: Number(port),
  hostname: "127.0.0.1",
  idleTimeout: 0,
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
      socket.subscribe("bench");
    },
    message() {},
  },
});
console.log(`listening on ${server.port}`);
