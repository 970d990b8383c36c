// Proves, with Chromium: the dashboard of examples/axum.rs shows the latest state of each agent, also to
// a late visitor, and the effect of its button.
import { assert, check, done, until, url } from './lib.mjs';
import { launch } from './browser.mjs';

const { page, faults, asked } = await launch();
const rows = () => page.locator('#agents tr').allInnerTexts();
const ask = async (name) =>
  assert.equal((await fetch(`${url}/agents/${name}/ask`, { method: 'POST', headers: { Cookie: 'user=ann' } })).status, 202);

await check('an agent that was asked before the page came is there, and the one that the button asks', async () => {
  // The first page makes the server keep the latest state of each agent. The agent is asked while the page
  // watches.
  await page.goto(url);
  await until('live', async () => (await page.locator('#status').innerText()) === 'live');
  await ask('bob');
  await until('bob', async () => /^bob\s+agent\.asked/.test((await rows()).join()));
  await page.reload();
  await until('bob again, from the snapshot', async () => /^bob\s+agent\.asked/.test((await rows()).join()));
  await page.click('#ask');
  await until('ann', async () => (await rows()).some((row) => /^ann\s+agent\.asked/.test(row)));
});

await check('an agent has one row, however often it is asked', async () => {
  for (let n = 0; n < 5; n += 1) await ask('bob');
  await ask('cid');
  await until('cid', async () => (await rows()).length === 3);
  assert.deepEqual((await rows()).map((row) => row.split('\t')[0]).sort(), ['ann', 'bob', 'cid']);
  assert.equal(await page.locator('#gap').innerText(), '');
  assert.deepEqual(faults, []);
  assert(asked.every((one) => one.startsWith(url)), String(asked));
});

await done();
