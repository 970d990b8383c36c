// Faults of servers, proxies, clocks and callers, each simulated for the client.
import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { WebSocketServer } from 'ws';
import { Fanwire, isGap } from '../dist/index.js';
import { Proxy, Server, listening, numbered, quick, sleep, take, until } from './support.mjs';

/** An HTTP server. Returns its URL and the time of each request. */
async function serve(t, answer) {
  const times = [];
  const server = http.createServer((request, response) => (times.push(performance.now()), answer(request, response, times.length)));
  const url = await listening(server);
  t.after(() => (server.closeAllConnections(), server.close()));
  return { url, times };
}

function client(t, url, options) {
  const made = new Fanwire(url, { ...quick, ...options });
  const errors = [];
  made.onError((error) => errors.push(error));
  t.after(() => made.close());
  return [made, errors];
}

const stream = (response, text) => response.writeHead(200, { 'content-type': 'text/event-stream' }).write(text);

for (const [name, header, most] of [
  ['a date', () => new Date(Date.now() + 60_000).toUTCString(), 1],
  ['more than a timer takes', () => '3000000', 1],
  ['a date that is past', () => new Date(0).toUTCString(), 12],
  ['a word', () => 'soon', 12],
  ['a negative number', () => '-5', 12],
  ['a fraction', () => '0.5', 12],
]) {
  test(`Retry-After as ${name} makes no storm`, async (t) => {
    const { url, times } = await serve(t, (_, response) => response.writeHead(503, { 'retry-after': header() }).end('{}'));
    t.mock.method(Math, 'random', () => 1);
    client(t, url, { transports: ['sse'], backoff: { base: 50, max: 50 } })[0].subscribe();
    await until('an attempt', () => times.length > 0);
    const start = performance.now();
    await sleep(500);
    // On a busy machine the sleep takes longer, and there are as many more attempts.
    const took = performance.now() - start;
    const allowed = most === 1 ? 1 : (most * Math.max(took, 500)) / 500;
    assert(times.length <= allowed, `${times.length} attempts in ${took} ms`);
  });
}

test('a request made during a wait waits too: backoff holds, and so does the slot that the server gave', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  t.after(() => server.close());
  const connected = [];
  let told;
  server.on('connection', (socket) => {
    connected.push(performance.now());
    socket.on('message', (data) => {
      const { type, message_id } = JSON.parse(data);
      if (type === 'ping') return;
      socket.send(JSON.stringify({ type: 'ack', payload: { event_id: 'e-1' }, correlation_id: message_id }));
      if (connected.length > 1) return;
      told ??= performance.now();
      socket.send(JSON.stringify({ type: 'reconnect', payload: { delay_ms: 400 } }));
      socket.close(1012);
    });
  });
  const [mine] = client(t, `http://127.0.0.1:${server.address().port}`, { transports: ['ws'] });
  mine.subscribe();
  await until('the wait', () => mine.status === 'waiting');
  const published = mine.publish({ type: 'x' });
  mine.request('server_info').catch(() => {});
  mine.subscribe('y');
  assert.equal(mine.status, 'waiting');
  assert.equal(await published, 'e-1');
  assert.equal(connected.length, 2);
  // A timer may fire a millisecond early.
  assert(connected[1] - told > 395, 'the slot was held');
});

test('if the server is late, the client uses the fallback, and later the WebSocket again', async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const proxy = await Proxy.to(server);
  t.after(() => proxy.close());
  proxy.blocks = 'Upgrade: websocket';
  const [mine, errors] = client(t, proxy.url);
  const loop = mine.subscribe('test.*');
  await loop.ready;
  await assert.rejects(mine.request('server_info'), { code: 'no_transport' });
  await server.publish([numbered(1)]);
  assert.equal((await take(loop, 1))[0].payload.n, 1);
  const statuses = [];
  mine.onStatus((status) => statuses.push(status));
  proxy.blocks = null;
  await until('a WebSocket', () => mine.request('server_info').then(() => true, () => false));
  assert.deepEqual(statuses, ['waiting', 'connecting', 'open']);
  await server.publish([numbered(2)]);
  const [next] = await take(loop, 1);
  assert(!isGap(next));
  assert.equal(next.payload.n, 2);
  assert.deepEqual(errors.map(({ code }) => code).filter((code) => !['disconnected', 'no_transport'].includes(code)), []);
});

