// Chromium's own WebSocket or EventSource as a witness: prints `ready`, then the id of each event that it
// receives.
import { launch } from './browser.mjs';
import { args, leave, url } from './lib.mjs';

const [kind, count] = [args[0], Number(args[1])];
const { page } = await launch();
let left = count;
const finished = new Promise((end) => {
  page.exposeFunction('see', (event) => {
    console.log(`saw ${event.event_id} ${JSON.stringify(event.payload)}`);
    left -= 1;
    if (left === 0) end();
  });
});
// Any page of the server's own origin.
await page.goto(`${url}/healthz`);
await page.evaluate(async (kind) => {
  if (kind === 'ws') {
    const ws = new WebSocket(`ws://${location.host}/ws`, 'fanwire.v1');
    await new Promise((open) => (ws.onopen = open));
    await new Promise((acked) => {
      ws.onmessage = ({ data }) => {
        const { type, payload } = JSON.parse(data);
        if (type === 'ack') acked();
        else window.see(payload);
      };
      ws.send(JSON.stringify({ type: 'subscribe' }));
    });
  } else {
    const source = new EventSource('/sse?event_name=message');
    source.onmessage = ({ data }) => window.see(JSON.parse(data));
    await new Promise((open) => (source.onopen = open));
  }
}, kind);
console.log('ready');
await finished;
await leave(0);
