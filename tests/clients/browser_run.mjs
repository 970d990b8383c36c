// Proves, with Chromium: a run's own view, from a stream's name: its events from the start, its text, its end.
import { mkdir } from 'node:fs/promises';
import { assert, check, done, publish, until, url } from './lib.mjs';
import { imagesFailed, launch, livePage } from './browser.mjs';
import { looks } from './looks.mjs';

const screenshots = process.env.FANWIRE_SCREENSHOTS;
await mkdir(screenshots, { recursive: true });
const { page, faults, asked } = await launch();
const { row, isOpen } = livePage(page);
const text = (selector) => page.locator(selector).evaluate((node) => node.textContent);
const state = (wanted) => until(wanted, async () => (await text('#run-state')) === wanted);
const token = (delta, stream = 'run-42') => ({ type: 'token', source: 'model', stream_id: stream, payload: { delta } });

await check('from a row to its whole run: events from the start, and the text', async () => {
  await page.goto(url);
  await isOpen();
  await publish(['Once ', 'upon ', 'a '].map((delta) => token(delta)));
  // The ring keeps 64 events: the run's beginning is in its log alone.
  for (let n = 0; n < 100; n += 20) await publish(Array.from({ length: 20 }, (_, more) => ({ type: 'noise', payload: { n: n + more } })));
  const id = await publish(token('time'));
  await row(id).locator('.row').click();
  await row(id).getByRole('button', { name: 'Whole run' }).click();
  await state('live, 4 events');
  assert.equal(await text('#run-title'), 'run-42');
  assert.equal(await text('#run-text'), 'Once upon a time');
  assert.equal(await page.locator('#run-events li').count(), 4);
});

await check('new events are added, and markup is text', async () => {
  await publish(token('\n<img src=x onerror="window.broken=1">'));
  await state('live, 5 events');
  assert.equal(await text('#run-text'), 'Once upon a time\n<img src=x onerror="window.broken=1">');
  assert.equal(await page.locator('#run img').count(), 0);
  await imagesFailed(page);
  assert.equal(await page.evaluate(() => window.broken), undefined);
});

await check('a reload shows it again, and its end is shown', async () => {
  await page.reload();
  await state('live, 5 events');
  await publish({ type: 'run.finished', stream_id: 'run-42', payload: { tokens: 5 } });
  await state('ended by run.finished, 6 events');
  await page.reload();
  await state('ended by run.finished, 6 events');
});

for (const [size, width, height] of [['wide', 1280, 720], ['phone', 390, 760]]) {
  for (const colorScheme of ['light', 'dark']) {
    await check(`nothing of it is cut or hard to read: ${size}, ${colorScheme}`, async () => {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${screenshots}/run-${size}-${colorScheme}.png` });
      assert.deepEqual(await looks(page), []);
    });
  }
}

await check('closed, it leaves no stream and no trace in the address', async () => {
  await page.setViewportSize({ width: 1280, height: 800 });
  await page.keyboard.press('Escape');
  await until('a closed dialog', () => page.locator('#run').evaluate((run) => !run.open));
  // A dialog's `close` event comes in a task of its own, after `open` is false.
  await until('no trace in the address', () => new URL(page.url()).hash === '');
  await until('no stream', async () => (await (await fetch(`${url}/api/stats`)).json()).connections.sse === 0);
});

await check('a run whose beginning is gone says so', async () => {
  await publish(Array.from({ length: 30 }, (_, n) => token(`${n} `, 'short-1')));
  await publish({ type: 'run.finished', stream_id: 'short-1' });
  // Only the part after the hash changes, so the page has to be loaded anew.
  await page.goto('about:blank');
  await page.goto(`${url}/#run=short-1`);
  await state('ended by run.finished, 10 events, a part is no longer kept');
  assert.match(await page.locator('#run-events .gap').innerText(), /^Up to 21 events may be missing here$/);
  assert(String(await text('#run-text')).startsWith('…21 '), await text('#run-text'));
});

await check('the page reported no fault and asked its own server only', async () => {
  assert.deepEqual(faults, []);
  assert(asked.every((one) => one.startsWith('data:') || new URL(one).host === new URL(url).host), asked.join('\n'));
});

await done();
