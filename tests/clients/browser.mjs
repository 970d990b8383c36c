// Starts Chromium for the browser scripts, headless and without stored state. Its errors end the script.
import { chromium } from 'playwright-core';
import { cleanups, PATIENCE, SLOWER } from './lib.mjs';

/** A page in a laptop's or a phone's size, with the errors that it reported and the addresses that it requested. */
export async function launch(options = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.FANWIRE_CHROMIUM,
    args: ['--disable-dev-shm-usage', '--disable-gpu'],
  });
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  // Like a machine that is this many times slower. The scripts' checks must not depend on speed.
  if (SLOWER > 1) await (await context.newCDPSession(page)).send('Emulation.setCPUThrottlingRate', { rate: SLOWER });
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  const asked = [];
  context.on('request', (request) => asked.push(request.url()));
  page.on('websocket', (socket) => asked.push(socket.url()));
  page.setDefaultTimeout(PATIENCE);
  cleanups.push(async (code) => {
    // A screenshot at the failure.
    if (code !== 0) await page.screenshot({ path: `${process.env.FANWIRE_SCREENSHOTS}/failed-${process.pid}.png` }).catch(() => {});
    await browser.close();
  });
  return { browser, context, page, faults, asked };
}

/** Waits until an image that is made now has failed. Handlers of earlier images that failed have run then, if the page runs any. */
export const imagesFailed = (page) => page.evaluate(() => new Promise((failed) => {
  const image = new Image();
  image.onerror = failed;
  image.src = '/no-such-image';
}));

/** Waits for a new timer of the page. Shorter timers that the page set before have run then. */
export const timerOf = (page, ms) => page.evaluate((ms) => new Promise((run) => setTimeout(run, ms)), ms);

/** The parts of the live page that its tests look at: the row of an event, and the connected state. */
export const livePage = (page) => ({
  row: (id) => page.locator(`#events [data-event-id="${id}"]`),
  isOpen: () => page.waitForSelector('#status[data-state="open"]', { state: 'attached' }),
});
