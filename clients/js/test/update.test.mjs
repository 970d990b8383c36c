// Changes of a subscription's lists, with the real server.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Fanwire, isGap } from '../dist/index.js';
import { Proxy, Server, quick, take, until } from './support.mjs';

let server;
before(async () => (server = await Server.start()));
after(() => server.stop());

const connect = (t, options = {}, url = server.url) => {
  const client = new Fanwire(url, { ...quick, ...options });
  t.after(() => client.close());
  return client;
};
const quote = (id, n, type = 'quote') => ({ type, entity: { kind: 'symbol', id }, payload: n });
const ids = async (subscription, count) => (await take(subscription, count)).map((event) => `${event.entity.id}${event.payload}`);

for (const transports of [['ws'], ['sse']]) {
  test(`${transports}: added values come and removed ones do not`, async (t) => {
    const client = connect(t, { transports });
    const [list, all] = [client.subscribe({ entities: ['symbol:a', { kind: 'symbol', id: 'b' }] }), client.subscribe('quote')];
    await Promise.all([list.ready, all.ready]);
    await server.publish([quote('c', 1), quote('a', 1), quote('b', 1)]);
    assert.deepEqual(await ids(list, 2), ['a1', 'b1']);
    const change = { add: { entities: ['symbol:c', 'symbol:b'] }, remove: { entities: [{ kind: 'symbol', id: 'a' }] } };
    assert.deepEqual(await list.update(change), { added: 1, removed: 1 });
    await until('the stream', () => list.active);
    await server.publish([quote('a', 2), quote('b', 2), quote('c', 2)]);
    assert.deepEqual(await ids(list, 2), ['b2', 'c2']);
    // A list without values matches nothing, and can be filled again.
    assert.deepEqual(await list.update({ remove: { entities: ['symbol:b', 'symbol:c'] } }), { added: 0, removed: 2 });
    await until('the stream', () => list.active);
    await server.publish([quote('b', 3), quote('c', 3)]);
    assert.deepEqual(await list.update({ add: { entities: ['symbol:a'] } }), { added: 1, removed: 0 });
    await until('the stream', () => list.active);
    await server.publish([quote('a', 4), quote('b', 4)]);
    assert.deepEqual(await ids(list, 1), ['a4']);
    assert.deepEqual((await ids(all, 10)).at(-1), 'b4', 'the other subscription got all');
  });
}

test('the snapshot of added values comes once, before live events', async (t) => {
  await server.publish([quote('x', 1, 'tick'), quote('y', 1, 'tick'), quote('x', 2, 'tick')]);
  const client = connect(t);
  const other = client.subscribe('tick');
  const list = client.subscribe({ event_types: ['tick'], entities: ['symbol:y'] }, { snapshot: true });
  await other.ready;
  assert.deepEqual(await ids(list, 1), ['y1']);
  await list.update({ add: { entities: ['symbol:x'] } });
  await server.publish([quote('y', 3, 'tick'), quote('x', 3, 'tick')]);
  assert.deepEqual(await ids(list, 3), ['x2', 'y3', 'x3']);
  assert.deepEqual(await ids(other, 2), ['y3', 'x3']);
});

test('a changed list survives a lost connection, and so does a change that waits', async (t) => {
  const proxy = await Proxy.to(server);
  t.after(() => proxy.close());
  const client = connect(t, { transports: ['ws'] }, proxy.url);
  const list = client.subscribe({ event_types: ['cut'], entities: ['symbol:a', 'symbol:b'] });
  const empty = client.subscribe({ event_types: ['cut'], entities: ['symbol:a'] });
  // Before anything is open.
  await Promise.all([list.update({ add: { entities: ['symbol:c'] } }), empty.update({ remove: { entities: ['symbol:a'] } })]);
  proxy.down = true;
  proxy.cut();
  await until('the loss', () => client.status === 'waiting');
  const late = list.update({ remove: { entities: ['symbol:b'] } });
  await server.publish([quote('c', 1, 'cut')]);
  proxy.down = false;
  await late;
  await server.publish(['a', 'b', 'c'].map((id) => quote(id, 2, 'cut')));
  assert.deepEqual(await ids(list, 3), ['c1', 'a2', 'c2']);
  await empty.update({ add: { entities: ['symbol:b'] } });
  await server.publish(['a', 'b'].map((id) => quote(id, 3, 'cut')));
  assert.deepEqual(await ids(empty, 1), ['b3']);
  assert.deepEqual(list.filter, { event_types: ['cut'], entities: ['symbol:a', 'symbol:c'] });
});

test('a refused change is an error and changes nothing', async (t) => {
  const client = connect(t);
  const list = client.subscribe({ entities: ['symbol:a'] });
  for (const change of [{ add: { channels: ['c'] } }, { add: { entities: ['symbol:b'] }, remove: { entities: ['symbol:b'] } }]) {
    await assert.rejects(list.update(change), { code: 'invalid_payload' });
  }
  await server.publish([quote('b', 1), quote('a', 2)]);
  assert.deepEqual(await ids(list, 1), ['a2']);
  list.close();
  await assert.rejects(list.update({ add: { entities: ['symbol:b'] } }), { code: 'closed' });
  assert(!isGap({ event_type: 'x' }));
});
