// Runs in Redis Streams: a POST adds events by XADD; a GET reads a run by XRANGE, and follows it by XREAD until it ends.
// `node runs.js PORT REDIS_URL`
import { createServer } from "node:http";
import Redis from "ioredis";

const [, , port, url] = process.argv;
const redis = new Redis(url);

async function publish(request, response) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const batch = redis.pipeline();
  for (const line of Buffer.concat(parts).toString().split("\n")) {
    if (line) batch.xadd(JSON.parse(line).stream_id, "*", "event", line);
  }
  const added = await batch.exec();
  response.end(JSON.stringify({ accepted: added.length }));
}

async function follow(stream, request, response) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache", Connection: "close" });
  response.flushHeaders();
  response.socket.setNoDelay(true);
  let last = "0";
  // Writes entries as one piece. Returns whether one of them ends the run.
  const write = (entries) => {
    let text = "";
    let isOver = false;
    for (const [id, [, line]] of entries) {
      const { type } = JSON.parse(line);
      text += `event: ${type}\ndata: ${line}\nid: ${id}\n\n`;
      isOver ||= type === "run.finished";
      last = id;
    }
    if (text) response.write(text);
    return isOver;
  };
  if (write(await redis.xrange(stream, "-", "+"))) return response.end();
  const own = redis.duplicate();
  request.on("close", () => own.disconnect());
  for (;;) {
    const [[, entries]] = await own.xread("BLOCK", 0, "STREAMS", stream, last);
    if (write(entries)) break;
  }
  own.disconnect();
  response.end();
}

createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  const done =
    pathname === "/publish" ? publish(request, response) : follow(searchParams.get("stream"), request, response);
  done.catch(() => response.destroy());
}).listen(Number(port), "127.0.0.1", 4096);
