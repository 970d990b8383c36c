// Chromium's own WebSocket and EventSource with compression: each event arrives before the next one is
// published.
import { launch } from './browser.mjs';
import { Queue, assert, check, done, publish, url } from './lib.mjs';

const { page, context } = await launch();
const seen = new Queue();
await page.exposeFunction('see', (event) => seen.push(event));
await page.goto(`${url}/healthz`);
const text = 'the same words again and again, and then some more of them '.repeat(4);

async function isLive(from) {
  for (let n = from; n < from + 30; n += 1) {
    await publish({ type: 'agent.message', payload: { n, text } });
    assert.deepEqual((await seen.next(`event ${n}`)).payload, { n, text });
  }
}

await check('a WebSocket has permessage-deflate, and is live', async () => {
  const extensions = await page.evaluate(async () => {
    const ws = new WebSocket(`ws://${location.host}/ws`, 'fanwire.v1');
    await new Promise((open) => (ws.onopen = open));
    await new Promise((acked) => {
      ws.onmessage = ({ data }) => {
        const { type, payload } = JSON.parse(data);
        if (type === 'ack') acked();
        if (type === 'event') window.see(payload);
      };
      ws.send(JSON.stringify({ type: 'subscribe' }));
    });
    window.ws = ws;
    return ws.extensions;
  });
  assert.match(extensions, /permessage-deflate/);
  await isLive(0);
  await page.evaluate(() => window.ws.close());
});

await check('an EventSource has gzip, and is live', async () => {
  const cdp = await context.newCDPSession(page);
  await cdp.send('Network.enable');
  const headers = new Promise((come) => {
    cdp.on('Network.responseReceived', ({ response }) => {
      if (response.url.includes('/sse')) come(response.headers);
    });
  });
  await page.evaluate(async () => {
    const source = new EventSource('/sse?event_name=message');
    source.onmessage = ({ data }) => window.see(JSON.parse(data));
    await new Promise((open) => (source.onopen = open));
  });
  const encoding = Object.entries(await headers).find(([name]) => name.toLowerCase() === 'content-encoding');
  assert.equal(encoding?.[1], 'gzip');
  await isLive(100);
});

await done();
