// Runs and pages of the past, with a server that plays `cases/runs.json`, and with the real one.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { isGap } from '../dist/index.js';
import { Fanwire } from '../dist/runs.js';
import { Proxy, Server, here, listening, overtake, quick, sleep, unrest, until } from './support.mjs';

/** Connections with another subscription. */
const others = new WeakSet();
const cases = JSON.parse(readFileSync(here('../../cases/runs.json'), 'utf8'));
const number = (place) => +place.split('-')[1];

/** A server with one kept run, or with pages. */
class Kept {
  connections = 0;

  constructor(t, { log = [], live = [], gone = 0, cuts = [], apart, able = true, total, fails = [], merge, lacks = [], own, alone }) {
    Object.assign(this, { log: [...log], live: [...live], gone, cuts: [...cuts], apart, total, fails: [...fails], merge, own, alone });
    const all = ['history_end', 'own_past', 'catch_up', 'concat', ...(able ? ['from_start'] : [])];
    this.info = { name: 'fanwire', capabilities: all.filter((one) => !lacks.includes(one)) };
    this.http = http.createServer((request, response) => this.#request(request, response));
    this.ws = new WebSocketServer({ server: this.http });
    this.ws.on('connection', (socket) => this.#socket(socket));
    t.after(() => (this.http.closeAllConnections(), this.http.close(), this.ws.clients.forEach((one) => one.terminate())));
  }

  async listen() {
    this.url = await listening(this.http);
    return this;
  }

  event = (n) => ({ event_id: `a-${n}`, event_type: this.log[n - 1], correlation_id: null, stream_id: 'run-1', payload: this.merge ? { delta: `${n};` } : n });

  /** Returns the number of the last event that is merged with the one after this place, and that event. */
  #merged(from) {
    const type = this.log[from];
    let n = from + 1;
    while (this.log[n] === type) n += 1;
    const delta = Array.from({ length: n - from }, (_, more) => `${from + 1 + more};`).join('');
    return [n, { ...this.event(n), payload: { delta }, ...(n - from > 1 && { merged: n - from }) }];
  }

  /** Checks that a request has the options of its case. */
  #check(asked) {
    for (const [name, value] of Object.entries(this.merge ?? {})) assert.equal(asked[name], value);
  }

