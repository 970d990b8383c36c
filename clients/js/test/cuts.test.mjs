// Connections that break at any place, with the real server: nothing missed, nothing twice, in order; or a gap.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fanwire, isGap } from '../dist/index.js';
import { Proxy, Server, numbered, quick, sleep, take, unrest, until } from './support.mjs';

let server;
let proxy;
before(async () => {
  server = await Server.start();
  proxy = await Proxy.to(server);
});
after(async () => {
  await proxy.close();
  await server.stop();
});

/** Numbers of a subscription's events. A gap is a fault. */
const numbers = (items) => items.map((item) => (isGap(item) ? assert.fail(`a gap: ${JSON.stringify(item)}`) : item.payload.n));

/** Cuts a client off until the proxy is up again. */
async function offline(client) {
  proxy.down = true;
  proxy.cut();
  await until('the loss', () => client.status !== 'open');
}
const range = (from, to) => Array.from({ length: to - from }, (_, n) => from + n);

for (const transports of [['ws'], ['sse'], ['ws', 'sse']]) {
  test(`${transports}: cut at random, every event comes once and in order`, { timeout: 60_000 }, async (t) => {
    const EVENTS = 3_000;
    const client = new Fanwire(proxy.url, { ...quick, transports });
    t.after(() => client.close());
    const errors = [];
    client.onError((error) => errors.push(error));
    // Overlapping subscriptions, as loops and as a handler.
    const all = client.subscribe({ event_types: ['test.**'], sources: ['chaos', 'odd'] });
    const odd = client.subscribe({ sources: ['odd'] });
    const text = client.subscribe({ filter: 'source=odd payload.n >= 100' });
    const handled = [];
    const off = client.on('test.numbered', (event) => handled.push(event.payload.n), {});
    await Promise.all([all.ready, odd.ready, text.ready]);
    const stop = unrest(proxy, 42 + transports.length, () => handled.length);
    const [everything, odds, later] = [take(all, EVENTS), take(odd, EVENTS / 2), take(text, EVENTS / 2 - 50)];
    for (let n = 0; n < EVENTS; n += 20) {
      await server.publish(range(n, n + 20).flatMap((n) => [{ type: 'other' }, numbered(n, { source: n % 2 ? 'odd' : 'chaos' })]));
      await sleep(4);
    }
    await sleep(100);
    const cuts = await stop();
    assert.deepEqual(numbers(await everything), range(0, EVENTS));
    assert.deepEqual(numbers(await odds), range(0, EVENTS).filter((n) => n % 2));
    assert.deepEqual(numbers(await later), range(100, EVENTS).filter((n) => n % 2));
    await until('the handler', () => handled.length >= EVENTS);
    assert.deepEqual(handled, range(0, EVENTS));
    assert(cuts > 10, `${cuts} cuts`);
    // Cuts while the client has no connection do not affect it. Their number depends on the machine.
    assert(errors.length > 1, `${errors.length} losses were told`);
    off();
    client.close();
    assert.equal((await all.next()).done, true);
  });
}

for (const [transports, lean] of [[['ws']], [['ws'], true], [['sse']]]) {
  test(`${transports}${lean ? ', lean' : ''}: with several shards, too, each stream comes whole and in order`, { timeout: 60_000 }, async (t) => {
    const [EVENTS, STREAMS] = [1_000, 10];
    const sharded = await Server.start('--bus-shards', '4');
    const between = await Proxy.to(sharded);
    const client = new Fanwire(between.url, { ...quick, transports, lean });
    t.after(async () => (client.close(), await between.close(), await sharded.stop()));
    const all = client.subscribe('test.**');
    await all.ready;
    let came = 0;
    const stop = unrest(between, 7, () => came);
    const reading = (async () => {
      const next = new Map();
      for await (const item of all) {
        const [n] = numbers([item]);
        assert.equal(n, next.get(item.stream_id) ?? n % STREAMS, `${item.stream_id} of ${item.event_id}`);
        next.set(item.stream_id, n + STREAMS);
        if ((came += 1) === EVENTS) return next.size;
      }
    })();
    for (let n = 0; n < EVENTS; n += 20) {
      await sharded.publish(range(n, n + 20).map((n) => numbered(n, { stream_id: `s${n % STREAMS}` })));
      await sleep(10);
    }
    assert.equal(await reading, STREAMS);
    await stop();
  });
}

