// Proves, with Node's `eventsource`: fields of an event, filters, reconnecting without loss or repeats, the gap
// after a restart.
import { EventSource } from 'eventsource';
import { Queue, ask, assert, check, done, numbered, publish, url, until } from './lib.mjs';

/** Opens a stream and keeps the events with these names. */
async function open(base, query, names = ['test.numbered']) {
  const source = new EventSource(`${base}/sse${query}`);
  const events = new Queue();
  for (const name of [...names, 'gap']) source.addEventListener(name, (event) => events.push(event));
  source.opens = 0;
  source.addEventListener('open', () => (source.opens += 1));
  await until('it opens', () => source.opens === 1);
  return { source, events };
}

const number = (event) => {
  assert.equal(event.type, 'test.numbered', `${event.type} ${event.data}`);
  return JSON.parse(event.data).payload.n;
};

await check('id, event and data are the event', async () => {
  const { source, events } = await open(url, '', ['task.done']);
  const id = await publish({ type: 'task.done', payload: { text: 'two\nlines, ☃' } });
  const event = await events.next();
  assert.equal(event.type, 'task.done');
  assert.equal(event.lastEventId, id);
  const data = JSON.parse(event.data);
  assert.equal(data.event_id, id);
  assert.deepEqual(data.payload, { text: 'two\nlines, ☃' });
  source.close();
});

await check('event_name=message serves onmessage', async () => {
  const { source, events } = await open(url, '?event_name=message', ['message']);
  await publish({ type: 'anything' });
  assert.equal(JSON.parse((await events.next()).data).event_type, 'anything');
  source.close();
});

await check('the query is the filter', async () => {
  const { source, events } = await open(url, '?type=test.*&source=a&source=b&entity=task:t-1');
  const entity = { kind: 'task', id: 't-1' };
  await publish([
    numbered(1, { source: 'a', entity }), numbered(2, { source: 'c', entity }), numbered(3, { source: 'b' }),
    numbered(4, { source: 'b', entity }), { type: 'tes', source: 'a', entity }, numbered(5, { source: 'a', entity }),
  ]);
  for (const n of [1, 4, 5]) assert.equal(number(await events.next()), n);
  source.close();
});

await check('history comes first, then new events', async () => {
  await publish([10, 11, 12].map((n) => numbered(n)));
  const { source, events } = await open(url, '?type=test.numbered&history=2');
  await publish(numbered(13));
  for (const n of [11, 12, 13]) assert.equal(number(await events.next()), n);
  source.close();
});

await check('a bad query ends it for good', async () => {
  const source = new EventSource(`${url}/sse?history=many`);
  const error = await new Promise((failed) => source.addEventListener('error', failed));
  assert.equal(error.code, 400);
  assert.equal(source.readyState, EventSource.CLOSED);
});

await check('connections cut at any byte cost no event and give none twice', async () => {
  const base = await ask('proxy');
  const streams = await Promise.all(Array.from({ length: 5 }, () => open(base, '?type=test.numbered')));
  let last = 99;
  const more = (count) => publish(Array.from({ length: count }, () => numbered((last += 1))));
  await more(3);
  // Certainly in the middle of an event: the streams have the same bytes, so each is cut in the same event at
  // the same byte.
  await ask('cut-after 1503');
  const end = Date.now() + 9_000;
  while (Date.now() < end) {
    await more(1);
    await new Promise((wake) => setTimeout(wake, 100));
  }
  await ask('cut-after 0');
  await more(2);
  await ask('cut');
  await more(3);
  for (const { source, events } of streams) {
    for (let n = 100; n <= last; n += 1) assert.equal(number(await events.next(`event ${n} of ${last}`)), n);
    assert(source.opens >= 3, `opened ${source.opens} times`);
  }
  await more(1);
  for (const { source, events } of streams) {
    assert.equal(number(await events.next()), last);
    assert.equal(events.items.length, 0);
    source.close();
  }
});

await check('after a restart a gap says that events are gone, and the stream goes on', async () => {
  const { source, events } = await open(url, '?type=test.*');
  await publish(numbered(1));
  assert.equal(number(await events.next()), 1);
  await ask('restart');
  await until('it is back', () => source.opens === 2);
  await publish(numbered(2));
  const gap = await events.next();
  assert.equal(gap.type, 'gap');
  const { missed, recoverable } = JSON.parse(gap.data);
  assert.deepEqual({ missed, recoverable }, { missed: null, recoverable: false });
  assert.equal(number(await events.next()), 2);
  source.close();
});

await done();
