// Takes the pictures of docs/page.md with Chromium: `FANWIRE_CHROMIUM=chromium node tests/clients/pictures.mjs URL FOLDER`, beside
// `fanwire serve --demo --demo-rate 120`.
//
// Clients with different filters come and go for five minutes, so that the charts have something to show. Each view is
// taken at 1280 and 390 px, in light and dark. Those that docs/page.md shows have the names that it uses.
import { mkdir } from 'node:fs/promises';
import { WebSocket, leave, sleep, until, url, args } from './lib.mjs';
import { launch, livePage } from './browser.mjs';
import { looks } from './looks.mjs';

const [folder = 'target/pictures', seconds = '300'] = args;
await mkdir(folder, { recursive: true });

const INTERESTS = [['task.*'], ['provider.*'], ['agent.**'], ['workflow.**'], ['task.*', 'deliverable.*'], ['governance.*']];
const clients = [];
/** Keeps this many clients connected, each with one of these interests. */
function settle(wanted) {
  while (clients.length > wanted) clients.shift().close();
  while (clients.length < wanted) {
    const client = new WebSocket(`${url.replace('http', 'ws')}/ws`, ['fanwire.v1']);
    const event_types = INTERESTS[clients.length % INTERESTS.length];
    client.on('open', () => client.send(JSON.stringify({ type: 'subscribe', payload: { event_types } })));
    client.on('error', () => {});
    clients.push(client);
  }
}
let second = 0;
setInterval(() => settle(4 + Math.round(3 + 3 * Math.sin((second += 1) / 23) + Math.sin(second / 5))), 1_000);
await sleep(Number(seconds) * 1_000);

/** Views that docs/page.md shows, and its names for them. */
const SHOWN = {
  'events-wide-light': 'page-events',
  'open-wide-dark': 'page-events-dark',
  'server-wide-light': 'page-server',
  'pointer-wide-dark': 'page-server-dark',
  'events-phone-light': 'page-phone',
  'journey-phone-dark': 'page-phone-dark',
};

const { page, faults } = await launch();
const { isOpen } = livePage(page);
const shot = async (name) => {
  for (const fault of await looks(page)) console.log(`${name}: ${fault}`);
  await page.screenshot({ path: `${folder}/${SHOWN[name] ?? name}.png` });
};
for (const [size, width, height] of [['wide', 1280, 720], ['phone', 390, 760]]) {
  for (const colorScheme of ['light', 'dark']) {
    const name = (what) => `${what}-${size}-${colorScheme}`;
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme });
    await page.goto(url);
    await isOpen();
    // The chart of the last minute is filled by what the page has seen.
    await sleep(colorScheme === 'light' ? 61_000 : 15_000);
    await page.mouse.move(5, 5);
    // A busy machine has long round trips now and then.
    await until('a usual round trip', async () => {
      await page.locator('body').press('p');
      await sleep(500);
      return parseFloat(await page.locator('#rtt').innerText()) < 3;
    });
    await shot(name('events'));
    // The list holds still under the pointer, so the row stays where it is.
    const { x: left, y: top } = await page.locator('#events').boundingBox();
    await page.mouse.move(left + 60, top + 60);
    await page.mouse.move(left + 61, top + 61);
    await sleep(300);
    await page.mouse.click(left + 61, top + (size === 'wide' ? 49 : 77));
    await page.mouse.move(5, 5);
    await sleep(3_000);
    await shot(name('open'));
    await page.locator('#events .detail button').click();
    await until('the journey', async () => /Stored\s+shard 0/.test(await page.locator('#journey-steps').innerText()));
    await shot(name('journey'));
    await page.click('#journey-close');
    await page.click('#tab-server');
    await until('the server view', async () => /everything/.test(await page.locator('#interests tbody').innerText()));
    await page.setViewportSize({ width, height: size === 'wide' ? 860 : height });
    await sleep(2_500);
    await shot(name('server'));
    const { x, y, width: across } = await page.locator('#chart-delivered .area').boundingBox();
    await page.mouse.move(x + across * 0.72, y + 20);
    await shot(name('pointer'));
    await page.locator('.scroll').evaluate((scroll) => scroll.scrollTo(0, scroll.scrollHeight));
    await shot(name('server-end'));
  }
}
for (const fault of faults) console.log(`the page reported: ${fault}`);
await leave(0);