test('a token function that fails or never answers does not make the client give up the WebSocket', async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  let asked = 0;
  const token = () => ((asked += 1) === 1 ? Promise.reject(new Error('offline')) : asked === 2 ? new Promise(() => {}) : 'any');
  const [mine, errors] = client(t, server.url, { token, heartbeat: { interval: 25_000, timeout: 2_000 } });
  await mine.subscribe().ready;
  // On a busy machine the server may be late, which is not tested here.
  assert.deepEqual(errors.map(({ code }) => code).filter((code) => !['timeout', 'disconnected'].includes(code)), ['token', 'token']);
  assert(await mine.request('server_info'), 'it is a WebSocket');
});

test('event: closed is the end of a token, not a gap', async (t) => {
  const { url, times } = await serve(t, (_, response, nth) => {
    if (nth > 1) return stream(response, 'data: {"event_id":"a-1","event_type":"x","payload":{}}\n\n');
    stream(response, 'event: closed\ndata: {"code":"token_expired","error":"Token expired"}\n\n');
    response.end();
  });
  const [fixed, said] = client(t, url, { transports: ['sse'], token: 'fixed' });
  const gaps = [];
  fixed.onGap((gap) => gaps.push(gap));
  await assert.rejects(fixed.subscribe().next(), { code: 'unauthorized', message: 'Token expired' });
  assert.deepEqual([gaps.length, said.length, fixed.status, times.length], [0, 1, 'closed', 1]);
  const [fresh] = client(t, url, { transports: ['sse'], token: () => 'fresh' });
  assert.equal((await take(fresh.subscribe(), 1))[0].event_type, 'x');
});

test('an unknown event name and data that is no JSON are ignored', async (t) => {
  const { url } = await serve(t, (_, response) =>
    stream(response, 'event: news\ndata: {"a":1}\n\ndata: no json\n\nevent: x\ndata: {"event_id":"a-1","event_type":"x","payload":{}}\n\n'));
  const [mine, errors] = client(t, url, { transports: ['sse'] });
  assert.equal((await take(mine.subscribe(), 1))[0].event_type, 'x');
  assert.deepEqual(errors.map(({ code }) => code), ['protocol']);
});

test('a page with status 200 is not a stream; 204 ends a subscription for good', async (t) => {
  const page = await serve(t, (_, response) => response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<h1>Sign in</h1>'));
  const [lost, errors] = client(t, page.url, { transports: ['sse'], attempts: 3 });
  await assert.rejects(lost.subscribe().next(), { code: 'gave_up' });
  assert.deepEqual(errors.map(({ code }) => code), ['protocol', 'protocol', 'protocol']);
  const empty = await serve(t, (_, response) => response.writeHead(204).end());
  const [done] = client(t, empty.url, { transports: ['sse'] });
  assert.equal((await done.subscribe().next()).done, true);
  await sleep(100);
  assert.equal(empty.times.length, 1);
});

test('a signal keeps no listener of an ended subscription', async (t) => {
  const server = await Server.start();
  t.after(() => server.stop());
  const [mine] = client(t, server.url);
  const { signal } = new AbortController();
  const loop = mine.subscribe('x', { signal });
  for (let n = 0; n < 100; n += 1) await mine.publish(numbered(n), { signal });
  assert.equal(getEventListeners(signal, 'abort').length, 1);
  loop.close();
  await sleep(0);
  assert.equal(getEventListeners(signal, 'abort').length, 0);
});

test('a clock that is set back does not hide silence', async (t) => {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  t.after(() => server.close());
  let mute = false;
  server.on('connection', (socket) => socket.on('message', (data) => {
    const { type, message_id } = JSON.parse(data);
    if (!mute) socket.send(JSON.stringify({ type: type === 'ping' ? 'pong' : 'ack', payload: {}, correlation_id: message_id }));
  }));
  const [mine, errors] = client(t, `http://127.0.0.1:${server.address().port}`, { transports: ['ws'], heartbeat: { interval: 50, timeout: 80 } });
  await mine.subscribe().ready;
  const real = Date.now;
  t.mock.method(Date, 'now', () => real() - 3_600_000);
  mute = true;
  await until('the silence is noticed', () => errors.some(({ code }) => code === 'timeout'));
});
