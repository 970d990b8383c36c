// Proves, with Chromium: the operator's view shows the server's state; an event's journey; a page that is too
// slow shows its gap; tokens, also if the stream is an EventSource, and never in an address.
import { createHmac, randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { Client, ask, assert, check, done, publish, sleep, until, url } from './lib.mjs';
import { launch, livePage } from './browser.mjs';

const screenshots = process.env.FANWIRE_SCREENSHOTS;
await mkdir(screenshots, { recursive: true });
const { page, faults, asked } = await launch();
const { row, isOpen } = livePage(page);
const number = (text) => Number((text ?? '').replace(/[^\d.]/g, '') || '0');
const texts = (selector) => page.locator(selector).allInnerTexts();
const ledger = async () => Object.fromEntries((await page.locator('#ledger dl > div').evaluateAll((all) =>
  all.map((one) => [one.dataset.part, one.querySelector('dd').textContent]))).map(([part, text]) => [part, number(text)]));

await check('the server view counts clients, interests, shards, and a ledger that balances', async () => {
  await page.goto(url);
  await isOpen();
  for (let n = 0; n < 40; n += 1) await publish({ type: n % 2 ? 'task.a' : 'agent.b', source: 'core', payload: { n } });
  const client = await Client.connect();
  await client.subscribe({ event_types: ['task.**'], sources: ['core'] });
  await page.click('#tab-server');
  await until('both interests', async () => {
    const rows = await texts('#interests tbody tr');
    return rows.some((one) => /everything/.test(one) && /WebSocket/.test(one)) && rows.some((one) => /type=task\.\*\* source=core/.test(one));
  });
  await until('two clients', async () => number(await page.locator('#chart-connections b').innerText()) === 2);
  assert.match(await page.locator('#shards tbody').innerText(), /^0\s+4\d/);
  await until('a ledger', async () => (await ledger()).matched >= 40);
  const { matched, written, pending, dropped, conflated, merged } = await ledger();
  assert.equal(matched, written + pending + dropped + conflated + merged);
  assert.match(await page.locator('#facts').innerText(), /serving/);
  client.ws.close();
  await until('the interest goes with its client', async () => !(await page.locator('#interests').innerText()).includes('task.**'));
});

await check('rates come as charts', async () => {
  await until('a rate', async () => {
    await publish([1, 2, 3, 4, 5].map((n) => ({ type: 'chart.me', payload: { n } })));
    return number(await page.locator('#chart-published b').innerText()) > 0 && number(await page.locator('#chart-delivered b').innerText()) > 0;
  });
  const drawn = () => page.locator('.chart svg').evaluateAll((all) => all.map((svg) => svg.lastChild.getAttribute('d').split('L').length));
  assert.equal((await drawn()).length, 6);
  await until('two points of each', async () => (await drawn()).every((points) => points >= 2));
});

await check('a page that is opened now shows the minutes before', async () => {
  const later = await page.context().newPage();
  await later.goto(url);
  const points = (id) => later.locator(`#chart-${id} svg`).evaluate((svg) => (svg.lastChild.getAttribute('d') ?? '').match(/[\d.]+ [\d.]+/g) ?? []);
  // Published before the page opened, and nothing since: the line is not flat at zero.
  await until('what was published', async () => (await points('published')).some((point) => Number(point.split(' ')[1]) < 38));
  await until('two points of each', async () => (await points('published')).length >= 2 && (await points('connections')).length >= 2);
  await later.close();
});

await check('interests can be searched', async () => {
  await page.fill('#interest-search', 'no such thing');
  await until('none', async () => /None/.test(await page.locator('#interests tbody').innerText()));
  await page.fill('#interest-search', 'every');
  await until('one', async () => /everything/.test(await page.locator('#interests tbody').innerText()));
  await page.fill('#interest-search', '');
});

await check('a client that does not read is among the laggards, and its lost events are counted', async () => {
  const slow = await Client.connect();
  await slow.subscribe({ event_types: ['slow.*'] });
  slow.ws._socket.pause();
  // Random text that compression cannot shrink.
  const pad = randomBytes(24 * 1024).toString('base64');
  await until('it lags', async () => {
    await publish(Array.from({ length: 60 }, () => ({ type: 'slow.down', payload: { pad: pad.slice(Math.random() * 999) } })));
    return /ws/.test(await page.locator('#laggards tbody').innerText()) && (await ledger()).dropped > 0;
  });
  slow.ws.terminate();
  await until('no client lags', async () => /Nobody/.test(await page.locator('#laggards tbody').innerText()));
});

let journeyed;
await check("an event's journey: its place, the clients that wanted it, and why others did not", async () => {
  await page.click('#tab-events');
  const other = await Client.connect();
  await other.subscribe({ event_types: ['agent.*'], sources: ['core'] });
  journeyed = await publish({ type: 'agent.status', source: 'edge', payload: { status: 'idle' } });
  await row(journeyed).locator('.row').click();
  const open = () => row(journeyed).locator('.detail button').click();
  await until('both interests', async () => {
    await open();
    await page.waitForSelector('#journey[open] .why');
    const whys = (await texts('#journey-interests .why')).join('\n');
    await page.click('#journey-close');
    return /not wanted\s+type=agent\.\* source=core/.test(whys) && /^wanted\s+everything/m.test(whys);
  });
  await open();
  await until('its type', async () => (await page.locator('#journey-title').innerText()) === 'agent.status');
  await until('steps', async () => /Stored\s+shard 0, sequence/.test(await page.locator('#journey-steps').innerText()));
  assert.match(await page.locator('#journey-interests').innerText(), /✗\s*source=core\s*found: edge/);
  await page.fill('#try-filter', 'type=agent.* source=edge');
  await page.press('#try-filter', 'Enter');
  await until('the filter that is tried', async () => /^wanted/.test(await page.locator('#try-answer').innerText()));
  await page.fill('#try-filter', 'type=(');
  await page.press('#try-filter', 'Enter');
  // An error of a filter has its column, at every entrance.
  await until('what is wrong with it', async () => /filter, column 6/.test(await page.locator('#try-answer').innerText()));
  await page.click('#journey-close');
  other.ws.close();
});

await check('an event that is not kept has no journey, and the page says so', async () => {
  await page.click('#tab-server');
  await page.fill('#explain-id', '1-999999');
  await page.press('#explain-id', 'Enter');
  await until('words', async () => /not kept/.test(await page.locator('#journey-interests').innerText()));
  await page.click('#journey-close');
  await page.click('#tab-events');
});

await check('the shown events can be searched', async () => {
  await page.click('#clear');
  const ids = [];
  for (const word of ['needle', 'straw', 'straw']) ids.push(await publish({ type: 'hay.stack', payload: { word } }));
  await row(ids[2]).waitFor();
  await page.fill('#search', 'NEEDLE');
  assert.deepEqual(await Promise.all(ids.map((id) => row(id).isVisible())), [true, false, false]);
  const more = await publish({ type: 'hay.stack', payload: { word: 'another needle' } });
  await row(more).waitFor();
  await page.fill('#search', '');
  await row(ids[1]).waitFor();
});

const proxy = await ask('proxy');
await check('a page that is too slow shows its gap, with the number, and goes on', async () => {
  await page.goto(proxy);
  await isOpen();
  await until('it is live', async () => {
    const id = await publish({ type: 'before.gap' });
    await sleep(100);
    return (await row(id).count()) > 0;
  });
  await page.click('#clear');
  const pad = randomBytes(48 * 1024).toString('base64');
  await ask('stall');
  const lost = async () => (await (await fetch(`${url}/api/stats`)).json()).ledger.dropped;
  const before = await lost();
  await until('it loses some', async () => {
    await publish(Array.from({ length: 20 }, () => ({ type: 'too.much', payload: { pad: pad.slice(Math.random() * 9999) } })));
    return (await lost()) > before;
  });
  await ask('go-on');
  await page.waitForSelector('#events .gap');
  const id = await publish({ type: 'after.gap' });
  await row(id).waitFor();
  const reported = () => page.locator('#events .gap').evaluateAll((all) => all.map((one) => Number(one.dataset.missed)));
  // Rows that are out of sight are made later.
  await until('the sum', async () => number(await page.locator('#missed').innerText()) === (await reported()).reduce((a, b) => a + b, 0));
  assert((await reported()).every((missed) => missed > 0), String(await reported()));
  assert.match(await page.locator('#events .gap').first().innerText(), /events? missed here/);
});

const secret = 'a secret of thirty-two bytes, no less';
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function jwt(claims) {
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 600, streams: ['*'], ...claims })}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}
const admin = jwt({ sub: 'ann', admin: true, publish: true });
const guarded = await ask('guarded');
const tell = async (event) => {
  const answer = await fetch(`${guarded}/publish`, { method: 'POST', body: JSON.stringify(event), headers: { authorization: `Bearer ${admin}` } });
  assert.equal(answer.status, 200);
  return (await answer.json()).last_event_id;
};

