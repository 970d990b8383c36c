// Tokens with the real server: signing in, renewing on an open connection, refusals.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { Fanwire } from '../dist/index.js';
import { BINARY, Server, quick, take, until } from './support.mjs';

const SECRET = 'only for this test, and long enough for it';
const tokenOf = (subject, ...options) => execFileSync(BINARY, ['token', '--secret', SECRET, '--sub', subject, ...options], { encoding: 'utf8' }).trim();
const token = (...options) => tokenOf('me', ...options);

let server;
let folder;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'fanwire-'));
  await writeFile(join(folder, 'fanwire.toml'), `[auth.jwt]\nhs256_secret = "${SECRET}"\n[auth.grant]\nchannels = ["user:{sub}"]\n`);
  server = await Server.start('--config', join(folder, 'fanwire.toml'));
});
after(async () => {
  await server?.stop();
  await rm(folder, { recursive: true });
});

for (const transport of ['ws', 'sse']) {
  const connect = (t, options) => {
    const client = new Fanwire(server.url, { ...quick, transports: [transport], ...options });
    t.after(() => client.close());
    return client;
  };

  test(`${transport}: a stream outlives its tokens`, { timeout: 60_000 }, async (t) => {
    let made = 0;
    const client = connect(t, { token: () => ((made += 1), token('--stream', '*', '--publish', '--ttl', '6s')) });
    const losses = [];
    client.onError((error) => losses.push(error));
    const loop = client.subscribe('a.*');
    await loop.ready;
    // Each lives for six seconds at most. A busy machine makes them slowly.
    const end = Date.now() + 7_000;
    const ids = [];
    while (Date.now() < end || made < 3) {
      ids.push(await client.publish({ type: 'a.b' }));
      assert.equal((await take(loop, 1))[0].event_id, ids.at(-1));
      await new Promise((wake) => setTimeout(wake, 50));
    }
    if (transport === 'ws') assert.deepEqual(losses, []);
  });

  test(`${transport}: without a token, or with one that is none, it ends and says why`, async (t) => {
    const refused = { code: /unauthorized|auth_required/, message: /Authentication required|Invalid token/ };
    await assert.rejects(connect(t, {}).subscribe().next(), refused);
    await assert.rejects(connect(t, { token: 'no.such.token' }).subscribe().next(), refused);
  });

  test(`${transport}: a token's grants hold`, async (t) => {
    const narrow = connect(t, { token: token('--type', 'a.*') });
    const loop = narrow.subscribe();
    await loop.ready;
    await assert.rejects(narrow.publish({ type: 'a.b' }), { code: 'forbidden' });
    const wide = connect(t, { token: token('--stream', '*', '--publish') });
    await wide.publish({ type: 'b.hidden' });
    const id = await wide.publish({ type: 'a.seen' });
    await until('the event', async () => (await take(loop, 1))[0].event_id === id);
  });

  test(`${transport}: a personal channel comes by its template, beside other subscriptions`, async (t) => {
    // A subject is taken literally, and a template is no name of a channel.
    const client = connect(t, { token: tokenOf('a:*', '--channel', '**', '--publish') });
    const note = (channel) => client.publish({ type: 'note', channel });
    const [own, everything, lobby] = [{ channels: ['user:{sub}'] }, {}, { channels: ['lobby'] }].map((filter) => client.subscribe(filter));
    const text = client.subscribe({ filter: 'channel="user:{sub}"' });
    await Promise.all([own, everything, lobby, text].map((one) => one.ready));
    for (const channel of ['user:a:b', 'user:a:*', 'user:b', 'user:a:*', 'lobby']) await note(channel);
    const channels = async (of, count) => (await take(of, count)).map(({ channel }) => channel);
    assert.deepEqual(await channels(everything, 5), ['user:a:b', 'user:a:*', 'user:b', 'user:a:*', 'lobby']);
    assert.deepEqual(await channels(lobby, 1), ['lobby']);
    assert.deepEqual(await channels(own, 2), ['user:a:*', 'user:a:*']);
    assert.deepEqual(await channels(text, 2), ['user:a:*', 'user:a:*']);
    // An update may name it too.
    await lobby.update({ add: { channels: ['user:{sub}'] } });
    for (const channel of ['user:b', 'user:a:*', 'lobby']) await note(channel);
    assert.deepEqual(await channels(lobby, 2), ['user:a:*', 'lobby']);
    await lobby.update({ remove: { channels: ['user:{sub}'] } });
    for (const channel of ['user:a:*', 'lobby']) await note(channel);
    assert.deepEqual(await channels(lobby, 1), ['lobby']);
  });
}
