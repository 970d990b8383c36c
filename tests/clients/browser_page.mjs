// Proves, with Chromium: the live page shows published events over both transports; its controls; its
// reconnect.
import { mkdir } from 'node:fs/promises';
import { ask, assert, check, done, numbered, publish, sleep, until, url } from './lib.mjs';
import { imagesFailed, launch, livePage, timerOf } from './browser.mjs';

const screenshots = process.env.FANWIRE_SCREENSHOTS;
await mkdir(screenshots, { recursive: true });
// Addresses that the page requests. All must be its own server's.
const { page, faults, asked } = await launch();
const { row, isOpen } = livePage(page);
const opened = (path) => asked.filter((one) => new URL(one).pathname === path).length;

const rows = () => page.locator('#events [data-event-id]');
const number = async (id) => Number((await page.locator(id).innerText()).replace(/[^\d.]/g, '') || '0');

/** Publishes until the page shows one of the events. Earlier ones may still be on their way to the server. */
async function shows(event, to = url) {
  return until(`the page shows ${event.type}`, async () => {
    const id = await publish(event, to);
    await sleep(100);
    return (await row(id).count()) > 0 && id;
  });
}

/** Chooses a transport, with either form of the control. */
async function choose(transport) {
  const control = page.locator('#transport');
  const button = page.locator(`#transport [data-transport="${transport}"], [data-transport="${transport}"]:not(#transport)`);
  if ((await control.evaluate((element) => element.tagName)) === 'SELECT') await control.selectOption(transport);
  else if ((await button.count()) > 0) await button.first().click();
  else if ((await control.getAttribute('data-transport')) !== transport) await control.click();
  await isOpen();
}

await check('it opens, from one answer, and connects by WebSocket', async () => {
  await page.goto(url);
  await isOpen();
  assert.equal(opened('/ws'), 1);
  assert((await page.title()).length > 0);
});

await check('published events appear, newest first, counted and by domain', async () => {
  await shows({ type: 'task.started' });
  const before = await number('#total');
  const ids = [];
  for (const type of ['task.progress', 'agent.log', 'tool.called']) ids.push(await publish({ type, source: 'core', payload: { text: `from ${type}` } }));
  for (const id of ids) await row(id).waitFor();
  const shown = await rows().evaluateAll((all) => all.map((one) => [one.dataset.eventId, one.dataset.type]));
  assert.deepEqual(shown.slice(0, 3), [[ids[2], 'tool.called'], [ids[1], 'agent.log'], [ids[0], 'task.progress']]);
  assert.match(await row(ids[1]).innerText(), /agent\.log/);
  await until('the total', async () => (await number('#total')) === before + 3);
  const domains = await page.locator('#domains').innerText();
  for (const domain of ['task', 'agent', 'tool']) assert(domains.toLowerCase().includes(domain), domains);
});

await check('markup in an event is text', async () => {
  const markup = '<img src=x onerror="window.broken=1">';
  const id = await publish({ type: 'evil.<b>', source: markup, correlation_id: markup, payload: { [markup]: markup } });
  await row(id).waitFor();
  await imagesFailed(page);
  assert.equal(await page.evaluate(() => window.broken), undefined);
  assert.equal(await page.locator('#events img, #events b b, #domains img').count(), 0);
  assert((await row(id).innerText()).includes('evil.<b>'));
});

await check('a ping shows its round trip', async () => {
  await page.click('#ping');
  await page.waitForFunction(() => /\d/.test(document.querySelector('#rtt').textContent));
});

