// Node with ws, broadcasting as its documentation does; event streams as plain responses.
import { createServer } from "node:http";
import WebSocket, { WebSocketServer } from "ws";

const streams = new Set();
const server = createServer((request, response) => {
  if (request.url === "/sse") {
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    response.flushHeaders();
    response.socket.setNoDelay(true);
    streams.add(response);
    response.on("close", () => streams.delete(response));
    return;
  }
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    for (const line of Buffer.concat(parts).toString().split("\n")) {
      for (const client of sockets.clients) {
        if (client.readyState === WebSocket.OPEN) client.send(line);
      }
      for (const stream of streams) stream.write(`data: ${line}\n\n`);
    }
    response.end("ok");
  });
});
server.keepAliveTimeout = 0;
const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: false });
server.listen(Number(process.argv[2]), "127.0.0.1", 4096);
