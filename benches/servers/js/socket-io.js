// Socket.IO with its default engine, ws: clients join a room for each topic, and a publisher emits to rooms.
import { createServer } from "node:http";
import { Server } from "socket.io";

const server = createServer();
const io = new Server(server, {
  transports: ["websocket"],
  perMessageDeflate: false,
  // The load does not answer pings.
  pingInterval: 3_600_000,
});
io.on("connection", (socket) => {
  socket.on("watch", (topics, done) => {
    for (const topic of topics) socket.join(String(topic));
    done();
  });
  socket.on("publish", (topic, payload) => io.to(topic).emit("event", payload));
});
server.listen(Number(process.argv[2]), "127.0.0.1", 4096);
