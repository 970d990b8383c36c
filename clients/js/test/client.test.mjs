// The client's methods, with the real server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fanwire, FanwireError, isGap, pattern } from '../dist/index.js';
import { evaluator } from '../dist/text.js';
import { readFile } from 'node:fs/promises';
import WebSocket from 'ws';
import { Proxy, Server, here, numbered, quick, take, until } from './support.mjs';

let server;
before(async () => (server = await Server.start()));
after(() => server.stop());

const connect = (t, options = {}) => {
  const client = new Fanwire(server.url, { ...quick, ...options });
  t.after(() => client.close());
  return client;
};

test('patterns match as on the server', async () => {
  for (const [form, value, want] of JSON.parse(await readFile(here('../../cases/patterns.json'), 'utf8'))) {
    assert.equal(pattern(form)(value), want, `${form} on ${value}`);
  }
});

const texts = JSON.parse(await readFile(here('../../cases/filters.json'), 'utf8'));

test("filters' texts mean what they mean to the server", () => {
  for (const [text, event, want] of texts.cases) assert.equal(evaluator(text)(texts.events[event]), want, `${text} on ${event}`);
});

const full = {
  type: 'task.progress', source: 'core', correlation_id: 'run-42', stream_id: 'webhook', execution_id: 'ex-1',
  entity: { kind: 'task', id: 'a:b' }, channel: 'dev-team', payload: { progress: 42 },
};
for (const transports of [['ws'], ['sse']]) {
  test(`${transports}: each attribute filters, at the server and between subscriptions`, async (t) => {
    const client = connect(t, { transports });
    const everything = client.subscribe();
    for (const [filter, other] of [
      [{ event_types: ['task.*'] }, { type: 'tool.called' }],
      [{ event_types: 'task.progress' }, { type: 'task.done' }],
      [{ sources: ['core', 'x'] }, { source: 'edge' }],
      [{ correlation_ids: ['run-42'] }, { correlation_id: 'run-43' }],
      [{ stream_ids: ['webhook'] }, { stream_id: 'mail' }],
      [{ execution_ids: ['ex-1'] }, { execution_id: 'ex-2' }],
      [{ entities: ['task:a:b'] }, { entity: { kind: 'task', id: 'a' } }],
      [{ entities: ['task'] }, { entity: { kind: 'agent', id: 'a:b' } }],
      [{ entities: [{ id: 'a:*' }] }, { entity: { kind: 'task', id: 'a' } }],
      [{ channels: ['dev-team'], sources: ['core'] }, { channel: 'ops' }],
    ]) {
      const one = client.subscribe(filter);
      await Promise.all([one.ready, everything.ready]);
      await server.publish([{ ...full, ...other, payload: 1 }, { ...full, payload: 2 }, { ...full, ...other, payload: 3 }]);
      assert.deepEqual((await take(one, 1)).map((event) => event.payload), [2], JSON.stringify(filter));
      assert.deepEqual((await take(everything, 3)).map((event) => event.payload), [1, 2, 3]);
      one.close();
      assert.equal((await one.next()).done, true, 'nothing more came');
    }
  });

  test(`${transports}: on() has the event as it is on the wire; * is every event; a handler's fault is its own`, async (t) => {
    const client = connect(t, { transports });
    const [progress, all, errors] = [[], [], []];
    client.onError((error) => errors.push(error));
    // A handler can show that it listens only by an event.
    let [isHeard, isAllHeard] = [false, false];
    const off = client.on('task.progress', (event) => {
      if (event.source === 'warm') return (isHeard = true);
      progress.push(event);
      throw new Error('mine');
    });
    client.on('*', (event) => event.source !== 'warm' ? all.push(event.event_type) : (isAllHeard = true));
    const ready = client.subscribe('none');
    await ready.ready;
    await until('both subscriptions', async () => (await server.publish({ type: 'task.progress', source: 'warm' }), isHeard && isAllHeard));
    const id = await client.publish({ ...full, timestamp: '2026-01-27T10:21:33.123456Z' });
    await until('the event', () => progress.length === 1 && all.at(-1) === 'task.progress' && errors.length > 0);
    const { type, ...rest } = full;
    assert.deepEqual(progress[0], { event_id: id, event_type: type, timestamp: '2026-01-27T10:21:33.123456Z', ...rest });
    assert.deepEqual(errors.map(({ code }) => code), ['handler']);
    off();
    await client.publish({ type: 'task.progress' });
    await client.publish({ type: 'last' });
    await until('the last', () => all.at(-1) === 'last');
    assert.equal(progress.length, 1);
  });

  test(`${transports}: the past is each subscription's own, however many there are`, async (t) => {
    const first = await server.publish(numbered(0, { source: 'past' }));
    await server.publish([1, 2, 3].map((n) => numbered(n, { source: 'past' })));
    const client = connect(t, { transports });
    const live = client.subscribe();
    await live.ready;
    const got = async (options) => {
      const one = client.subscribe({ sources: ['past'] }, options);
      await one.ready;
      const items = await take(one, 3);
      // Over SSE the end of the past is a comment, in a stream that fetch decompresses.
      assert.deepEqual(await one.past, { events: 3, complete: true });
      one.close();
      return items.map((event) => event.payload.n);
    };
    assert.deepEqual(await got({ since: first }), [1, 2, 3]);
    assert.deepEqual(await got({ history: 3 }), [1, 2, 3]);
    const [gap] = await take(client.subscribe('x', { since: 'elsewhere-1' }), 1);
    assert(isGap(gap) && gap.missed === null);
  });

  test(`${transports}: a refusal of the server is thrown at the call that caused it`, async (t) => {
    const client = connect(t, { transports });
    const good = client.subscribe('good');
    const bad = client.subscribe('bad', { on_lag: 'cry' });
    await assert.rejects(bad.next(), (error) => error instanceof FanwireError && /cry|on_lag/.test(error.message));
    await assert.rejects(client.publish({ type: '' }), /event has no type/);
    await good.ready;
    await client.publish({ type: 'good' });
    assert.equal((await take(good, 1))[0].event_type, 'good');
  });

  test(`${transports}: a publish without an ack is answered only if it is refused`, async (t) => {
    const [sent, heard, errors] = [[], [], []];
    const isSocket = transports[0] === 'ws';
    class Watched extends WebSocket {
      constructor(...args) {
        super(...args);
        this.on('message', (data) => heard.push(JSON.parse(data)));
      }
      send(data) {
        sent.push(JSON.parse(data));
        super.send(data);
      }
    }
    const client = connect(t, { transports, WebSocket: Watched });
    client.onError(({ code }) => errors.push(code));
    const quiet = (payload, type = 'quiet') => client.publish({ type, payload }, { ack: false });
    // It waits for the connection like other publishes. The server has not announced unacked publishing yet.
    assert.equal(await quiet(0, 'early'), undefined);
    const loop = client.subscribe('quiet');
    await loop.ready;
    if (isSocket) assert((await client.request('server_info')).capabilities.includes('publish_unacked'));
    for (const n of [1, 2, 3]) assert.equal(await quiet(n), undefined);
    // Streams publish by requests of their own, in any order.
    const came = (await take(loop, 3)).map(({ payload }) => payload);
    assert.deepEqual(isSocket ? came : came.sort(), [1, 2, 3]);
    assert.equal(await client.publish({ type: '' }, { ack: false }), undefined);
    await until('the refusal', () => errors.length > 0);
    assert.deepEqual(errors, [isSocket ? 'invalid_event' : 'http_400']);
    if (!isSocket) return;
    const published = sent.filter(({ type }) => type === 'publish');
    assert.deepEqual(published.map(({ ack }) => ack), [undefined, false, false, false, false]);
    const silent = published.filter(({ ack }) => ack === false).map(({ message_id }) => message_id);
    const answers = heard.filter(({ correlation_id }) => silent.includes(correlation_id));
    assert.deepEqual(answers.map(({ type }) => type), ['error']);
  });

  test(`${transports}: leaving a loop and a signal both unsubscribe`, async (t) => {
    const client = connect(t, { transports });
    const streams = async () => {
      const { connections, subscriptions } = await (await fetch(`${server.url}/api/stats`)).json();
      return transports[0] === 'ws' ? subscriptions : connections.sse;
    };
    await until('the clients of earlier tests are gone', async () => (await streams()) === 0);
    const abort = new AbortController();
    const other = client.subscribe('b', { signal: abort.signal });
    const loop = client.subscribe('a');
    await Promise.all([loop.ready, other.ready]);
    await until('two', async () => (await streams()) === 2);
    await client.publish({ type: 'a' });
    for await (const event of loop) {
      assert.equal(event.event_type, 'a');
      break;
    }
    await until('one', async () => (await streams()) === 1);
    abort.abort();
    assert.deepEqual(await other.next(), { value: undefined, done: true });
    await until('none', async () => (await streams()) === 0);
    assert.equal((await client.subscribe('c', { signal: abort.signal }).next()).done, true);
  });
}

