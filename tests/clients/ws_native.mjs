// Proves, with Node's `ws`: the native protocol's messages, answers and error texts.
import { Client, assert, check, done, numbered, publish, UUID } from './lib.mjs';

const client = await Client.connect();

await check('nothing is delivered before a subscribe', async () => {
  await publish(numbered(0));
  assert(await client.isQuiet());
});

await check('a subscribe without a filter gets an id and everything', async () => {
  const id = await client.subscribe();
  assert(id.length > 0);
  await publish({ type: 'hello', payload: { from: 'fetch' } });
  const event = await client.event();
  assert.equal(event.event_type, 'hello');
  assert.deepEqual(event.payload, { from: 'fetch' });
  assert.equal(event.correlation_id, null);
  await client.ask('unsubscribe', { subscription_id: id });
  await publish({ type: 'hello' });
  assert(await client.isQuiet(), 'after the unsubscribe nothing comes');
});

await check('an event message has the fields of every message', async () => {
  await client.subscribe({ subscription_id: 'all' });
  const id = await publish({ type: 'x', timestamp: '2026-01-27T10:21:33.123456Z', correlation_id: 'run-42' });
  const message = await client.messages.next();
  assert.deepEqual(Object.keys(message), ['type', 'payload', 'message_id', 'timestamp', 'correlation_id']);
  assert.match(message.message_id, UUID);
  assert.deepEqual(message.payload, {
    event_id: id, event_type: 'x', timestamp: '2026-01-27T10:21:33.123456Z', correlation_id: 'run-42', payload: {},
  });
  await client.ask('unsubscribe', { subscription_id: 'all' });
});

const full = {
  type: 'task.progress', source: 'core', correlation_id: 'run-42', stream_id: 'webhook', execution_id: 'ex-1',
  entity: { kind: 'task', id: 'task_abc' }, channel: 'dev-team',
};
for (const [name, wanted, other] of [
  ['event_types', ['task.progress'], { type: 'task.started' }],
  ['event_types', ['task.*', 'agent.**'], { type: 'tool.called' }],
  ['sources', ['core'], { source: 'edge' }],
  ['correlation_ids', ['run-41', 'run-42'], { correlation_id: 'run-43' }],
  ['stream_ids', ['webhook'], { stream_id: 'mail' }],
  ['execution_ids', ['ex-1'], { execution_id: 'ex-2' }],
  ['entities', ['task:task_abc'], { entity: { kind: 'task', id: 'task_abd' } }],
  ['entities', [{ kind: 'task' }], { entity: { kind: 'agent', id: 'task_abc' } }],
  ['channels', ['dev-team'], { channel: 'ops' }],
]) {
  await check(`${name} ${JSON.stringify(wanted)} lets in the one and not the other`, async () => {
    await client.subscribe({ subscription_id: 'f', [name]: wanted });
    await publish([{ ...full, ...other, payload: 1 }, { ...full, payload: 2 }, { ...full, ...other, payload: 3 }]);
    assert.equal((await client.event()).payload, 2);
    assert.equal((await client.ask('unsubscribe', { subscription_id: 'f' })).type, 'ack');
    assert(await client.isQuiet());
  });
}

await check('all attributes must hold, and an event comes once for several subscriptions', async () => {
  await client.subscribe({ subscription_id: 'a', event_types: ['task.*'], sources: ['core'] });
  await client.subscribe({ subscription_id: 'b', event_types: ['task.progress'] });
  await publish([full, { ...full, type: 'task.done', source: 'edge' }, { ...full, type: 'task.done' }]);
  assert.equal((await client.event()).event_type, 'task.progress');
  assert.equal((await client.event()).event_type, 'task.done');
  assert(await client.isQuiet());
});

await check('requests list and count the subscriptions', async () => {
  const list = await client.ask('request', { action: 'list_subscriptions' });
  assert.equal(list.type, 'response');
  assert.deepEqual(list.payload.subscriptions, [
    { subscription_id: 'a', event_types: ['task.*'], sources: ['core'], correlation_id: null },
    { subscription_id: 'b', event_types: ['task.progress'], sources: [], correlation_id: null },
  ]);
  assert.deepEqual((await client.ask('request', { action: 'subscription_count' })).payload, { count: 2 });
  assert.equal((await client.ask('request', { action: 'server_info' })).payload.protocol, 'fanwire.v1');
  for (const id of ['a', 'b']) {
    const ack = await client.ask('unsubscribe', { subscription_id: id });
    assert.deepEqual(ack.payload, { subscription_id: id });
  }
  assert.deepEqual((await client.ask('request', { action: 'subscription_count' })).payload, { count: 0 });
});

await check('errors have the words of the document, and end nothing', async () => {
  for (const [type, payload, text] of [
    ['request', { action: 'fly' }, 'Unknown action: fly'],
    ['dance', {}, 'Unknown message type: dance'],
    ['unsubscribe', { subscription_id: 'no' }, 'Unknown subscription: no'],
  ]) {
    const answer = await client.ask(type, payload);
    assert.equal(answer.type, 'error');
    assert.equal(answer.payload.error, text);
    assert.equal(typeof answer.payload.code, 'string');
  }
  for (const data of ['not valid json', '', '[]', '{}', '{"type":5}', Buffer.from('{"type":"ping"}')]) {
    client.ws.send(data);
    const answer = await client.messages.next(`an answer to ${data}`);
    assert.equal(answer.type, 'error');
    assert.equal(answer.payload.error, 'Invalid message format');
  }
  assert(await client.isQuiet());
});

await check('a ping has its pong; an ack and a pong of the client are taken silently', async () => {
  client.send('ack', {});
  client.send('pong', {});
  assert.equal((await client.ask('ping', { any: 'thing' })).type, 'pong');
  assert(await client.isQuiet());
});

await check('a publish is acknowledged with the id that all see', async () => {
  const other = await Client.connect();
  await other.subscribe();
  const ack = await client.ask('publish', { type: 'task.done', payload: { 'ключ': '☃ 𝄞' } });
  assert.equal(ack.type, 'ack');
  const event = await other.event();
  assert.equal(event.event_id, ack.payload.event_id);
  assert.deepEqual(event.payload, { 'ключ': '☃ 𝄞' });
  assert.equal((await client.ask('publish', { payload: 1 })).payload.error, 'event has no type');
  other.ws.close();
});

await check('since gives exactly the missed events, history the newest', async () => {
  const id = await publish(numbered(100));
  await publish([101, 102, 103].map((n) => numbered(n)));
  const back = await Client.connect();
  await back.subscribe({ event_types: ['test.*'], since: id });
  for (const n of [101, 102, 103]) assert.equal((await back.event()).payload.n, n);
  const late = await Client.connect();
  await late.subscribe({ event_types: ['test.*'], history: 2 });
  for (const n of [102, 103]) assert.equal((await late.event()).payload.n, n);
  for (const client of [back, late]) {
    const end = await client.messages.next('the end of the past');
    assert.deepEqual([end.type, end.payload.complete], ['history_end', true], JSON.stringify(end));
    assert(await client.isQuiet());
  }
});

await check('a since of another life is answered with a gap', async () => {
  const other = await Client.connect();
  const id = (await publish(numbered(200))).replace(/^[^-]+/, 'abc');
  await other.subscribe({ since: id });
  const gap = await other.messages.next('a gap');
  assert.equal(gap.type, 'gap', JSON.stringify(gap));
  assert.equal(gap.payload.missed, null);
  assert.equal(gap.payload.recoverable, false);
});

await done();
