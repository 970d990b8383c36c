// Proves, with Chromium: rows stay in place while the user reads them, by pointer, keyboard and finger, at 20
// and at 1,000 events a second; an event's journey can be opened there; charts have a scale and show their
// values; the filter's language.
import { assert, ask, check, done, publish, sleep, until, url } from './lib.mjs';
import { launch, livePage } from './browser.mjs';

const { browser, page, faults } = await launch();
const { row, isOpen } = livePage(page);
const ids = (on = page) => on.locator('#events [data-event-id]').evaluateAll((all) => all.slice(0, 12).map((one) => one.dataset.eventId));
const number = async (selector, on = page) => Number(((await on.locator(selector).textContent()) ?? '').replace(/[^\d.]/g, '') || '0');
const moved = (before) => until('the list goes on', async () => (await ids())[0] !== before[0]);
/** Moves the pointer onto about the fourth row. A specific row may have moved far down by the time its place is known. */
async function over() {
  const { x, y } = await page.locator('.scroller').boundingBox();
  await page.mouse.move(x + 300, y + 140);
}
const away = () => page.mouse.move(640, 30);

/** Positions of the visible rows. They must be the same after this many more events. */
async function holdsStill(events, on = page) {
  const places = () => on.locator('#events [data-event-id]').evaluateAll((all) => all.slice(0, 12).map((one) => [one.dataset.eventId, one.getBoundingClientRect().top]));
  const before = await places(), from = await number('#total', on);
  await until('more events', async () => (await number('#total', on)) >= from + events);
  await until('the button', async () => (await number('#new', on)) >= events);
  assert.deepEqual(await places(), before);
  assert.match(await on.locator('#new').innerText(), /^[\d,]+ new$/);
  return before.map(([id]) => id);
}

await check('nothing holds the list before the user reads it, and no button is there', async () => {
  await page.goto(await ask('serve --demo --demo-rate 20'));
  await isOpen();
  await until('rows', async () => (await ids()).length >= 12);
  await moved(await ids());
  assert(await page.locator('#new').isHidden());
});

await check('under the pointer rows hold still; a button says how many are new, and shows them', async () => {
  await over();
  await holdsStill(10);
  // The way to the button takes a person longer than the page takes to draw.
  await page.hover('#new');
  const before = await holdsStill(10);
  await page.click('#new');
  await moved(before);
  await away();
  await until('the button goes', () => page.locator('#new').isHidden());
  await moved(await ids());
});

await check('an open row stays where it is, and the list goes on when it is closed', async () => {
  await over();
  await page.mouse.down();
  await page.mouse.up();
  await page.waitForSelector('#events .detail pre');
  await away();
  const before = await holdsStill(10);
  // Rows that came meanwhile are shown on request. The open row stays open among the others.
  await page.click('#new');
  await moved(before);
  assert.equal(await page.locator('#events .detail').count(), 1);
  await page.locator('#events .row[aria-expanded=true]').click();
  await away();
  // The click may have scrolled to it, which also holds the list.
  await page.locator('.scroller').evaluate((scroller) => scroller.scrollTo(0, 0));
  await moved(await ids());
});

await check('by the keyboard: Tab comes to one row, arrows go on, Enter opens, Escape lets go', async () => {
  await page.focus('#clear');
  await page.keyboard.press('Tab');
  await page.waitForSelector('#events .row:focus-visible');
  const before = await holdsStill(5);
  const focused = () => page.evaluate(() => document.activeElement.closest('li')?.dataset.eventId);
  const from = before.indexOf(await focused());
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  await until('two rows on', async () => (await focused()) === before[from + 2]);
  await page.keyboard.press('Enter');
  await page.waitForSelector('#events .row:focus-visible[aria-expanded=true]');
  await holdsStill(5);
  await page.keyboard.press('Tab');
  await until('the first button', () => page.evaluate(() => document.activeElement.textContent === 'Journey'));
  await page.keyboard.press('Escape');
  await until('a closed row', async () => (await page.locator('#events .detail').count()) === 0);
  await moved(before);
});