await check('the page asks for a token if one is needed, refuses a bad one, and goes on with a good one', async () => {
  await page.goto(guarded);
  await page.waitForSelector('#login', { state: 'visible' });
  await page.fill('#token', 'nonsense');
  await page.press('#token', 'Enter');
  await until('why not', async () => (await page.locator('#login-error').innerText()).trim().length > 0);
  await page.fill('#token', admin);
  await page.press('#token', 'Enter');
  await isOpen();
  await row(await tell({ type: 'over.ws' })).waitFor();
  assert(await page.locator('#login').isHidden());
  await page.click('#tab-server');
  await until('the server view', async () => /everything/.test(await page.locator('#interests tbody').innerText()));
  await page.click('#tab-events');
});

await check('by SSE a ticket replaces the token, again after a reload', async () => {
  for (let life = 0; life < 2; life += 1) {
    await page.click('#transport [data-transport="sse"]');
    await isOpen();
    await row(await tell({ type: 'over.sse' })).waitFor();
    await page.reload();
    await isOpen();
  }
  const streams = asked.filter((one) => new URL(one).pathname === '/sse' && one.startsWith(guarded));
  assert(streams.length >= 2 && streams.every((one) => /[?&]ticket=/.test(one)), String(streams));
});

await check("a token after the address's # is accepted and removed from the address", async () => {
  await page.evaluate(() => sessionStorage.clear());
  await page.goto('about:blank');
  await page.goto(`${guarded}/#token=${admin}`);
  await isOpen();
  // The browser reports the new address in a message of its own.
  await until('no token in the address', () => !page.url().includes('token'));
  assert.deepEqual(asked.filter((one) => one.includes(admin) && !one.includes('#token=')), []);
});

