// Proves, with Node: two hundred clients at once, half `ws`, half `eventsource`, get the same events in the
// same order.
import { createHash } from 'node:crypto';
import { EventSource } from 'eventsource';
import { Client, assert, check, done, numbered, publish, until, url } from './lib.mjs';

const CLIENTS = 100;
const EVENTS = 1000;
const seen = [];

/** Record of one client: a hash over all events as received, and their count. */
function witness(name) {
  const hash = createHash('sha256');
  const self = { name, count: 0, see: (json) => (hash.update(json), (self.count += 1)), hash };
  seen.push(self);
  return self;
}

await check('they all connect', async () => {
  const sockets = Array.from({ length: CLIENTS }, async (_, n) => {
    const client = await Client.connect();
    await client.subscribe({ event_types: ['test.*'] });
    const self = witness(`ws ${n}`);
    client.messages.push = (message) => self.see(JSON.stringify(message.payload));
  });
  const streams = Array.from({ length: CLIENTS }, async (_, n) => {
    const source = new EventSource(`${url}/sse?type=test.*`);
    const self = witness(`eventsource ${n}`);
    source.addEventListener('test.numbered', ({ data }) => self.see(JSON.stringify(JSON.parse(data))));
    await new Promise((open) => source.addEventListener('open', open));
  });
  await Promise.all([...sockets, ...streams]);
  assert.equal(seen.length, 2 * CLIENTS);
});

await check('each sees each event once, in one order', async () => {
  // Four publishers at once: the bus chooses the order, which is the same for all.
  const publisher = async (name) => {
    for (let n = 0; n < EVENTS / 4; n += 5) {
      await publish([0, 1, 2, 3, 4].map((more) => numbered(n + more, { source: name })));
    }
  };
  await Promise.all(['a', 'b', 'c', 'd'].map(publisher));
  await until('all have all', () => seen.every(({ count }) => count >= EVENTS));
  assert(seen.every(({ count }) => count === EVENTS));
  const orders = new Set(seen.map(({ hash }) => hash.digest('hex')));
  assert.equal(orders.size, 1);
});

await done();
