// Starts Chromium for the browser scripts, headless and with nothing kept; its faults end the script.
import { chromium } from 'playwright-core';

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
  return { browser, context, page, faults };
}
