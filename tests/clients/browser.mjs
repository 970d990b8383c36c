// Starts Chromium for the browser scripts, headless and with nothing kept; its faults end the script.
import { chromium } from 'playwright-core';
import { cleanups } from './lib.mjs';

/** A page at a laptop's or a phone's size, with the faults that it reported. */
export async function launch(options = {}) {
  const browser = await chromium.launch({
    executablePath: process.env.FANWIRE_CHROMIUM,
    args: ['--disable-dev-shm-usage', '--disable-gpu'],
  });
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.setDefaultTimeout(20_000);
  cleanups.push(async (code) => {
    // What there was to see when it failed.
    if (code !== 0) await page.screenshot({ path: `${process.env.FANWIRE_SCREENSHOTS}/failed-${process.pid}.png` }).catch(() => {});
    await browser.close();
  });
  return { browser, context, page, faults };
}
