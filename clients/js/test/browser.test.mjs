// The client and the hooks in Chromium, with the real server, from a page of another origin.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { after, before, test } from 'node:test';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import { Proxy, Server, here, listening, numbered, overtake, sleep, unrest, until } from './support.mjs';

const names = process.env.FANWIRE_CHROMIUM ? [process.env.FANWIRE_CHROMIUM] : ['/usr/bin/chromium', 'chromium', 'chromium-browser', 'google-chrome'];
const found = names.find((name) => {
  try {
    return execFileSync(name, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] });
  } catch {
    return false;
  }
});
/** Playwright needs a path. */
const executablePath = found?.includes('/') ? found : found && execFileSync('which', [found], { encoding: 'utf8' }).trim();

let server;
let proxy;
let site;
let browser;
let page;
const faults = [];

before(async () => {
  assert(executablePath, `none of ${names} is there`);
  server = await Server.start('--cors-origin', '*', '--retain', 'by=stream; end=run.finished; events=100000; bytes=64MiB; match=stream=run-*');
  proxy = await Proxy.to(server);
  const { outputFiles } = await build({
    entryPoints: [here('page.jsx')], bundle: true, format: 'esm', jsx: 'automatic', write: false, define: { 'process.env.NODE_ENV': '"development"' },
  });
  const guide = await readFile(here('../../../docs/front-end.md'), 'utf8');
  const guided = /```html\n([^]*?)```/.exec(guide)[1].replace('http://127.0.0.1:8765', server.url);
  site = http.createServer(async (request, answer) => {
    // The page of the guide, and the client's built files.
    const file = /^\/fanwire\/(\w+\.js)$/.exec(request.url)?.[1];
    if (file) return answer.setHeader('content-type', 'text/javascript').end(await readFile(here(`../dist/${file}`)));
    if (request.url === '/guide') return answer.setHeader('content-type', 'text/html').end(guided);
    const isScript = request.url === '/page.js';
    answer.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    answer.end(isScript ? outputFiles[0].text : '<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/page.js"></script>');
  });
  const url = await listening(site);
  browser = await chromium.launch({ executablePath, args: ['--disable-dev-shm-usage', '--disable-gpu'] });
  page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  page.on('pageerror', (error) => faults.push(String(error)));
  await page.goto(url);
  await page.waitForFunction(() => window.show);
});

after(async () => {
  await browser?.close();
  site?.close();
  await proxy?.close();
  await server?.stop();
});

for (const transport of ['ws', 'sse']) {
  test(`by ${transport}, cut at random, the page sees every event once and in order`, { timeout: 60_000 }, async () => {
    const EVENTS = 1_000;
    await page.evaluate(([url, transport, count]) => window.follow(url, [transport], count), [proxy.url, transport, EVENTS]);
    let passed = 0;
    const asking = setInterval(async () => (passed = await page.evaluate(() => window.passed).catch(() => passed)), 20);
    const stop = unrest(proxy, 7, () => passed);
    for (let n = 0; n < EVENTS; n += 10) {
      await server.publish(Array.from({ length: 10 }, (_, more) => numbered(n + more)));
      await sleep(10);
    }
    const cuts = await stop();
    clearInterval(asking);
    await page.evaluate(() => window.following);
    assert(cuts > 3, `${cuts} cuts`);
  });
}

const text = (selector) => page.locator(selector).innerText();

test('useFanwire shows, bounds, follows its filter, shares a connection and comes back', { timeout: 60_000 }, async () => {
  const sockets = [];
  page.on('websocket', (socket) => sockets.push(socket.url()));
  await page.evaluate((url) => window.show(url), proxy.url);
  for (const name of ['one', 'two']) await until('it is open', async () => (await text(`#${name} .status`)) === 'open');
  // Two lists share one connection. The hook has its own, which strict mode opens twice.
  assert(sockets.length <= 3, sockets.join());
  await page.click('#one button');
  for (const name of ['one', 'two']) await until('the event', async () => (await text(`#${name} .last`)) === 'list.clicked');

  const renders = await page.evaluate(() => window.renders);
  for (let n = 0; n < 1_000; n += 100) await server.publish(Array.from({ length: 100 }, (_, more) => ({ type: 'list.n', payload: n + more })));
  await until('the newest', async () => (await text('#one ul')).endsWith('999'));
  assert.equal(await page.locator('#one li').count(), 5);
  await until('the newest', async () => (await text('#two ul')).endsWith('999'));
  assert.equal(await page.locator('#two li').count(), 100);
  const more = (await page.evaluate(() => window.renders)) - renders;
  assert(more < 400, `${more} renders for 1,000 events`);

  await page.click('#other');
  await until('an empty list', async () => (await page.locator('#one li').count()) === 0);
  await until('the new filter', async () => (await server.publish({ type: 'other.x', payload: 'seen' }), (await text('#one .last')) === 'other.x'));

  await server.restart();
  await until('a gap', async () => (await text('#one .gaps')) === '1' && (await text('#two .gaps')) === '1');
  await server.publish({ type: 'list.again', payload: 'again' });
  await until('the event', async () => (await text('#two .last')) === 'list.again');
});

