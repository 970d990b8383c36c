// A server, a failing network between it and a client, and helpers of the tests.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';

export const here = (path) => fileURLToPath(new URL(path, import.meta.url));
export const BINARY = process.env.FANWIRE_BIN ?? here('../../../target/debug/fanwire');
export const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

/** Makes a server listen on a free port of loopback. Returns its URL. */
export async function listening(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

/** Waits until a condition holds. */
export async function until(what, is) {
  const end = Date.now() + 20_000;
  for (;;) {
    const value = await is();
    if (value) return value;
    assert(Date.now() < end, `timed out waiting for ${what}`);
    await sleep(5);
  }
}

export class Server {
  static async start(...options) {
    const server = new Server();
    server.options = options;
    await server.#run('127.0.0.1:0');
    return server;
  }

  async #run(listen) {
    // Only the test sets its options.
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(FANWIRE_|RUST_LOG$)/.test(name)));
    this.child = spawn(BINARY, ['serve', '--listen', listen, ...this.options], { stdio: ['ignore', 'pipe', 'inherit'], env });
    const lines = createInterface({ input: this.child.stdout });
    const [line] = await once(lines, 'line');
    this.url = line.replace('listening on ', '');
    assert.match(this.url, /^http:/, line);
    this.port = Number(new URL(this.url).port);
  }

  async publish(events) {
    const answer = await fetch(`${this.url}/publish`, { method: 'POST', body: JSON.stringify(events) });
    assert.equal(answer.status, 200);
    return (await answer.json()).last_event_id;
  }

  /** Returns the value of a metric; 0 if it is not there. */
  async metric(name) {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)?.[1] ?? 0);
  }

  async stop() {
    if (this.child.exitCode !== null) return;
    const exit = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    await exit;
  }

  /** Starts a new server at the same address. */
  async restart() {
    await this.stop();
    await this.#run(`127.0.0.1:${this.port}`);
  }
}

/** Passes bytes on, in pieces, until it cuts. */
export class Proxy {
  open = new Set();
  /** Whether no connection gets through. */
  down = false;
  /** Requests with this in their first bytes get no answer. */
  blocks = null;
  /** Whether nothing comes back from the server. */
  swallows = false;

  static async to(server) {
    const proxy = new Proxy();
    proxy.listener = net.createServer((client) => proxy.#take(client, server.port));
    proxy.url = await listening(proxy.listener);
    return proxy;
  }

  #take(client, port) {
    if (this.down) return client.destroy();
    const server = net.connect(port, '127.0.0.1');
    const pair = { client, server };
    this.open.add(pair);
    const end = () => (this.open.delete(pair), client.destroy(), server.destroy());
    for (const socket of [client, server]) socket.on('error', end).on('close', end);
    client.on('data', (bytes) => {
      if (this.blocks && bytes.includes(this.blocks)) return end();
      server.write(bytes);
    });
    server.on('data', (bytes) => {
      if (this.swallows) return;
      // A cut leaves any part of a frame.
      if (pair.allowance !== undefined && (pair.allowance -= bytes.length) < 0) {
        client.write(bytes.subarray(0, Math.max(0, pair.allowance + bytes.length)), end);
      } else client.write(bytes);
    });
  }

  /** Cuts all open connections: at once, or after this many more bytes for the client. */
  cut(after = 0) {
    for (const pair of this.open) {
      if (after > 0) pair.allowance = after;
      else pair.client.destroy();
    }
  }

  /** Reads nothing more from the server, so that the clients of the open connections fall behind, or continues to read. */
  hold(holds) {
    for (const { server } of this.open) holds ? server.pause() : server.resume();
  }

  async close() {
    this.listener.close();
    this.cut();
  }
}

/**
 * Cuts again and again, at places from a seed, until it is stopped. Before a cut it usually waits until `passed()` has
 * changed: otherwise nothing would get through on a busy machine.
 */
export function unrest(proxy, seed, passed, most = 4_000) {
  let state = seed;
  const random = () => ((state = (state * 1_103_515_245 + 12_345) % 2 ** 31), state / 2 ** 31);
  let cuts = 0;
  let over = false;
  const done = (async () => {
    while (!over) {
      const before = passed();
      await sleep(10 + random() * 50);
      while (!over && passed() === before && random() < 0.99) await sleep(5);
      if (over) break;
      proxy.cut(random() < 0.5 ? 0 : 1 + Math.floor(random() * most));
      cuts += 1;
    }
  })();
  return async () => ((over = true), await done, cuts);
}

/** Options for tests: Node's WebSocket, and no long waits. */
export const quick = { WebSocket, backoff: { base: 5, max: 40 }, fetch: impatient };

/** A fetch of streams with a short retry time: the server's `retry` is in seconds. */
async function impatient(...args) {
  const answer = await fetch(...args);
  if (!answer.headers.get('content-type')?.startsWith('text/event-stream')) return answer;
  const hurried = new TransformStream({
    transform: (bytes, out) => out.enqueue(Buffer.from(Buffer.from(bytes).toString('latin1').replace(/^retry: \d+$/m, 'retry: 20'), 'latin1')),
  });
  return new Response(answer.body.pipeThrough(hurried), answer);
}

/**
 * Publishes tokens of a run, 100 at a time, until the server continues from its log for a client that fell behind. The kernel's
 * buffers decide how many that takes. Returns their texts, which are random, so that compression does not shorten them.
 */
export async function overtake(server, stream_id) {
  const texts = [];
  while (!(await server.metric('fanwire_server_catch_ups_total'))) {
    assert(texts.length < 50_000, 'no client falls behind');
    const more = Array.from({ length: 100 }, (_, n) => `${texts.length + n} ${randomBytes(1_500).toString('base64')};`);
    await server.publish(more.map((delta) => ({ type: 'token', stream_id, payload: { delta } })));
    texts.push(...more);
  }
  return texts;
}

/** Takes this many items of a loop. */
export async function take(subscription, count) {
  const items = [];
  while (items.length < count) {
    const { value, done } = await subscription.next();
    if (done) break;
    items.push(value);
  }
  return items;
}

export const numbered = (n, more = {}) => ({ type: 'test.numbered', payload: { n }, ...more });
