// The JavaScript of the guides in docs/ and in this README, run against a server.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { Fanwire, isGap } from '../dist/index.js';
import { Server, here, quick, until } from './support.mjs';

const AsyncFunction = (async () => {}).constructor;

let server;
before(async () => (server = await Server.start('--presence-channels', '**', '--presence-grace', '0s')));
after(() => server.stop());

/** Returns a page's `js` blocks with this word, each as a function of these names. */
async function blocks(page, word, ...names) {
  const text = await readFile(here(`../../../docs/${page}`), 'utf8');
  const found = [...text.matchAll(/```js\n([^]*?)```/g)].map(([, code]) => code).filter((code) => code.includes(word));
  assert(found.length > 0, `${page}: ${word}`);
  return found.map((code) => new AsyncFunction(...names, code.replaceAll('https://events.example.com', server.url)));
}

test('the replacement of Socket.IO shows published events', async () => {
  const [migrated] = await blocks('migrating.md', 'socket.emit', 'Fanwire', 'token', 'show');
  const shown = [];
  let client;
  class Watched extends Fanwire {
    constructor(url, options) {
      super(url, { ...quick, ...options });
      client = this;
    }
  }
  const running = migrated(Watched, 'any', (event) => shown.push(event));
  await until('a subscription', async () => (await (await fetch(`${server.url}/api/stats`)).json()).subscriptions === 1);
  await server.publish([
    { type: 'order.created', channel: 'orders', payload: { id: 1 } }, { type: 'order.created', channel: 'elsewhere' },
    { type: 'cart.filled', channel: 'orders' }, { type: 'order.paid', channel: 'orders', payload: { id: 1 } },
  ]);
  // The event of its own join has another type.
  await until('both', () => shown.length === 2);
  assert.deepEqual(shown.map((event) => event.event_type), ['order.created', 'order.paid']);
  client.close();
  await running;
});

test('a list of present users follows arrivals and departures', async () => {
  const [list] = await blocks('presence.md', 'const here', 'client', 'isGap', 'watched');
  const map = new Map();
  const code = list.toString().replace('const here = new Map()', 'const here = watched').replace(/^[^{]*\{|\}$/g, '');
  const as = (user) => new Fanwire(server.url, { ...quick, path: `ws?user=${user}` });
  const [ann, bob] = [as('ann'), as('bob')];
  const running = new AsyncFunction('client', 'isGap', 'watched', code)(ann, isGap, map);
  const users = () => [...map.keys()].sort().join();
  await until('ann herself', () => users() === 'ann');
  bob.subscribe({ channels: ['room.1'] });
  await until('bob too', () => users() === 'ann,bob');
  bob.close();
  await until('bob gone', () => users() === 'ann');
  ann.close();
  await running;
});