test('useRun has a run whole, over cuts, its text and its end', { timeout: 60_000 }, async () => {
  const words = Array.from({ length: 2_000 }, (_, n) => `word${n} `);
  const publish = (from, to) => server.publish(words.slice(from, to).map((delta) => ({ type: 'token', stream_id: 'run-1', payload: { delta } })));
  await publish(0, 1_000);
  await page.click('#run');
  await until('the past', async () => (await text('#answer .count')) === '1000');
  for (let n = 1_000; n < 2_000; n += 100) {
    await publish(n, n + 100);
    if (n % 300 === 0) proxy.cut(n);
  }
  await server.publish({ type: 'run.finished', stream_id: 'run-1' });
  await until('the end', async () => (await text('#answer .ended')) === 'run.finished true');
  assert.equal(await page.locator('#answer .text').evaluate((node) => node.textContent), words.join(''));
  assert.deepEqual([await text('#answer .gaps'), await text('#answer .error')], ['0', '']);
  const renders = await page.evaluate(() => window.runRenders);
  assert(renders < 2_000, `${renders} renders for 2,001 events`);
  await page.click('#next');
  await until('an empty run', async () => (await text('#answer .count')) === '0');
  await server.publish({ type: 'token', stream_id: 'run-2', payload: { delta: 'other' } });
  await until('its text', async () => (await text('#answer .text')) === 'other');
});

test('useRun of a page that falls far behind has the exact text, in few events', { timeout: 120_000 }, async () => {
  const early = ['a', 'b', 'c'];
  await server.publish(early.map((delta) => ({ type: 'token', stream_id: 'run-slow', payload: { delta } })));
  await page.click('#slow');
  await until('it is open', async () => (await text('#answer .status')) === 'open');
  await until('the past', async () => Number(await text('#answer .count')) > 0);
  proxy.hold(true);
  const words = [...early, ...(await overtake(server, 'run-slow'))];
  await server.publish({ type: 'run.finished', stream_id: 'run-slow' });
  proxy.hold(false);
  await until('the end', async () => (await text('#answer .ended')) === 'run.finished true');
  const shown = await page.locator('#answer .text').evaluate((node) => node.textContent);
  assert(shown === words.join(''), `${shown.length} instead of ${words.join('').length}`);
  assert.deepEqual([await text('#answer .gaps'), await text('#answer .error')], ['0', '']);
  const count = Number(await text('#answer .count'));
  assert(count < words.length, `${count} events`);
  await page.click('#next');
});

test('useWebSocket connects, keeps messages, sends, and reconnects', { timeout: 60_000 }, async () => {
  await until('it is open', async () => (await text('#socket .status')) === 'true');
  await until('its greeting is taken', async () => (await text('#socket .types')).includes('ack'));
  await page.click('#socket button');
  await until('the event', async () => (await text('#socket .last')) === 'hello' || (await text('#socket .types')).includes('event'));
  proxy.down = true;
  proxy.cut();
  await until('the loss', async () => (await text('#socket .status')) === 'false');
  // Messages sent without a connection are sent on the next one.
  await page.click('#socket button');
  const before = (await text('#socket .types')).split(' ').filter((type) => type === 'event').length;
  proxy.down = false;
  await until('the event', async () => (await text('#socket .types')).split(' ').filter((type) => type === 'event').length === before + 1);
});

test('the page of the front-end guide works as it stands', { timeout: 30_000 }, async () => {
  for (let n = 0; n < 25; n += 1) await server.publish({ type: 'task.before', payload: n });
  const other = await browser.newPage();
  other.on('pageerror', (error) => faults.push(String(error)));
  await other.goto(`http://127.0.0.1:${site.address().port}/guide`);
  await other.waitForFunction(() => document.querySelectorAll('#tasks li').length === 20);
  assert.equal(await other.locator('#tasks li').first().innerText(), 'task.before 24');
  assert.equal(await other.locator('#status').innerText(), 'open');
  await other.click('#publish');
  await other.waitForFunction(() => document.querySelector('#tasks li').textContent === 'task.progress {"progress":42}');
  await server.restart();
  await other.waitForFunction(() => document.querySelector('#missed').textContent === 'some');
  await other.close();
});

test('unmounted components leave no connection, and no error is reported', async () => {
  await page.click('#toggle');
  await until('no connection', async () => (await (await fetch(`${server.url}/api/stats`)).json()).connections.ws === 0);
  assert.deepEqual(faults, []);
});