test('cut before its first event, a client misses nothing', { timeout: 30_000 }, async (t) => {
  for (const transports of [['ws'], ['sse']]) {
    const client = new Fanwire(proxy.url, { ...quick, transports });
    t.after(() => client.close());
    const one = client.subscribe('first.*');
    const two = client.subscribe({ event_types: ['first.a'], sources: ['s'] });
    await Promise.all([one.ready, two.ready]);
    await offline(client);
    await server.publish([{ type: 'first.a', source: 's', payload: 1 }, { type: 'first.b', payload: 2 }]);
    proxy.down = false;
    assert.deepEqual((await take(one, 2)).map((event) => event.payload), [1, 2]);
    assert.deepEqual((await take(two, 1)).map((event) => event.payload), [1]);
  }
});

test('a restart of the server is one gap for each loop', { timeout: 30_000 }, async (t) => {
  for (const transports of [['ws'], ['sse']]) {
    const client = new Fanwire(proxy.url, { ...quick, transports });
    t.after(() => client.close());
    const told = [];
    client.onGap((gap) => told.push(gap));
    const one = client.subscribe('life.*');
    const two = client.subscribe('life.**');
    await Promise.all([one.ready, two.ready]);
    await server.publish({ type: 'life.before' });
    const before = await take(one, 1);
    await take(two, 1);
    await server.restart();
    for (const each of [one, two]) {
      const [gap] = await take(each, 1);
      assert(isGap(gap), JSON.stringify(gap));
      assert.deepEqual([gap.missed, gap.recoverable, gap.from], [null, false, before[0].event_id]);
    }
    await server.publish({ type: 'life.after' });
    for (const each of [one, two]) assert.equal((await take(each, 1))[0].event_type, 'life.after');
    assert.equal(told.length, transports[0] === 'ws' ? 1 : 2);
    // The new server's positions count from here on.
    await offline(client);
    await server.publish({ type: 'life.again' });
    proxy.down = false;
    for (const each of [one, two]) assert.equal((await take(each, 1))[0].event_type, 'life.again');
    client.close();
  }
});

test('a client that resumes too late gets the number of missed events', { timeout: 60_000 }, async (t) => {
  const client = new Fanwire(proxy.url, { ...quick, transports: ['ws'] });
  t.after(() => client.close());
  const loop = client.subscribe('late');
  await loop.ready;
  await server.publish({ type: 'late', payload: 0 });
  await take(loop, 1);
  await offline(client);
  const lots = Array.from({ length: 5_000 }, () => ({ type: 'filler' }));
  // The client loses these. Its filter does not match the events that evict them.
  await server.publish(Array.from({ length: 10 }, () => ({ type: 'late', payload: 'lost' })));
  let oldest = 0;
  for (let n = 0; n < 100 && oldest < 20; n += 1) {
    await server.publish(lots);
    oldest = (await (await fetch(`${server.url}/api/stats`)).json()).shards[0].oldest;
  }
  assert(oldest >= 20, 'the ring has no end');
  await server.publish({ type: 'late', payload: 1 });
  proxy.down = false;
  const [gap, next] = await take(loop, 2);
  assert(isGap(gap) && gap.missed === 10 && !gap.recoverable, JSON.stringify(gap));
  assert.equal(next.payload, 1);
});

test('a publish waits while offline, up to a bound, and comes once where its answer is lost', { timeout: 30_000 }, async (t) => {
  const client = new Fanwire(proxy.url, { ...quick, transports: ['ws'], queue: 3 });
  t.after(() => client.close());
  const loop = client.subscribe('queued');
  await loop.ready;
  await offline(client);
  const abort = new AbortController();
  const aborted = client.publish({ type: 'queued', payload: 'never' }, { signal: abort.signal });
  const sent = ['a', 'b'].map((payload) => client.publish({ type: 'queued', payload }));
  await assert.rejects(client.publish({ type: 'queued', payload: 'too many' }), { code: 'queue_full' });
  abort.abort();
  await assert.rejects(aborted, { code: 'aborted' });
  const third = client.publish({ type: 'queued', payload: 'c' });
  proxy.down = false;
  const ids = await Promise.all([...sent, third]);
  const events = await take(loop, 3);
  assert.deepEqual(events.map((event) => event.payload), ['a', 'b', 'c']);
  assert.deepEqual(events.map((event) => event.event_id), ids);
  // Without the server's answer the event is sent again, and published once.
  proxy.cut(1);
  const again = [await client.publish({ type: 'queued', payload: 'd' }), await client.publish({ type: 'queued', payload: 'e' })];
  const more = await take(loop, 2);
  assert.deepEqual(more.map(({ event_id, payload }) => [payload, event_id]), [['d', again[0]], ['e', again[1]]]);
  client.close();
  await assert.rejects(client.publish({ type: 'queued' }), { code: 'closed' });
});
