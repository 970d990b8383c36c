// Compressed streams read by Node: permessage-deflate in each form, with clients that join and leave, and gzip.
import http from 'node:http';
import zlib from 'node:zlib';
import { Client, Queue, assert, check, cleanups, done, publish, url } from './lib.mjs';

const words = ['reading', 'the', 'sources', 'of', 'a', 'module', 'that', 'fails', 'its', 'test'];
const event = (n) => ({
  type: 'agent.message',
  source: 'test',
  payload: { n, text: Array.from({ length: 20 + (n % 50) }, (_, i) => words[(n * 7 + i * 3) % 10]).join(' ') },
});

async function metric(name) {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(text.match(new RegExp(`^${name} (.*)$`, 'm'))[1]);
}

/** Events from `from` to before `to`, word for word. */
async function sees(client, from, to) {
  const gone = client.closed.then(({ code, reason }) => { throw new Error(`closed: ${code} ${reason}`); });
  for (let n = from; n < to; n += 1) {
    assert.deepEqual((await Promise.race([client.event(), gone])).payload, event(n).payload);
  }
  gone.catch(() => {});
}

const forms = {
  'with a shared window': { perMessageDeflate: {} },
  'each message by itself': { perMessageDeflate: { serverNoContextTakeover: true } },
  'with a small window': { perMessageDeflate: { serverMaxWindowBits: 9 } },
};
for (const [name, options] of Object.entries(forms)) {
  await check(`clients that come and go read every message, ${name}`, async () => {
    const plain = await Client.connect({ perMessageDeflate: false });
    assert.equal(plain.ws.extensions, '');
    await plain.subscribe();
    const clients = [];
    for (let n = 0; n < 60; n += 1) {
      if (n % 15 === 0) {
        const client = await Client.connect(options);
        assert.match(client.ws.extensions, /^permessage-deflate/);
        await client.subscribe({ event_types: ['agent.*'] });
        clients.push({ client, from: n });
      }
      await publish(n % 3 === 0 ? [event(n)] : event(n));
      if (n === 40) {
        // The client leaves its feed, and comes back.
        const { client, from } = clients[0];
        await sees(client, from, 41);
        const id = await client.subscribe({ event_types: ['other'] });
        await client.ask('unsubscribe', { subscription_id: id });
        clients[0].from = 41;
      }
    }
    await sees(plain, 0, 60);
    for (const { client, from } of clients) {
      await sees(client, from, 60);
      assert.equal(await client.isQuiet(), true);
      client.ws.close();
    }
    plain.ws.close();
  });
}

await check('compressed messages of Node are read, and an event is deflated once for a hundred clients', async () => {
  const clients = await Promise.all(
    Array.from({ length: 100 }, () => Client.connect({ perMessageDeflate: { threshold: 0 } })),
  );
  await Promise.all(clients.map((client) => client.subscribe({ event_types: ['agent.*'] })));
  const before = await metric('fanwire_feed_deflates_total');
  for (let n = 0; n < 30; n += 1) await publish(event(n));
  await Promise.all(clients.map((client) => sees(client, 0, 30)));
  assert.equal((await metric('fanwire_feed_deflates_total')) - before, 30);
  for (const { ws } of clients) ws.close();
});

/** Text of a gzip stream as it arrives. */
async function stream(path) {
  const [text, comments] = [new Queue(), new Queue()];
  const response = await new Promise((open, fail) => {
    http.get(`${url}${path}`, { headers: { 'Accept-Encoding': 'gzip' }, agent: false }, open).on('error', fail);
  });
  assert.equal(response.headers['content-encoding'], 'gzip');
  assert.equal(response.headers['content-type'], 'text/event-stream');
  let rest = '';
  const gunzip = zlib.createGunzip();
  response.pipe(gunzip).on('data', (chunk) => {
    const parts = (rest + chunk).split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      if (part.includes('data: ')) text.push(JSON.parse(part.match(/^data: (.*)$/m)[1]));
      if (part.startsWith(': ')) comments.push(part.slice(2));
    }
  });
  cleanups.push(() => response.destroy());
  return { text, response, comment: () => comments.next(), next: async () => (await text.next()).payload };
}

await check('gzip streams begin at any time, with the past, and go on over heartbeats', async () => {
  const first = await stream('/sse?type=agent.*');
  for (let n = 0; n < 10; n += 1) {
    await publish(event(n));
    assert.deepEqual(await first.next(), event(n).payload);
  }
  const second = await stream('/sse?type=agent.*&history=3');
  for (let n = 7; n < 10; n += 1) assert.deepEqual(await second.next(), event(n).payload);
  assert.equal(await second.comment(), 'history_end events=3 complete=true');
  for (let n = 10; n < 200; n += 1) {
    if (n === 100) for (const each of [first, second]) for (let beat = 0; beat < 2; beat += 1) assert.equal(await each.comment(), 'heartbeat');
    await publish(event(n));
    for (const each of [first, second]) assert.deepEqual(await each.next(), event(n).payload);
  }
});

await check('the heartbeat of an idle gzip stream can be seen, and its events can be read after it', async () => {
  const idle = await stream('/sse?type=idle.*');
  const busy = await stream('/sse?type=agent.*');
  for (let n = 0; n < 3; n += 1) {
    assert.equal(await idle.comment(), 'heartbeat');
    await publish({ ...event(n), type: 'idle.now' });
    await publish(event(n));
    assert.deepEqual(await idle.next(), event(n).payload);
    assert.deepEqual(await busy.next(), event(n).payload);
  }
});

await done();