  /** Sends the run from a place on, up to the cut of this connection. Returns whether it was not cut. */
  async #play(since, { event, gap, past, end, cut }) {
    let left = this.cuts.shift() ?? Infinity;
    const from = since === undefined ? this.gone : number(since);
    if (left === 0) return cut();
    if (since === undefined && this.gone) gap({ missed: this.gone, from: null, to: `a-${this.gone}`, recoverable: false });
    const say = async (n, what = this.event(n)) => {
      event(what);
      left -= 1;
      // The events that were written must arrive.
      if (left === 0 || this.apart) await sleep(5);
      return left > 0;
    };
    let n = from;
    let count = 0;
    while (n < this.log.length) {
      let what;
      [n, what] = this.merge?.compact ? this.#merged(n) : [n + 1];
      count += 1;
      if (!(await say(n, what))) return cut();
    }
    past({ events: count, complete: since !== undefined || !this.gone });
    while (this.live.length) {
      this.log.push(this.live.shift());
      if (!(await say((n += 1)))) return cut();
    }
    if (this.log.at(-1) === 'run.finished') end({ by: 'stream', value: 'run-1', last_event_id: `a-${n}`, complete: !this.gone });
  }

  #socket(socket) {
    this.connections += 1;
    const say = (type, payload, correlation_id = null) => socket.readyState === 1 && socket.send(JSON.stringify({ type, payload, correlation_id }));
    socket.on('error', () => {});
    // One message after the other: a past is whole before the next one is read.
    let busy = Promise.resolve();
    socket.on('message', (data) => (busy = busy.then(() => hear(data))));
    const hear = async (data) => {
      const { type, payload, message_id } = JSON.parse(data);
      if (type === 'request') return say('response', this.info, message_id);
      if (type === 'ping') return say('pong', { last_event_id: `a-${this.log.length}` }, message_id);
      if (type !== 'subscribe') return say('ack', {}, message_id);
      // The other subscription of a case.
      if (payload.event_types) {
        others.add(socket);
        return say('ack', {}, message_id);
      }
      this.#check(payload);
      // A merged event is for no other subscription.
      if (this.alone) assert(!others.has(socket));
      if (this.own) assert(payload.own_past);
      assert.deepEqual(payload.stream_ids, ['run-1']);
      assert(payload.since !== undefined || payload.from === 'start');
      if (payload.absent && !this.log.length) return say('error', { code: 'no_such_log', error: 'nothing there' }, message_id);
      const { subscription_id } = payload;
      say('ack', { subscription_id, last_event_id: `a-${this.log.length}` }, message_id);
      await this.#play(payload.since, {
        event: (event) => say('event', event),
        gap: (gap) => say('gap', gap),
        past: (past) => say('history_end', { subscription_id, ...past }),
        end: (end) => say('end', { subscription_id, ...end, over: true }),
        cut: () => socket._socket.destroy(),
      });
    };
  }

  #request(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    if (pathname === '/events') return this.#page(searchParams, response);
    if (pathname === '/api/server_info') return response.end(JSON.stringify(this.info));
    this.connections += 1;
    if (searchParams.get('type')) return void response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    this.#check(Object.fromEntries(searchParams));
    assert.equal(searchParams.get('stream'), 'run-1');
    assert(searchParams.get('from') === 'start' || searchParams.get('last_event_id'));
    const since = searchParams.get('last_event_id') ?? undefined;
    const isOver = this.log.at(-1) === 'run.finished' && since === `a-${this.log.length}`;
    if (isOver || (searchParams.get('absent') === '204' && !this.log.length)) return response.writeHead(204).end();
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    const block = (name, data, id) => response.write(`${name ? `event: ${name}\n` : ''}data: ${JSON.stringify(data)}\n${id ? `id: ${id}\n` : ''}\n`);
    response.write('retry: 10\n\n');
    return this.#play(since, {
      event: (event) => block('', event, event.event_id),
      gap: (gap) => block('gap', gap),
      past: ({ events, complete }) => response.write(`: history_end events=${events} complete=${complete}\n\n`),
      end: (end) => (block('end', end, end.last_event_id), response.end()),
      cut: () => request.socket.destroy(),
    });
  }

  #page(query, response) {
    const fails = this.fails.shift();
    if (fails === 'reset') return response.destroy();
    const headers = fails === '503' ? { 'retry-after': '0' } : {};
    if (fails) return response.writeHead(+fails, headers).end(JSON.stringify({ error: 'no', ...(fails === '400' && { code: 'invalid_query' }) }));
    const isDesc = query.get('order') === 'desc';
    const place = query.get(isDesc ? 'before' : 'after');
    assert.deepEqual([query.get('type'), query.get('limit')], ['x', '3']);
    const all = Array.from({ length: this.total }, (_, n) => n + 1).filter((n) => !place || (isDesc ? n < number(place) : n > number(place)));
    const shown = (isDesc ? all.reverse() : all).slice(0, 3);
    const events = shown.map((n) => ({ event_id: `a-${n}`, event_type: 'x', payload: n }));
    const next = shown.length < all.length ? `a-${shown.at(-1)}` : null;
    return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ events, next, complete: true }));
  }
}

function connect(t, url, options) {
  const client = new Fanwire(url, { ...quick, ...options });
  client.onError(() => {});
  t.after(() => client.close());
  return client;
}

/** Reads a run to its end. Returns its numbers and gaps. */
async function follow(run, slowly = false) {
  const items = [];
  for await (const item of run) {
    items.push(isGap(item) ? 'gap' : item.payload.n ?? item.payload.delta ?? item.payload);
    if (slowly) await sleep(30);
  }
  return items;
}

for (const transport of ['ws', 'sse']) {
  for (const { name, want, end, error, absent, buffer, beside, only, text, most, again, ...script } of cases.runs) {
    if (only && only !== transport) continue;
    test(`${transport}: ${name}`, async (t) => {
      const server = await new Kept(t, script).listen();
      const client = connect(t, server.url, { transports: [transport] });
      if (beside) await client.subscribe('x').ready;
      const run = client.run('run-1', { ...(absent && { absent }), ...(buffer && { buffer }), ...script.merge });
      if (error) return assert.rejects(follow(run), { code: error });
      const items = await follow(run, buffer);
      if (want) assert.deepEqual(items, want);
      else assert.deepEqual([items.join(''), items.length <= most], [text, true], `${items}`);
      assert.deepEqual(run.end, end);
      assert.deepEqual(await run.next(), { value: end, done: true });
      if (again) assert.deepEqual(await follow(client.run('run-1')), want);
    });
  }
}