await check('the filter passes matching events, and its faults are shown', async () => {
  await page.fill('#filter', 'type=task.* source=core');
  await page.press('#filter', 'Enter');
  const pair = (n) => [
    { type: 'task.filtered', source: 'core', payload: { n } },
    { type: 'tool.filtered', source: 'core', payload: { n } },
    { type: 'task.filtered', source: 'edge', payload: { n } },
    { type: 'task.last', source: 'core', payload: { n } },
  ];
  const seen = async () => {
    await page.click('#clear');
    const last = await publish(pair(1));
    await row(last).waitFor();
    return (await rows().evaluateAll((all) => all.map((one) => one.dataset.type))).join(' ');
  };
  await until('it filters', async () => (await seen()) === 'task.last task.filtered');
  for (let n = 0; n < 3; n += 1) assert.equal(await seen(), 'task.last task.filtered');

  await page.fill('#filter', 'type=(');
  await page.press('#filter', 'Enter');
  await page.waitForFunction(() => document.querySelector('#filter-error').textContent.trim().length > 0);
  await page.fill('#filter', '');
  await page.press('#filter', 'Enter');
  await shows({ type: 'tool.unfiltered' });
  assert.equal((await page.locator('#filter-error').innerText()).trim(), '');
});

await check('paused, the list stands still; going on, events come', async () => {
  await shows({ type: 'before.pause' });
  await page.click('#pause');
  const ids = () => rows().evaluateAll((all) => all.map((one) => one.dataset.eventId));
  const before = await ids();
  const total = await number('#total');
  await publish({ type: 'while.paused' });
  // The page counts events when it draws, and would show them then.
  await until('it is counted', async () => (await number('#total')) === total + 1);
  assert.deepEqual(await ids(), before);
  await page.click('#pause');
  await shows({ type: 'after.pause' });
});

await check('disconnected, it stays so and says so; connected again, it shows the events of the meantime', async () => {
  const button = page.locator('#link');
  await shows({ type: 'before.leaving' });
  await button.click();
  await page.waitForFunction(() => document.querySelector('#status').innerText === 'disconnected');
  assert.equal(await button.innerText(), 'Connect');
  const sockets = opened('/ws');
  const id = await publish({ type: 'provider.status_changed' });
  // A page that has lost its connection waits for at most half a second before it connects again.
  await timerOf(page, 1500);
  assert.deepEqual([await row(id).count(), opened('/ws')], [0, sockets]);
  await button.click();
  await isOpen();
  await row(id).waitFor();
  assert.equal(await button.innerText(), 'Disconnect');
});

await check('the colour is that of the type\'s domain, and each domain is counted', async () => {
  const ids = [];
  for (const type of ['task.started', 'task.failed', 'provider.status_changed', 'selfcheck.started']) ids.push(await publish({ type }));
  for (const id of ids) await row(id).waitFor();
  const hues = await Promise.all(ids.map((id) => row(id).evaluate((one) => one.querySelector('[style*="--hue"]').style.getPropertyValue('--hue'))));
  assert.equal(hues[0], hues[1]);
  assert.equal(new Set(hues).size, 3, hues.join());
  const counted = async (name) => {
    const [text] = (await page.locator('#domains > *').allInnerTexts()).filter((one) => one.startsWith(name));
    return Number((text ?? '').replace(/\D/g, ''));
  };
  // Three times a second, chips get the counts.
  await until('the latest are counted', async () => (await counted('selfcheck')) === 1);
  const before = { task: await counted('task'), provider: await counted('provider'), selfcheck: await counted('selfcheck') };
  await publish([{ type: 'task.completed' }, { type: 'task.started' }, { type: 'selfcheck.completed' }]);
  await until('they are counted', async () => (await counted('task')) === before.task + 2 && (await counted('selfcheck')) === before.selfcheck + 1);
  assert.equal(await counted('provider'), before.provider);
});

await check('clear empties the list', async () => {
  await page.click('#clear');
  await until('an empty list', async () => (await rows().count()) === 0);
  await shows({ type: 'after.clear' });
});

await check('by SSE it shows the same', async () => {
  await choose('sse');
  await until('it asks for a stream', () => opened('/sse') >= 1);
  const id = await shows({ type: 'over.sse' });
  await shows({ type: 'over.sse.again' });
  assert.equal(await row(id).count(), 1, 'each event once');
});

