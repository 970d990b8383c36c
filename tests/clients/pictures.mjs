// Takes the pictures of docs/page.md with Chromium: `node tests/clients/pictures.mjs URL FOLDER`, beside `fanwire serve --demo --demo-rate 120`.
//
// Clients with different filters come and go for five minutes, so that the charts have something to show. Each view is
// taken at 1280 and 390 px, in light and dark. The files that docs/page.md shows have the names that it uses.
import { mkdir } from 'node:fs/promises';
import { WebSocket, leave, sleep, until, url, args } from './lib.mjs';
import { launch, livePage } from './browser.mjs';
import { looks } from './looks.mjs';

const [folder = 'target/pictures', seconds = '300'] = args;
await mkdir(folder, { recursive: true });

/** Keeps `count()` clients connected, each with one of these interests. */
const INTERESTS = [['task.*'], ['provider.*'], ['agent.**'], ['workflow.**'], ['task.*', 'deliverable.*'], ['governance.*']];
const clients = [];
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
for (let second = 0; second < Number(seconds); second += 1) {
  settle(4 + Math.round(3 + 3 * Math.sin(second / 23) + Math.sin(second / 5)));
  await sleep(1_000);
}

const { page, faults } = await launch();
const { isOpen } = livePage(page);
const shot = async (name) => {
  for (const fault of await looks(page)) console.log(`${name}: ${fault}`);
  await page.screenshot({ path: `${folder}/${name}.png` });
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
    await shot(name('events'));
    await page.locator('#events .row').nth(1).click();
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