for (const { name, want, error, order, after, ...script } of cases.history) {
  test(`history: ${name}`, async (t) => {
    const server = await new Kept(t, script).listen();
    const pages = [];
    const walk = async () => {
      for await (const page of connect(t, server.url).history({ event_types: 'x', limit: 3, ...(order && { order }), ...(after && { after }) })) {
        assert.equal(page.complete, true);
        pages.push(page.events.map(({ payload }) => payload));
      }
    };
    if (error) await assert.rejects(walk(), { code: error });
    else await walk();
    assert.deepEqual(pages, want);
  });
}

const RULE = ['--retain', 'by=stream; end=run.finished,run.failed; match=stream=run-*', '--bus-capacity', '256'];
const token = (stream, n) => ({ type: 'token', stream_id: stream, payload: { n } });

for (const transports of [['ws'], ['sse']]) {
  test(`${transports}: with the real server and a bad network a run comes whole, each event once`, { timeout: 60_000 }, async (t) => {
    const server = await Server.start(...RULE);
    t.after(() => server.stop());
    const proxy = await Proxy.to(server);
    t.after(() => proxy.close());
    const COUNT = 2_000;
    const numbers = Array.from({ length: COUNT }, (_, n) => n);
    for (let n = 0; n < COUNT / 2; n += 100) await server.publish(numbers.slice(n, n + 100).flatMap((one) => [token('run-1', one), token('run-2', one)]));
    const client = connect(t, proxy.url, { transports });
    let passed = 0;
    const runs = ['run-1', 'run-2'].map(async (name, at) => {
      const run = client.run(name, { buffer: 300 });
      const items = [];
      for await (const item of run) {
        items.push(isGap(item) ? 'gap' : item.payload.n);
        passed += 1;
        if (at && passed % 50 === 0) await sleep(1);
      }
      return [items, run.end];
    });
    const stop = unrest(proxy, 5, () => passed, 20_000);
    for (let n = COUNT / 2; n < COUNT; n += 100) {
      await server.publish(numbers.slice(n, n + 100).flatMap((one) => [token('run-1', one), token('run-2', one)]));
      await sleep(10);
    }
    const ends = [await server.publish({ type: 'run.finished', stream_id: 'run-1', payload: { n: COUNT } }), await server.publish({ type: 'run.failed', stream_id: 'run-2', payload: { n: COUNT } })];
    const results = await Promise.all(runs);
    await stop();
    for (const [at, status] of [[0, 'run.finished'], [1, 'run.failed']]) {
      const [items, end] = results[at];
      assert.deepEqual(items, [...numbers, COUNT]);
      assert.deepEqual(end, { status, last_event_id: ends[at], complete: true });
    }
    // A run that is over, next to others on one connection.
    const again = client.run('run-1', { event_types: ['token'] });
    assert.equal((await follow(again)).length, COUNT);
    assert.deepEqual(again.end, { status: null, last_event_id: ends[0], complete: true });
  });

  test(`${transports}: a client that falls far behind has the exact text of a run, in few events`, { timeout: 120_000 }, async (t) => {
    const server = await Server.start('--retain', 'by=stream; end=run.finished; events=100000; bytes=64MiB; match=stream=run-*', '--bus-capacity', '256', '--max-lag-bytes', '64KiB');
    t.after(() => server.stop());
    const proxy = await Proxy.to(server);
    t.after(() => proxy.close());
    const early = ['a', 'b', 'c'];
    await server.publish(early.map((delta) => ({ type: 'token', stream_id: 'run-1', payload: { delta } })));
    const client = connect(t, proxy.url, { transports });
    // On a connection that is not replaced.
    const other = client.subscribe('other');
    await other.ready;
    const run = client.run('run-1', { on_lag: 'concat', compact: 'concat', concat: '/payload/delta' });
    await run.past;
    proxy.hold(true);
    const texts = [...early, ...(await overtake(server, 'run-1'))];
    const last_event_id = await server.publish({ type: 'run.finished', stream_id: 'run-1' });
    proxy.hold(false);
    let text = '';
    let [merged, count] = [0, 0];
    for await (const item of run) {
      assert(!isGap(item), JSON.stringify(item));
      text += item.payload?.delta ?? '';
      merged += item.merged ?? 1;
      count += 1;
    }
    assert(text === texts.join(''), `${text.length} instead of ${texts.join('').length}`);
    assert.equal(merged, texts.length + 1);
    assert(count < texts.length, `${count} events`);
    assert.deepEqual(run.end, { status: 'run.finished', last_event_id, complete: true });
    await server.publish({ type: 'other' });
    assert.equal((await other.next()).value.event_type, 'other');
  });

  test(`${transports}: a run ends with its loop, its signal or its client; a plain subscription ends too`, async (t) => {
    const server = await Server.start(...RULE);
    t.after(() => server.stop());
    const client = connect(t, server.url, { transports });
    await server.publish([1, 2, 3].map((n) => token('run-1', n)));
    const abort = new AbortController();
    const [left, aborted, closed] = [client.run('run-1'), client.run('run-1', { signal: abort.signal }), client.run('run-1')];
    for await (const item of left) if (item.payload.n === 2) break;
    assert.equal((await left.next()).done, true);
    assert.equal(left.end, undefined);
    const rest = [follow(aborted), follow(closed)];
    assert.deepEqual(await aborted.past, { events: 3, complete: true });
    assert.deepEqual(await closed.past, { events: 3, complete: true });
    abort.abort();
    assert.deepEqual(await rest[0], [1, 2, 3]);
    assert.equal(getEventListeners(abort.signal, 'abort').length, 0);
    closed.close();
    assert.deepEqual(await rest[1], [1, 2, 3]);
    assert.equal(closed.end, undefined);
    await assert.rejects(follow(client.run('run-none', { absent: 'error' })), { code: 'no_such_log' });
    const plain = client.subscribe({ stream_ids: ['run-1'] });
    await plain.ready;
    await client.publish({ type: 'run.finished', stream_id: 'run-1', payload: { n: 4 } });
    assert.deepEqual(await follow(plain), [4]);
    // The next life is another run.
    await client.publish({ ...token('run-1', 5), reopen: true });
    await assert.rejects(client.publish({ ...token('run-1', 6), expected_last_id: '' }), { code: 'unexpected_last_id' });
    await client.publish({ type: 'run.failed', stream_id: 'run-1', payload: { n: 6 } });
    const second = client.run('run-1');
    assert.deepEqual(await follow(second), [5, 6]);
    assert.equal(second.end.status, 'run.failed');
    const waiting = follow(client.run('run-other'));
    client.close();
    assert.deepEqual(await waiting, []);
  });

  test(`${transports}: a publish whose answer is lost is published once by the real server`, async (t) => {
    const server = await Server.start();
    t.after(() => server.stop());
    const proxy = await Proxy.to(server);
    t.after(() => proxy.close());
    const client = connect(t, proxy.url, { transports });
    const all = connect(t, server.url, { transports: ['ws'] }).subscribe();
    await all.ready;
    const loop = client.subscribe('x');
    await loop.ready;
    await client.publish({ type: 'first' });
    proxy.swallows = true;
    const outcome = client.publish({ type: 'paid', payload: 17 });
    await all.next();
    const { value } = await all.next();
    assert.equal(value.event_type, 'paid');
    proxy.swallows = false;
    proxy.cut();
    assert.equal(await outcome, value.event_id);
    await client.publish({ type: 'last' });
    assert.equal((await all.next()).value.event_type, 'last');
    const stats = await (await fetch(`${server.url}/api/stats`)).json();
    assert.equal(stats.events_published, 3);
  });
}

