// Proves, with Chromium: in the sizes of a laptop, a tablet, two phones, and a phone on its side, in light and
// dark, no text of the page is cut, broken, hard to read or overlapping. The list has room, and signing in is
// explained.
import { execFile } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { assert, ask, check, done, publish, until, url } from './lib.mjs';
import { imagesFailed, launch, livePage } from './browser.mjs';
import { looks } from './looks.mjs';

const screenshots = process.env.FANWIRE_SCREENSHOTS;
await mkdir(screenshots, { recursive: true });
const { page, faults } = await launch();
const { row, isOpen } = livePage(page);
const SIZES = { laptop: [1280, 800], tablet: [768, 1024], phone: [390, 844], small: [360, 740], side: [844, 390] };

async function looksRight(name) {
  assert.deepEqual(await looks(page), [], name);
  await page.screenshot({ path: `${screenshots}/${name}.png` });
}

// Names that are long, written from right to left, wide, or made to mislead.
const long = 'averyverylongnamewithoutanyplacetobreakit'.repeat(3);
await publish([
  { type: `${long}.started`, source: long, entity: { kind: 'agent', id: long }, stream_id: long, payload: { [long]: long, text: 'x'.repeat(3000) } },
  { type: 'رسالة.جديدة', source: 'مصدر', entity: { kind: 'مستخدم', id: 'أحمد' }, payload: { نص: 'مرحبا بالعالم (test) 123', note: 'שלום עולם' } },
  { type: '任务.进度', source: '核心服务', entity: { kind: '任务', id: '任务一二三' }, payload: { 消息: '正在编译文件', emoji: '🎉🚀' } },
  { type: 'big.payload', payload: { list: Array.from({ length: 20_000 }, (_, n) => ({ n, s: 'lorem ipsum' })) } },
  { type: 'scalar', payload: 42 }, { type: 'a' }, { type: 'over.ride', payload: 'safe\u202eexe.txt' },
]);

for (const [size, [width, height]] of Object.entries(SIZES)) {
  await check(`odd names stay in their places, ${size}`, async () => {
    await page.setViewportSize({ width, height });
    await page.goto(url);
    await page.waitForSelector('[data-type="over.ride"]');
    await looksRight(`odd-${size}`);
    // Characters that reverse the writing direction are shown as codes.
    assert.match(await page.locator('[data-type="over.ride"] .what').innerText(), /safe\\u202eexe\.txt/);
    await page.locator('[data-type="big.payload"] .row').click();
    assert((await page.locator('#events .detail pre').textContent()).length <= 50_000);
    await looksRight(`odd-open-${size}`);
  });
}

const guarded = await ask('guarded');
const secret = 'a secret of thirty-two bytes, no less';
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function jwt(claims) {
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 600, streams: ['*'], ...claims })}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

for (const [size, [width, height]] of Object.entries(SIZES)) {
  await check(`signing in is one form that says where a token comes from, ${size}`, async () => {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: size === 'laptop' ? 'light' : 'dark' });
    await page.goto(guarded);
    await page.waitForSelector('#login', { state: 'visible' });
    assert.equal(await page.locator('#login button[type=submit]').innerText(), 'Sign in');
    assert.match(await page.locator('#login').innerText(), /fanwire token --sub/);
    assert(await page.locator('#view-events').isHidden(), 'nothing to use that would not work');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'token');
    await looksRight(`sign-in-${size}`);
    await page.fill('#token', 'nonsense');
    await page.press('#token', 'Enter');
    await until('why not', async () => (await page.locator('#login-error').innerText()).trim().length > 0);
    await looksRight(`sign-in-refused-${size}`);
    await page.evaluate(() => sessionStorage.clear());
  });
}

await check('signed in, the command of the empty list has the token and works; signed out, the form is back', async () => {
  await page.setViewportSize({ width: 390, height: 844 });
  await page.goto('about:blank');
  await page.goto(guarded);
  await page.fill('#token', jwt({ sub: 'ann', publish: true }));
  await page.press('#token', 'Enter');
  await isOpen();
  await looksRight('empty-phone');
  const command = await page.locator('#example').textContent();
  assert.match(command, /^curl -H 'Authorization: Bearer ey/);
  const { stdout } = await promisify(execFile)('sh', ['-c', command]);
  assert.equal(JSON.parse(stdout).accepted, 1, stdout);
  await page.waitForSelector('[data-type="hello.world"]');
  await page.click('#menu');
  await page.waitForSelector('#more.open');
  await looksRight('menu-phone');
  await page.click('#sign-out');
  await page.waitForSelector('#login', { state: 'visible' });
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.equal(await page.locator('#events [data-event-id]').count(), 0, 'what was seen is gone');
});

const demo = await ask('serve --demo --demo-rate 20');
for (const [size, [width, height]] of Object.entries(SIZES)) {
  for (const colorScheme of ['light', 'dark']) {
    await check(`events, an open one, its journey and the server's view, ${size}, ${colorScheme}`, async () => {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme });
      await page.goto(demo);
      await isOpen();
      await until('rows', async () => (await page.locator('#events li').count()) >= 20);
      // On an upright phone, the list has all but 200 px of the screen. On its side, it has most of it.
      const top = await page.locator('main').evaluate((main) => main.getBoundingClientRect().top);
      assert(top <= { laptop: 230, tablet: 200, phone: 200, small: 200, side: 140 }[size], `the controls take ${top} px`);
      await page.click('#pause');
      await looksRight(`events-${size}-${colorScheme}`);
      await page.locator('#events .row').nth(1).click();
      await looksRight(`open-${size}-${colorScheme}`);
      await page.locator('#events .detail button').click();
      await until('the journey', async () => /Stored\s+shard 0/.test(await page.locator('#journey-steps').innerText()));
      await looksRight(`journey-${size}-${colorScheme}`);
      await page.click('#journey-close');
      await page.click('#tab-server');
      await until('the server view', async () => /everything/.test(await page.locator('#interests tbody').innerText()));
      await looksRight(`view-${size}-${colorScheme}`);
      await page.locator('.scroll').evaluate((scroll) => scroll.scrollTo(0, scroll.scrollHeight));
      await looksRight(`view-end-${size}-${colorScheme}`);
    });
  }
}

await check('while the list is held its button is on no text', async () => {
  for (const size of ['laptop', 'phone']) {
    const [width, height] = SIZES[size];
    await page.setViewportSize({ width, height });
    await page.goto(demo);
    await until('rows', async () => (await page.locator('#events li').count()) >= 20);
    await page.locator('#events .row').nth(2).click();
    await page.mouse.move(5, 5);
    await page.waitForSelector('#new:not([hidden])');
    await looksRight(`held-${size}`);
  }
});

await check('no script runs on it but its own', async () => {
  await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.broken = 1';
    document.head.append(script);
    document.body.insertAdjacentHTML('beforeend', '<img src="data:," onerror="window.broken = 2">');
  });
  await imagesFailed(page);
  assert.equal(await page.evaluate(() => window.broken), undefined);
});

await check('it said no fault', async () => assert.deepEqual(faults, []));
void row;
await done();
