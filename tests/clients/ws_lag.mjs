// Proves, with Node's `ws`: a client that stops reading gets a gap or is closed, and does not affect the others.
import { Client, assert, check, done, publish, until } from './lib.mjs';

const BATCHES = 300;
const EACH = 50;
const padding = 'x'.repeat(2000);
let next = 0;

/** Far more than the sockets' buffers and the feed hold. */
async function flood() {
  for (let batch = 0; batch < BATCHES; batch += 1) {
    await publish(Array.from({ length: EACH }, () => ({ type: 'flood', payload: { n: (next += 1), padding } })));
  }
}

const reader = await Client.connect();
await reader.subscribe();

await check('a sleeper wakes to gaps that add up, in order, and then is up to date', async () => {
  const sleeper = await Client.connect();
  await sleeper.subscribe({ on_lag: 'drop_oldest' });
  const first = next + 1;
  sleeper.ws.pause();
  await flood();
  sleeper.ws.resume();
  let [expected, missed, gaps] = [first, 0, 0];
  while (expected <= next) {
    const { type, payload } = await sleeper.messages.next(`event ${expected} of ${next}`);
    if (type === 'gap') {
      assert(payload.missed > 0 && payload.from && payload.to, JSON.stringify(payload));
      [missed, gaps, expected] = [missed + payload.missed, gaps + 1, expected + payload.missed];
    } else {
      assert.equal(payload.payload.n, expected);
      expected += 1;
    }
  }
  assert(gaps >= 1 && missed > 100, `${gaps} gaps, ${missed} missed`);
  await publish({ type: 'flood', payload: { n: (next += 1) } });
  assert.equal((await sleeper.event()).payload.n, next);
});

await check('a client that asked to be closed instead of missing an event is closed', async () => {
  const strict = await Client.connect();
  await strict.subscribe({ on_lag: 'disconnect' });
  const first = next + 1;
  strict.ws.pause();
  await flood();
  await until('the others have all', () => reader.messages.items.length >= next);
  strict.ws.resume();
  const { code } = await strict.closed;
  assert.equal(code, 1013);
  strict.messages.items.forEach(({ type, payload }, at) => {
    assert.equal(type, 'event');
    assert.equal(payload.payload.n, first + at, 'nothing is missing before the close');
  });
});

await check('the client that read got every event', async () => {
  for (let n = 1; n <= next; n += 1) assert.equal((await reader.event()).payload.n, n);
});

await done();