await check('a user that may see events only gets that as the reason', async () => {
  await page.evaluate(() => sessionStorage.clear());
  await page.goto('about:blank');
  await page.goto(`${guarded}/#token=${jwt({ sub: 'bob' })}`);
  await isOpen();
  await page.click('#tab-server');
  await until('a note', async () => /admin/.test(await page.locator('#server-note').innerText()));
});

await check('it reported no error, and sent requests to its server only', async () => {
  assert.deepEqual(faults, []);
  const hosts = [url, proxy, guarded].map((one) => new URL(one).host);
  const known = (one) => one.startsWith('data:') || one === 'about:blank' || hosts.includes(new URL(one).host);
  assert.deepEqual(asked.filter((one) => !known(one)), []);
});

const demo = await ask('serve --demo --demo-rate 50');
for (const [name, width, height] of [['laptop', 1280, 800], ['phone', 390, 844]]) {
  for (const colorScheme of ['light', 'dark']) {
    await check(`the server view fits a ${name}, ${colorScheme}`, async () => {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme });
      await page.goto(demo);
      await isOpen();
      await page.click('#tab-server');
      await until('rates', async () => number(await page.locator('#chart-published b').innerText()) > 0);
      const [wide, screen] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
      assert(wide <= screen, `${wide} px on a screen of ${screen}`);
      await page.screenshot({ path: `${screenshots}/server-${name}-${colorScheme}.png` });
    });
  }
}

await done();
