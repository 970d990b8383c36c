// Chromium with the proxies of tests/foreign: its own EventSource and WebSocket, event-source-polyfill and
// fetch-event-source, in a page of each proxy's origin, or of another origin.
import { readFile } from 'node:fs/promises';
import { launch } from './browser.mjs';
import { leave } from './lib.mjs';

process.stdin.on('end', () => leave(0)).resume();

const { context, page: first } = await launch();
// A slow machine opens many pages slowly.
context.setDefaultTimeout(120_000);
await context.exposeFunction('tellTest', (line) => console.log(line));
const modules = {
  'habits.mjs': 'foreign_habits.mjs',
  fetch: 'node_modules/@microsoft/fetch-event-source/lib/esm/fetch.js',
  parse: 'node_modules/@microsoft/fetch-event-source/lib/esm/parse.js',
};
// The proxies do not know the page's scripts.
await context.route('**/_modules/*', async (route) => {
  const file = modules[new URL(route.request().url()).pathname.split('/').pop()];
  route.fulfill({ contentType: 'text/javascript', body: await readFile(new URL(file, import.meta.url)) });
});
const polyfill = new URL('node_modules/event-source-polyfill/src/eventsource.js', import.meta.url).pathname;

const jobs = JSON.parse(process.argv[2]);
let page = first;
for (const origin of new Set(jobs.map((job) => job.page))) {
  page ??= await context.newPage();
  await page.goto(`${origin}/healthz`);
  await page.addScriptTag({ path: polyfill });
  await page.evaluate(async (jobs) => {
    const { eventSource, fetched, socket } = await import('/_modules/habits.mjs');
    const { fetchEventSource } = await import('/_modules/fetch');
    const clients = {
      'chromium-eventsource': (job, tell) => eventSource(EventSource, job, tell),
      'event-source-polyfill': (job, tell) => eventSource(EventSourcePolyfill, job, tell),
      'fetch-event-source': (job, tell) => fetched(fetchEventSource, job, tell),
      'chromium-websocket': (job, tell) => socket((url) => new WebSocket(url), job, tell, true),
    };
    // A call for each line would keep the browser busier than the clients do.
    const lines = [];
    setInterval(() => lines.length > 0 && window.tellTest(lines.splice(0).join('\n')), 200);
    for (const job of jobs) clients[job.client](job, (line) => lines.push(`${job.client} ${job.name} ${line}`));
  }, jobs.filter((job) => job.page === origin));
  page = undefined;
}