test('requests are answered; agents and workflows have their names', async (t) => {
  const client = connect(t);
  const [agent, workflow] = [client.subscribeToAgent('coder-001', ['status']), client.subscribeToWorkflow('w-1')];
  await Promise.all([agent.ready, workflow.ready]);
  assert.deepEqual(await client.request('subscription_count'), { count: 2 });
  assert.equal((await client.request('server_info')).protocol, 'fanwire.v1');
  await assert.rejects(client.request('presence', { channel: 'nowhere' }), { code: 'no_presence' });
  await assert.rejects(client.request('fly'), { code: 'unknown_action', message: 'Unknown action: fly' });
  const entity = { kind: 'agent', id: 'coder-001' };
  await server.publish([
    { type: 'agent_status', entity: { ...entity, id: 'x' } }, { type: 'agent_log', entity },
    { type: 'agent_status', entity }, { type: 'agent.status', entity }, { type: 'workflow_failed', entity: { kind: 'workflow', id: 'w-1' } },
  ]);
  assert.deepEqual((await take(agent, 2)).map((event) => event.event_type), ['agent_status', 'agent.status']);
  assert.equal((await take(workflow, 1))[0].event_type, 'workflow_failed');
});

test('lean events lack only a timestamp that was not set; over SSE they are complete', async (t) => {
  const sharded = await Server.start('--bus-shards', '2');
  t.after(() => sharded.stop());
  for (const { url } of [server, sharded]) {
    const client = new Fanwire(url, { ...quick, lean: true });
    t.after(() => client.close());
    const loop = client.subscribe('lean.*');
    await loop.ready;
    assert.equal((await client.request('server_info')).protocol, 'fanwire.v1.lean');
    const first = await client.publish({ type: 'lean.a', payload: { type: 'event' } });
    const timestamp = '2026-01-27T10:21:33.123456Z';
    const more = { ...full, type: 'lean.b', timestamp };
    const second = await client.publish(more);
    const { type, ...attributes } = more;
    const want = [
      { event_id: first, event_type: 'lean.a', correlation_id: null, payload: { type: 'event' } },
      { event_id: second, event_type: type, ...attributes },
    ];
    assert.deepEqual(await take(loop, 2), want);
    // The past needs a client of its own, which is lean too.
    assert.deepEqual(await take(client.subscribe('lean.*', { history: 2 }), 2), want);
    const whole = new Fanwire(url, { ...quick, lean: true, transports: ['sse'] });
    t.after(() => whole.close());
    const [event] = await take(whole.subscribe('lean.*', { history: 2 }), 1);
    assert.deepEqual([event.event_id, typeof event.timestamp], [first, 'string']);
  }
});

