// Proves, with Chromium's own EventSource, WebSocket and fetch: resume after a cut, and CORS from another
// origin.
import http from 'node:http';
import { ask, assert, check, done, numbered, publish, url } from './lib.mjs';
import { launch } from './browser.mjs';

const { page, faults } = await launch();

await check('EventSource comes back by itself, with no event lost or twice', async () => {
  const base = await ask('proxy');
  await page.goto(`${base}/healthz`);
  await page.evaluate(async () => {
    window.got = [];
    window.opens = 0;
    const source = new EventSource('/sse?type=test.*');
    source.addEventListener('test.numbered', (event) => window.got.push([JSON.parse(event.data), event.lastEventId]));
    source.addEventListener('gap', (event) => window.got.push(event.data));
    await new Promise((open) => (source.onopen = () => ((window.opens += 1), open())));
  });
  await publish([0, 1, 2].map((n) => numbered(n)));
  for (const life of [1, 2]) {
    await page.waitForFunction((count) => window.got.length === count, 5 * life - 2);
    await ask('cut');
    // While the server is away.
    await publish([0, 1, 2, 3, 4].map((n) => numbered(5 * life - 2 + n)));
    await page.waitForFunction((opens) => window.opens === opens, life + 1);
  }
  await page.waitForFunction(() => window.got.length >= 13);
  const got = await page.evaluate(() => window.got);
  assert.deepEqual(got.map(([event]) => event.payload.n), Array.from({ length: 13 }, (_, n) => n));
  assert(got.every(([event, id]) => event.event_id === id));
});

await check('WebSocket: subprotocol, an event, a clean close', async () => {
  await page.goto(`${url}/healthz`);
  const result = page.evaluate(async () => {
    const ws = new WebSocket(`ws://${location.host}/ws`, ['fanwire.v1']);
    const messages = [];
    await new Promise((open, fail) => ((ws.onopen = open), (ws.onerror = fail)));
    await new Promise((all) => {
      ws.onmessage = ({ data }) => {
        messages.push(JSON.parse(data));
        if (messages.length === 1) ws.send(JSON.stringify({ type: 'publish', payload: { type: 'from.chromium', payload: '☃' } }));
        if (messages.length === 3) all();
      };
      ws.send(JSON.stringify({ type: 'subscribe', payload: { event_types: ['from.*'] } }));
    });
    const closed = new Promise((close) => (ws.onclose = ({ code, wasClean }) => close({ code, wasClean })));
    ws.close(1000, 'done');
    return { protocol: ws.protocol, extensions: ws.extensions, types: messages.map((m) => m.type).sort(), closed: await closed };
  });
  assert.deepEqual(await result, {
    protocol: 'fanwire.v1', extensions: 'permessage-deflate; client_no_context_takeover', types: ['ack', 'ack', 'event'], closed: { code: 1000, wasClean: true },
  });
});

// Two pages from other origins: one may read, the other may not.
const site = () =>
  new Promise((ready) => {
    const server = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html>'));
    server.listen(0, '127.0.0.1', () => ready(`http://127.0.0.1:${server.address().port}`));
  });
const [friend, stranger] = [await site(), await site()];
const api = await ask(`serve --cors-origin ${friend}`);

/** Parts of the server that a page can see from its origin. */
const tryAll = (api) => {
  const read = async (run) => run().then((value) => value, (error) => String(error.name));
  return Promise.all([
    read(async () => (await fetch(`${api}/publish`, { method: 'POST', body: '{"type":"cross"}', headers: { 'content-type': 'application/json' } })).status),
    read(async () => (await (await fetch(`${api}/api/stats`)).json()) && 'stats'),
    new Promise((end) => {
      const source = new EventSource(`${api}/sse?history=1`);
      source.onopen = () => (source.close(), end('open'));
      source.onerror = () => (source.close(), end('refused'));
    }),
  ]);
};

await check('an allowed origin publishes, reads and listens across origins', async () => {
  await page.goto(friend);
  assert.deepEqual(await page.evaluate(tryAll, api), [200, 'stats', 'open']);
});

await check('another origin gets nothing', async () => {
  await page.goto(stranger);
  assert.deepEqual(await page.evaluate(tryAll, api), ['TypeError', 'TypeError', 'refused']);
});

assert.deepEqual(faults, []);
await done();
