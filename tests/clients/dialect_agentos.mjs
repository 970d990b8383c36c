// AgentOS's clients as its users have them: the three lines of its guide, its validation, its test page's
// counts.
import { WebSocket, assert, check, done, publish, Queue, TIME, url } from './lib.mjs';

const address = `${url.replace('http', 'ws')}/ws/events`;

/** The guide's client: connect, parse, look at `type` and `payload`. */
function follow(query = '') {
  const ws = new WebSocket(address + query);
  const seen = new Queue();
  const raw = new Queue();
  let progress = null;
  ws.onmessage = (message) => {
    if (message.data === 'pong') return raw.push(message.data);
    const data = JSON.parse(message.data);
    if (data.type === 'task.progress') progress = data.payload.progress;
    return seen.push(data);
  };
  const opened = new Promise((open, fail) => {
    ws.onopen = open;
    ws.onerror = fail;
  });
  return { ws, seen, raw, opened, get progress() { return progress; } };
}

const run = [
  { type: 'task.started', source: 'core', entity: { kind: 'task', id: 'demo' } },
  ...[0, 25, 50, 75, 100].map((progress) => ({
    type: 'task.progress', source: 'core', entity: { kind: 'task', id: 'demo' },
    payload: { progress, message: `Processing... ${progress}%` },
  })),
  { type: 'task.completed', source: 'core', entity: { kind: 'task', id: 'demo' } },
  {
    type: 'provider.status_changed', source: 'core', entity: { kind: 'provider', id: 'ollama' },
    payload: { state: 'READY', endpoint: 'http://127.0.0.1:11434', latency_ms: 45.2, last_error: null },
  },
  ...['started', 'progress', 'completed'].map((step) => ({
    type: `selfcheck.${step}`, source: 'webui', entity: { kind: 'selfcheck', id: 'boot' },
  })),
];

await publish({ type: 'task.started', payload: { before: true } });
const one = follow();
const two = follow();
await Promise.all([one.opened, two.opened]);

await check('a ping in text or JSON is answered in kind', async () => {
  one.ws.send('ping');
  assert.equal(await one.raw.next('a pong'), 'pong');
  one.ws.send(JSON.stringify({ type: 'ping' }));
  assert.equal((await one.seen.next('a pong')).type, 'pong');
});

await check('an emitted run arrives whole and in order at every client, from the connect on', async () => {
  await publish(run);
  for (const client of [one, two]) {
    for (const sent of run) {
      const event = await client.seen.next(sent.type);
      assert.deepEqual(Object.keys(event), ['type', 'ts', 'source', 'entity', 'payload']);
      assert.match(event.ts, TIME);
      assert.deepEqual({ ...event, ts: null }, { payload: {}, ...sent, ts: null });
    }
    assert.equal(client.progress, 100);
  }
});

await check('an event without source or entity has the defaults', async () => {
  await publish({ type: 'task.failed', payload: { error: 'no disk' } });
  const event = await one.seen.next();
  assert.deepEqual([event.source, event.entity, event.payload], ['core', null, { error: 'no disk' }]);
});

await check('a client that reconnects gets only new events', async () => {
  two.ws.close();
  await publish({ type: 'task.started', payload: { n: 1 } });
  const again = follow();
  await again.opened;
  await publish({ type: 'task.started', payload: { n: 2 } });
  assert.equal((await again.seen.next()).payload.n, 2);
  assert.equal((await one.seen.next()).payload.n, 1);
  again.ws.close();
});

await check('the query filters by type and entity', async () => {
  const some = follow('?filter=task.progress&entity=task:demo');
  await some.opened;
  await publish([...run, { type: 'task.progress', entity: { kind: 'task', id: 'other' }, payload: { progress: 1 } }]);
  for (const progress of [0, 25, 50, 75, 100]) assert.equal((await some.seen.next()).payload.progress, progress);
  some.ws.send('ping');
  await some.raw.next('a pong');
  assert.equal(some.seen.items.length, 0);
});

// AOS-047: AgentOS's page is opened from a file. Without authentication, `--dialect agentos` allows that, and
// this server was started with it. `--allowed-origin null` would also allow sandboxed frames of every site.
await check('a page opened from a file may connect', async () => {
  const ws = new WebSocket(address, { origin: 'null' });
  await new Promise((open, fail) => {
    ws.onopen = open;
    ws.onerror = fail;
  });
});

await done();
