// Reconnect instructions of the server, and their absence, with a server that the test simulates.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { WebSocketServer } from 'ws';
import { Fanwire } from '../dist/index.js';
import { listening, quick, take, until } from './support.mjs';

/** A simulated server: it answers subscribes and pings, and passes everything else to the test. */
async function play(t, heard = () => {}) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}`;
  const connected = [];
  server.on('connection', (socket) => {
    connected.push(Date.now());
    const reply = (type, payload, to) => socket.send(JSON.stringify({ type, payload, correlation_id: to?.message_id ?? null }));
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (heard(message, reply, socket)) return;
      if (message.type === 'subscribe') reply('ack', { subscription_id: message.payload.subscription_id }, message);
      if (message.type === 'ping') reply('pong', {}, message);
    });
  });
  t.after(() => {
    for (const socket of server.clients) socket.terminate();
    server.close();
  });
  const client = (options) => {
    const made = new Fanwire(url, { ...quick, transports: ['ws'], ...options });
    t.after(() => made.close());
    return made;
  };
  return { server, url, connected, client };
}

/** Records the waits that a client requests, without their random part, and shortens them. */
function waits(t, random) {
  const asked = [];
  const real = globalThis.setTimeout;
  t.mock.method(Math, 'random', () => random);
  t.mock.method(globalThis, 'setTimeout', (run, time, ...more) => {
    // Longer ones are heartbeats, and those of the WebSocket library.
    if (time < 30_000) asked.push(time);
    return real(run, time < 30_000 ? Math.min(time, 20) : time, ...more);
  });
  return asked;
}

for (const [name, end, want] of [
  ['a reconnect message names the slot of this client, to which nothing is added', (socket, reply) => (reply('reconnect', { delay_ms: 1_234 }), socket.close(1012)), 1_234],
  ['1012 with a retry in its reason: that wait, plus jitter', (socket) => socket.close(1012, 'restarting, retry=700'), 700 + 4],
  ['1013 likewise', (socket) => socket.close(1013, 'too busy; retry: 900 ms'), 900 + 4],
  ['without a hint the wait is jitter alone', (socket) => socket.close(1001, 'server is shutting down'), 4],
]) {
  test(name, async (t) => {
    const { server, connected, client } = await play(t);
    const mine = client({ backoff: { base: 8, max: 8 }, heartbeat: { interval: 60_001, timeout: 60_002 } });
    const loop = mine.subscribe();
    await loop.ready;
    const asked = waits(t, 0.5);
    for (const socket of server.clients) end(socket, (type, payload) => socket.send(JSON.stringify({ type, payload })));
    await until('another connection', () => connected.length === 2);
    assert.deepEqual(asked.filter((time) => time !== 5), [want]);
  });
}

test('waits double up to the most, each with full jitter', async (t) => {
  const asked = waits(t, 0.5);
  const client = new Fanwire('http://127.0.0.1:9', { ...quick, transports: ['ws'], backoff: { base: 100, max: 1_000 }, attempts: 7, heartbeat: { timeout: 60_002 } });
  await assert.rejects(client.subscribe().next(), { code: 'gave_up' });
  assert.deepEqual(asked, [50, 100, 200, 400, 500, 500]);
});

test('silence causes a ping, and silence after that is a loss', async (t) => {
  let mute = false;
  const pings = [];
  const { connected, client } = await play(t, (message) => (message.type === 'ping' && pings.push(Date.now()), mute));
  const mine = client({ heartbeat: { interval: 30, timeout: 2_000 } });
  const errors = [];
  mine.onError((error) => errors.push(error.code));
  await mine.subscribe().ready;
  await until('pings', () => pings.length > 3);
  assert.equal(connected.length, 1, 'answered pings keep it');
  mute = true;
  await until('another connection', () => connected.length > 1);
  assert.equal(errors[0], 'timeout');
});

test('a socket that opens and then stays silent is given up', async (t) => {
  const { connected, client } = await play(t, () => true);
  client({ heartbeat: { timeout: 50 } }).subscribe();
  await until('another connection', () => connected.length > 1);
});

test('a token is requested before each connection, sent first, and replaced before it expires', async (t) => {
  const tokens = [];
  const order = [];
  const { server, connected, client } = await play(t, (message, reply) => {
    order.push(message.type);
    if (message.type !== 'auth') return false;
    tokens.push(message.payload.token);
    reply('ack', {}, message);
    return true;
  });
  let number = 0;
  const jwt = (life) => {
    const claims = { exp: (Date.now() + life) / 1000, n: (number += 1) };
    return `x.${Buffer.from(JSON.stringify(claims)).toString('base64url')}.x`;
  };
  const given = [];
  const mine = client({ token: async () => (given.push(jwt(given.length < 2 ? 3_600_000 : 200)), given.at(-1)) });
  await mine.subscribe().ready;
  assert.deepEqual(order.slice(0, 3), ['auth', 'request', 'subscribe']);
  for (const socket of server.clients) socket.terminate();
  await until('another connection', () => tokens.length === 2);
  for (const socket of server.clients) socket.terminate();
  // From here on they live for a fifth of a second.
  await until('new tokens on the same connection', () => tokens.length >= 5);
  assert.equal(connected.length, 3);
  assert.deepEqual(tokens, given.slice(0, tokens.length));
});

test('a refused token ends the client, unless a function can replace it', async (t) => {
  const { client } = await play(t, (message, reply) => {
    if (message.type !== 'auth' || message.payload.token === 'good') return false;
    reply('error', { error: 'token expired', code: 'auth_failed' }, message);
    return true;
  });
  await assert.rejects(client({ token: 'bad' }).subscribe().next(), { code: 'unauthorized', message: 'token expired' });
  const tokens = ['bad', 'worse', 'good'];
  const asked = [];
  const provider = () => (asked.push(tokens[0]), tokens.length > 1 ? tokens.shift() : tokens[0]);
  let thrown = false;
  const mine = client({ token: () => (thrown ? provider() : ((thrown = true), Promise.reject(new Error('offline')))) });
  const errors = [];
  mine.onError((error) => errors.push(error.code));
  mine.subscribe();
  await until('the good one', () => asked.includes('good'));
  assert.deepEqual(errors, ['token', 'unauthorized', 'unauthorized']);
});

test('by SSE the token is a header, 401 and Retry-After are understood', async (t) => {
  const seen = [];
  const answers = [[401, {}], [503, { 'retry-after': '3' }], [200, { 'content-type': 'text/event-stream' }]];
  const server = http.createServer((request, answer) => {
    seen.push(request.headers.authorization);
    const [status, headers] = answers.length > 1 ? answers.shift() : answers[0];
    answer.writeHead(status, headers);
    if (status === 200) answer.write('data: {"event_id":"a-1","event_type":"x","payload":{}}\r\n\r\n');
    else answer.end('{"error":"no"}');
  });
  const url = await listening(server);
  t.after(() => (server.closeAllConnections(), server.close()));
  const asked = waits(t, 0);
  let number = 0;
  const client = new Fanwire(url, { transports: ['sse'], token: () => `t${(number += 1)}`, heartbeat: { interval: 60_000, timeout: 60_002 } });
  t.after(() => client.close());
  assert.equal((await take(client.subscribe(), 1))[0].event_type, 'x');
  assert.deepEqual(seen, ['Bearer t1', 'Bearer t2', 'Bearer t3']);
  // Other parts of this process set timers too.
  assert(asked.includes(3_000), String(asked));
});

test('an invalid message and an unrequested error are reported and end nothing', async (t) => {
  const { server, client, connected } = await play(t);
  const mine = client();
  const errors = [];
  mine.onError((error) => errors.push(error.code));
  const loop = mine.subscribe();
  await loop.ready;
  for (const socket of server.clients) {
    socket.send('no json');
    socket.send('{"type":"error","payload":{"error":"mind the gap","code":"odd"},"correlation_id":null}');
    socket.send('{"type":"news","payload":null}');
    socket.send('{"type":"event","payload":{"event_id":"a-1","event_type":"x","payload":{}}}');
  }
  assert.equal((await take(loop, 1))[0].event_id, 'a-1');
  assert.deepEqual(errors, ['protocol', 'odd']);
  assert.equal(connected.length, 1);
});