test('a loop that is too slow gets a gap for the oldest', async (t) => {
  const client = connect(t);
  const slow = client.subscribe('test.numbered', { buffer: 10 });
  await slow.ready;
  await server.publish(numbered(0));
  assert.equal((await take(slow, 1))[0].payload.n, 0);
  const ids = [];
  for (let n = 1; n <= 30; n += 1) ids.push(await server.publish(numbered(n)));
  await client.publish({ type: 'none' });
  const [gap, ...rest] = await take(slow, 11);
  assert(isGap(gap));
  assert.deepEqual([gap.missed, gap.to, gap.recoverable], [20, ids[19], true]);
  assert.deepEqual(rest.map((event) => event.payload.n), Array.from({ length: 10 }, (_, n) => 21 + n));
});

test('if no WebSocket gets through, the client uses SSE', async (t) => {
  const proxy = await Proxy.to(server);
  proxy.blocks = 'GET /ws';
  const client = new Fanwire(proxy.url, quick);
  t.after(() => (client.close(), proxy.close()));
  const loop = client.subscribe('test.numbered');
  await loop.ready;
  const id = await client.publish(numbered(1));
  assert.equal((await take(loop, 1))[0].event_id, id);
  await assert.rejects(client.request('server_info'), { code: 'no_transport' });
  // The client returns to the WebSocket once that is allowed again.
  proxy.blocks = null;
  proxy.cut();
  await until('an answer that needs a WebSocket', () => client.request('server_info').catch(() => false));
  await server.publish(numbered(2));
  assert.equal((await take(loop, 1))[0].payload.n, 2);
});

test('without any WebSocket the client uses SSE, and if that is not allowed it ends with an error', async (t) => {
  const client = new Fanwire(server.url, { fetch: quick.fetch });
  t.after(() => client.close());
  if (!globalThis.WebSocket) {
    const loop = client.subscribe('plain');
    await loop.ready;
    await client.publish({ type: 'plain' });
    assert.equal((await take(loop, 1))[0].event_type, 'plain');
    const none = new Fanwire(server.url, { transports: ['ws'] });
    await assert.rejects(none.subscribe().next(), { code: 'no_transport' });
    assert.equal(none.status, 'closed');
  }
});

test('a subscription made while the first stream opens is not forgotten', async (t) => {
  let answer;
  const held = new Promise((resolve) => (answer = resolve));
  const late = async (url, init) => {
    const response = await fetch(url, init);
    if (`${url}`.includes('first')) await held;
    return response;
  };
  const client = connect(t, { transports: ['sse'], fetch: late });
  const first = client.subscribe('first');
  await until('the request', async () => (await (await fetch(`${server.url}/api/stats`)).json()).connections.sse > 0);
  const second = client.subscribe('second');
  answer();
  await Promise.all([first.ready, second.ready]);
  await server.publish([{ type: 'second' }, { type: 'first' }]);
  assert.equal((await take(second, 1))[0].event_type, 'second');
  assert.equal((await take(first, 1))[0].event_type, 'first');
});