await check('columns are as wide as what stands in them', async () => {
  await until('rows', async () => (await page.locator('#events li').count()) >= 100);
  await page.click('#pause');
  for (const column of ['.type', '.from', '.about']) {
    const cut = await page.locator(`#events ${column}`).evaluateAll((all) => all.filter((one) => one.scrollWidth > one.clientWidth).length / all.length);
    assert(cut <= 0.06, `${column} is cut in ${Math.round(100 * cut)} % of the rows`);
    // The longest text fills more than half of its column.
    const used = await page.locator(`#events ${column}`).evaluateAll((all) => Math.max(...all.map((one) => {
      const range = document.createRange();
      range.selectNodeContents(one);
      return range.getBoundingClientRect().width / one.clientWidth;
    })));
    assert(used > 0.6, `${column} is used to ${Math.round(100 * used)} %`);
  }
  await page.click('#pause');
});

/** Values of a chart at its ends and in its middle. */
async function scaleOf(plot) {
  const [ticks, times] = await Promise.all([plot.locator('.ticks span').allInnerTexts(), plot.locator('.times span').allInnerTexts()]);
  return { ticks, times };
}

await check('charts have a scale, and say their value under the pointer and by arrow keys', async () => {
  const spark = page.locator('#spark');
  assert.deepEqual((await scaleOf(spark)).times, ['60 s ago', 'now']);
  await page.click('#tab-server');
  await until('a rate', async () => (await number('#chart-published b')) > 0);
  const charts = await page.locator('.chart').all();
  assert.equal(charts.length, 6);
  for (const chart of charts) {
    const { ticks, times } = await scaleOf(chart);
    const [top, half, none] = ticks.map((tick) => parseFloat(tick));
    assert(none === 0 && top > 0 && (half * 2 === top || /[KMG]/.test(ticks.join(''))), String(ticks));
    assert.deepEqual(times, ['5 min ago', 'now']);
  }
  const area = page.locator('#chart-connections .area'), tip = page.locator('#chart-connections .tip');
  // Pointer events wait for the next frame.
  const says = (wanted) => until(String(wanted), async () => wanted.test(await tip.textContent()));
  const tips = (wanted) => until(`${wanted} values`, async () => (await page.locator('.tip:visible').count()) === wanted);
  const box = await area.boundingBox();
  await page.mouse.move(box.x + box.width - 1, box.y + box.height / 2);
  await says(/^1 · now$/);
  await page.mouse.move(box.x + 2, box.y + box.height / 2);
  await says(/· 4 min \d+ s ago$/);
  // The other charts show their values of the same time.
  await tips(6);
  await away();
  await tips(0);
  await area.focus();
  await page.keyboard.press('End');
  await says(/^1 · now$/);
  await page.keyboard.press('ArrowLeft');
  await says(/ · 2 s ago$/);
  assert.match(await area.getAttribute('aria-valuetext'), /^\d+ clients, 2 s ago$/);
  await page.keyboard.press('Escape');
  await tips(0);
  await page.click('#tab-events');
});

const busy = await ask('serve --demo --demo-rate 1000 --bus-capacity 131072');
await check('at 1,000 events/s a row is opened and its journey followed while events pour in', async () => {
  await page.goto(busy);
  await isOpen();
  await until('it pours', async () => (await number('#total')) > 300);
  // Like a hand: the pointer moves to the list, which stops, and then clicks.
  await over();
  // With the pointer only. A list that stands still needs no wait, which would take long on a busy page.
  const press = async (find) => {
    const [x, y] = await until('a place to press', () => page.evaluate(find));
    await page.mouse.click(x, y);
  };
  await press(() => {
    const row = [...document.querySelectorAll('#events li')].find((one) => /^task\./.test(one.dataset.type));
    const box = row?.getBoundingClientRect();
    return box && [box.left + 300, box.top + 15];
  });
  await press(() => {
    const box = document.querySelector('#events .detail button')?.getBoundingClientRect();
    return box && [box.left + 20, box.top + 10];
  });
  await until('the journey', async () => /Stored\s+shard 0, sequence/.test(await page.locator('#journey-steps').innerText()));
  const type = await page.locator('#journey-title').innerText();
  assert.equal(type, await page.locator('#events li:has(.detail)').getAttribute('data-type'));
  const before = await number('#new');
  await until('events pour on', async () => (await number('#new')) > before + 200);
  assert.equal(await page.locator('#journey-title').innerText(), type);
  assert.equal(await page.locator('#events .detail').count(), 1);
  assert((await page.locator('#events li').count()) <= 300);
});