test('history walks the real server, in both directions', async (t) => {
  const server = await Server.start(...RULE);
  t.after(() => server.stop());
  for (let n = 0; n < 1_000; n += 100) await server.publish(Array.from({ length: 100 }, (_, more) => token('run-1', n + more)));
  const client = connect(t, server.url);
  const walk = async (options) => {
    const numbers = [];
    let count = 0;
    for await (const { events, complete } of client.history({ stream_ids: ['run-1'], ...options })) {
      assert.equal(complete, true);
      numbers.push(...events.map(({ payload }) => payload.n));
      count += 1;
    }
    return [numbers, count];
  };
  const all = Array.from({ length: 1_000 }, (_, n) => n);
  assert.deepEqual(await walk({ limit: 300 }), [all, 4]);
  assert.deepEqual(await walk({ limit: 300, order: 'desc' }), [all.toReversed(), 4]);
  assert.deepEqual((await walk({ filter: 'payload.n >= 990', since: new Date(0) }))[0], all.slice(990));
  await assert.rejects(walk({ limit: 0 }), { code: 'http_400' });
  for await (const { events } of client.history({ order: 'desc', limit: 50 })) {
    assert.equal(events.length, 50);
    break;
  }
  client.close();
  await assert.rejects(walk({}), { code: 'closed' });
});