test('a client that gives up reports it', async (t) => {
  const client = new Fanwire('http://127.0.0.1:9', { ...quick, attempts: 3 });
  t.after(() => client.close());
  const states = [];
  client.onStatus((status) => states.push(status));
  await assert.rejects(client.subscribe().next(), { code: 'gave_up' });
  assert.deepEqual(states.filter((state) => state === 'connecting').length, 3);
  assert.equal(client.status, 'closed');
});

test('twenty subscriptions with a past have one socket, and each its own whole past', async (t) => {
  await server.publish(Array.from({ length: 60 }, (_, n) => numbered(n, { source: 'symbols', entity: { kind: 'symbol', id: `s${n % 20}` } })));
  const client = connect(t, { transports: ['ws'] });
  const sockets = async () => (await (await fetch(`${server.url}/api/stats`)).json()).connections.ws;
  await until('the clients of earlier tests are gone', async () => (await sockets()) === 0);
  const all = client.subscribe({ sources: ['symbols'] }, { history: 60 });
  const each = Array.from({ length: 20 }, (_, n) => client.subscribe({ entities: [`symbol:s${n}`] }, n % 2 ? { history: 3 } : { snapshot: true }));
  assert.deepEqual(await all.past, { events: 60, complete: true });
  for (const [n, one] of each.entries()) {
    assert.deepEqual(await one.past, { events: n % 2 ? 3 : 1, complete: true });
    const want = n % 2 ? [n, n + 20, n + 40] : [n + 40];
    assert.deepEqual((await take(one, want.length)).map((event) => event.payload.n), want);
  }
  assert.equal(await sockets(), 1);
  await server.publish(numbered(100, { source: 'symbols', entity: { kind: 'symbol', id: 's7' } }));
  assert.equal((await take(each[7], 1))[0].payload.n, 100, 'a live event comes once');
  assert.deepEqual((await take(all, 61)).map((event) => event.payload.n), [...Array(60).keys(), 100]);
});

for (const transports of [['ws'], ['sse']]) {
  test(`${transports}: a filter's text says what the lists can't`, async (t) => {
    const client = connect(t, { transports });
    const [half, other] = [client.subscribe({ event_types: ['load'], filter: 'payload.n >= 50 source!=b' }), client.subscribe('load')];
    await Promise.all([half.ready, other.ready]);
    await server.publish([[49, 'a'], [50, 'b'], [51, 'a'], [52]].map(([n, source]) => ({ type: 'load', source, payload: { n } })));
    assert.deepEqual((await take(half, 2)).map((event) => event.payload.n), [51, 52]);
    assert.deepEqual((await take(other, 4)).map((event) => event.payload.n), [49, 50, 51, 52]);
    await assert.rejects(client.subscribe({ filter: 'colour=red' }).next(), /colour/);
  });
}

test('subscriptions with texts share one socket, and each gets its own events', async (t) => {
  const client = connect(t, { transports: ['ws'] });
  const sockets = async () => (await (await fetch(`${server.url}/api/stats`)).json()).connections.ws;
  await until('the clients of earlier tests are gone', async () => (await sockets()) === 0);
  const all = client.subscribe({ sources: ['end'] });
  const each = [...new Set(texts.cases.map(([text]) => text))].map((filter) => [filter, client.subscribe({ filter })]);
  await Promise.all([all, ...each.map(([, one]) => one)].map((one) => one.ready));
  assert.equal(await sockets(), 1);
  for (const event of Object.values(texts.events)) await client.publish(event);
  await client.publish({ type: 'end', source: 'end' });
  await take(all, 1);
  const types = Object.fromEntries(Object.entries(texts.events).map(([name, { event_type }]) => [event_type, name]));
  for (const [filter, one] of each) {
    one.close();
    const got = [];
    for await (const { event_type } of one) if (types[event_type]) got.push(types[event_type]);
    for (const [text, event, want] of texts.cases) if (text === filter) assert.equal(got.includes(event), want, `${text} on ${event}`);
  }
  // A filter that this client can't evaluate has a socket of its own: here numbers are rounded.
  const big = client.subscribe({ filter: 'payload.n == 9007199254740993' });
  await big.ready;
  assert.equal(await sockets(), 2);
  for (const n of ['9007199254740992', '9007199254740993']) {
    await fetch(`${server.url}/publish`, { method: 'POST', body: `{"type":"big","source":"${n}","payload":{"n":${n}}}` });
  }
  assert.equal((await take(big, 1))[0].source, '9007199254740993');
});