await check('from there its trace alone is shown', async () => {
  const chip = page.locator('#journey-follow button', { hasText: 'correlation' });
  const run = await chip.locator('bdi').innerText();
  await chip.click();
  assert.equal(await page.inputValue('#filter'), `correlation=${run}`);
  await until('the run alone', async () => {
    // A page that is too slow has gaps among them.
    const rows = await page.evaluate(() => items.filter(({ event }) => event).map(({ event }) => event.correlation_id));
    return rows.length > 0 && rows.every((one) => one === run);
  });
  await page.fill('#filter', '');
  await page.press('#filter', 'Enter');
});

await check('in a flood it makes a window of rows for each time that it draws, not one for each event', async () => {
  await away();
  await until('it pours again', async () => { const from = await number('#total'); await sleep(200); return (await number('#total')) > from + 50; });
  await page.evaluate(() => {
    window.made = [];
    const list = document.querySelector('#events');
    new MutationObserver((records) => {
      const rows = records.flatMap(({ addedNodes }) => [...addedNodes]);
      // A pause of the events lets the page make the rows that are out of sight: without the first one.
      if (rows.includes(list.firstElementChild)) window.made.push(rows.length);
    }).observe(list, { childList: true });
  });
  const from = await number('#total');
  await until('2,000 more', async () => (await number('#total')) > from + 2000);
  const made = await page.evaluate(() => window.made);
  const window_ = await page.evaluate(() => Math.ceil(document.querySelector('.scroller').clientHeight / 30) + 4);
  assert(made.length > 0 && made.every((rows) => rows <= window_), `${made} rows at once, in a window of ${window_}`);
});