await check('a thousand events a second are drawn once a frame, in a list that is bounded', async () => {
  await choose('ws');
  await shows({ type: 'over.ws' });
  await until('quiet', async () => (await number('#total')) === (await (sleep(300), number('#total'))));
  const before = await number('#total');
  await page.evaluate(() => {
    window.frames_ = [];
    window.drawn_ = 0;
    window.rate_ = 0;
    // The highest number shown. The rate may be zero again when all events are counted.
    new MutationObserver(() => (window.rate_ = Math.max(window.rate_, Number(document.querySelector('#rate').textContent.replace(/\D/g, ''))))).observe(document.querySelector('#rate'), { childList: true, characterData: true, subtree: true });
    new MutationObserver(() => (window.drawn_ += 1)).observe(document.querySelector('#events'), { childList: true });
    let last = performance.now();
    const frame = (now) => (window.frames_.push(now - last), (last = now), requestAnimationFrame(frame));
    requestAnimationFrame(frame);
  });
  const start = Date.now();
  for (let n = 0; n < 3000; n += 50) {
    await publish(Array.from({ length: 50 }, (_, more) => numbered(n + more, { type: `task.load${more % 10}` })));
    await sleep(Math.max(0, start + n - Date.now()));
  }
  await until('it has counted all', async () => (await number('#total')) === before + 3000);
  const { drawn, frames } = await page.evaluate(() => ({ drawn: window.drawn_, frames: window.frames_ }));
  frames.sort((a, b) => a - b);
  const [median, slowest] = [frames[frames.length >> 1], frames[frames.length - 1]];
  console.log(`frames at 1,000 events/s: ${frames.length}, median ${median.toFixed(1)} ms, slowest ${slowest.toFixed(1)} ms`);
  // The time of a frame depends on the machine. The page must change the list once each frame, not once each
  // event.
  assert(drawn > 0 && drawn <= frames.length + 1, `${drawn} changes of the list in ${frames.length} frames`);
  assert((await rows().count()) <= 1000, `${await rows().count()} rows`);
  await until('a rate', () => page.evaluate(() => window.rate_ > 100));
});

for (const transport of ['ws', 'sse']) {
  await check(`by ${transport} it comes back after a restart, and shows that events may be missing`, async () => {
    await choose(transport);
    await shows({ type: 'last.words' });
    await page.click('#clear');
    await ask('terminate');
    await page.waitForSelector('#status:not([data-state="open"])', { state: 'attached' });
    await ask('restart');
    await isOpen();
    await shows({ type: 'first.words' });
    await until('a gap', async () => (await page.locator('.gap[data-missed]').count()) > 0);
    await page.click('#clear');
  });
}

await check('it reported no error, and sent requests to its server only', async () => {
  assert.deepEqual(faults, []);
  const host = new URL(url).host;
  assert.deepEqual(asked.filter((one) => !one.startsWith('data:') && new URL(one).host !== host), []);
});

const proxy = await ask('proxy');
for (const transport of ['ws', 'sse']) {
  await check(`by ${transport} it resumes after a cut, with no event lost, twice or out of order, and no gap`, async () => {
    await page.goto(proxy);
    await choose(transport);
    await shows({ type: 'before.cut' });
    await page.click('#clear');
    const ids = [];
    for (let life = 0; life < 3; life += 1) {
      for (let n = 0; n < 5; n += 1) ids.push(await publish({ type: 'around.cut', payload: { n: ids.length } }));
      await row(ids.at(-1)).waitFor();
      await ask('cut');
      // While the server is away.
      for (let n = 0; n < 5; n += 1) ids.push(await publish({ type: 'around.cut', payload: { n: ids.length } }));
    }
    await row(ids.at(-1)).waitFor();
    assert.deepEqual(await rows().evaluateAll((all) => all.map((one) => one.dataset.eventId)), ids.reverse());
    assert.equal(await page.locator('.gap[data-missed]').count(), 0);
  });
}

const demo = await ask('serve --demo --demo-rate 50');
for (const [name, width, height] of [['laptop', 1280, 800], ['phone', 390, 844]]) {
  for (const colorScheme of ['light', 'dark']) {
    await check(`it fits a ${name}, ${colorScheme}`, async () => {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme });
      await page.goto(demo);
      await until('events', async () => (await rows().count()) >= 20);
      const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
      assert(wide <= screen, `${wide} px on a screen of ${screen}`);
      await page.screenshot({ path: `${screenshots}/page-${name}-${colorScheme}.png` });
    });
  }
}

await done();