await check('under a finger the row that was touched is the one that opens', async () => {
  const context = await browser.newContext({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const phone = await context.newPage();
  await phone.goto(busy);
  await until('it pours', async () => (await number('#total', phone)) > 500);
  await phone.touchscreen.tap(150, 500);
  await phone.waitForSelector('#events .detail pre');
  await holdsStill(300, phone);
  const { x, y, width } = await phone.locator('#spark .area').boundingBox();
  await phone.touchscreen.tap(x + width - 2, y + 5);
  await until('its value', async () => /^[\d,]+ · (now|\d s ago)$/.test(await phone.locator('#spark .tip').innerText()));
  await context.close();
});

await check('the filter speaks the whole language', async () => {
  await page.goto(await ask('serve --log-level warn'));
  await isOpen();
  const to = new URL(page.url()).origin;
  for (const transport of ['ws', 'sse']) {
    await page.click(`#transport [data-transport="${transport}"]`);
    await isOpen();
    await page.fill('#filter', 'type=task.* source!=edge payload.progress >= 50');
    await page.press('#filter', 'Enter');
    const event = (source, progress) => ({ type: 'task.progress', source, payload: { progress } });
    await until('it filters', async () => {
      await page.click('#clear');
      const last = await publish([event('core', 49), event('edge', 90), { type: 'tool.called', payload: { progress: 99 } }, event('core', 50)], to);
      await row(last).waitFor();
      return (await page.locator('#events [data-event-id]').count()) === 1;
    });
    // Refused: the server's words, at the place of the error. The previous filter stays.
    await page.fill('#filter', 'type=task.* colour=red');
    await page.press('#filter', 'Enter');
    await until('the fault', async () => /colour/.test(await page.locator('#filter-error').innerText()));
    assert.equal(await page.locator('#filter').getAttribute('aria-invalid'), 'true');
    const caret = await page.locator('#filter-error .caret').boundingBox(), box = await page.locator('#filter').boundingBox();
    // Under the 13th character.
    const at = await page.evaluate(() => {
      const text = document.createElement('span');
      text.style.cssText = `position: absolute; white-space: pre; font: ${getComputedStyle(document.querySelector('#filter')).font}`;
      text.textContent = 'type=task.* ';
      document.body.append(text);
      const { width } = text.getBoundingClientRect();
      text.remove();
      return 13 + width;
    });
    assert(Math.abs(caret.x - box.x - at) < 6, `the mark is at ${caret.x - box.x}, not at ${at}`);
    await isOpen();
    await row(await publish(event('core', 77), to)).waitFor();
    await page.fill('#filter', '');
    await page.press('#filter', 'Enter');
    assert.equal((await page.locator('#filter-error').textContent()).trim(), '');
  }
  await page.click('#transport [data-transport="ws"]');
  await isOpen();
});

await check('the chip of a domain is a filter for all of its types, with any separator of their parts', async () => {
  const to = new URL(page.url()).origin;
  await row(await publish([{ type: 'agent.one' }, { type: 'agent:two' }, { type: 'agents' }], to)).waitFor();
  const chip = page.locator('#domains button', { has: page.locator('bdi', { hasText: /^agent$/ }) });
  await until('both are known', async () => /agent\.\*\*.*agent:\*\*/.test(await chip.getAttribute('title')));
  await chip.click();
  await until('they alone', async () => (await page.locator('#events [data-event-id]').evaluateAll((all) => all.map((one) => one.dataset.type))).join() === 'agent:two,agent.one');
  assert.equal(await chip.getAttribute('aria-pressed'), 'true');
  await chip.click();
  await until('all again', async () => (await page.locator('[data-type="agents"]').count()) === 1);
  assert.equal(await page.inputValue('#filter'), '');
});

await check('messages of later versions are passed over, and gaps say what is known', async () => {
  let tell;
  await page.routeWebSocket('**/ws', (socket) => {
    socket.connectToServer();
    tell = (type, payload) => socket.send(JSON.stringify({ type, payload, message_id: 'm', timestamp: new Date().toISOString(), correlation_id: null }));
  });
  await page.reload();
  await isOpen();
  tell('history_end', { subscription_id: 'page', events: 3, complete: true });
  tell('of_tomorrow', { anything: [1] });
  tell('gap', { missed: 12, from: null, to: null, recoverable: false });
  tell('gap', { missed: null, at_most: 40, from: null, to: null, recoverable: false });
  tell('gap', { missed: null, from: null, to: null, recoverable: false });
  await until('three gaps', async () => (await page.locator('#events .gap').count()) === 3);
  const said = await page.locator('#events .gap').allInnerTexts();
  assert.match(said[2], /^12 events missed here$/);
  assert.match(said[1], /^Up to 40 events may be missing here$/);
  assert.match(said[0], /^Events may be missing here/);
  assert.equal(await page.locator('#missed').textContent(), '≤ 52');
  await row(await publish({ type: 'still.here' }, new URL(page.url()).origin)).waitFor();
});

await check('the first round trip that is shown is none of the page\'s own loading', async () => {
  const late = await browser.newContext();
  const other = await late.newPage();
  // A page that is busy for three seconds just after it has connected.
  await other.addInitScript(() => {
    const Native = window.WebSocket;
    window.WebSocket = class extends Native {
      constructor(...args) {
        super(...args);
        this.addEventListener('open', () => setTimeout(() => { const end = performance.now() + 3000; while (performance.now() < end); }, 60));
      }
    };
    document.addEventListener('DOMContentLoaded', () => {
      window.firstRtt = new Promise((first) => new MutationObserver(() => /\d/.test(document.querySelector('#rtt').textContent) && first(document.querySelector('#rtt').textContent))
        .observe(document.querySelector('#rtt'), { childList: true, characterData: true, subtree: true }));
    });
  });
  await other.goto(new URL(page.url()).origin);
  const first = await other.evaluate(() => window.firstRtt);
  assert(parseFloat(first) < 2500, first);
  await late.close();
});

await check('it said no fault', async () => assert.deepEqual(faults, []));

await done();
void url;
