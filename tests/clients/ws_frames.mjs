// Proves, with Node's `ws`: handshake, fragments, control frames, compression, limits and close codes.
import http from 'node:http';
import { Client, assert, check, done, numbered, publish, until, url, ask } from './lib.mjs';

await check('the subprotocol is accepted if it is offered, and not required', async () => {
  assert.equal((await Client.connect({ protocols: ['fanwire.v1'] })).ws.protocol, 'fanwire.v1');
  assert.equal((await Client.connect({ protocols: ['other', 'fanwire.v1'] })).ws.protocol, 'fanwire.v1');
  assert.equal((await Client.connect()).ws.protocol, '');
});

await check('an offer of compression is accepted, and events arrive compressed', async () => {
  const client = await Client.connect({ perMessageDeflate: true });
  assert.equal(client.ws.extensions, 'permessage-deflate');
  await client.subscribe();
  const text = 'the same again, '.repeat(200);
  for (let n = 0; n < 3; n += 1) {
    await publish({ type: 'test.long', payload: { n, text } });
    assert.deepEqual((await client.event()).payload, { n, text });
  }
});

await check('a compressed message is refused with 1002 where no compression was agreed on', async () => {
  const client = await Client.connect({ perMessageDeflate: false });
  // FIN, RSV1 and text; masked with zeros, five bytes.
  client.ws._socket.write(Buffer.from([0xc1, 0x85, 0, 0, 0, 0, 1, 2, 3, 4, 5]));
  assert.equal((await client.closed).code, 1002);
});

await check('a plain request to /ws gets the advice to upgrade', async () => {
  const answer = await new Promise((take) => http.get(`${url}/ws`, { agent: false }, take));
  answer.resume();
  assert.equal(answer.statusCode, 426);
  assert.equal(answer.headers.upgrade.toLowerCase(), 'websocket');
});

let base;
const word = 'naïve ☃ 𝄞 ';

await check('a large message in many fragments, pings between them, is one message', async () => {
  const client = await Client.connect();
  await client.subscribe();
  const text = word.repeat(3500);
  const bytes = Buffer.from(JSON.stringify({ type: 'publish', message_id: 'big', payload: { type: 'big', payload: { text } } }));
  assert(bytes.length > 50_000 && bytes.length <= 65_536, `${bytes.length}`);
  const pongs = [];
  client.ws.on('pong', (data) => pongs.push(data.toString()));
  // Odd pieces that cut characters.
  for (let at = 0, n = 0; at < bytes.length; at += 1021, n += 1) {
    const end = at + 1021;
    client.ws.send(bytes.subarray(at, end), { fin: end >= bytes.length, binary: false });
    if (n % 10 === 0 && end < bytes.length) client.ws.ping(`between ${n}`);
  }
  const [first, second] = [await client.messages.next(), await client.messages.next()];
  const [ack, event] = first.type === 'ack' ? [first, second] : [second, first];
  assert.equal(ack.correlation_id, 'big');
  assert.equal(event.payload.payload.text, text);
  assert(pongs.length >= 5 && pongs[0] === 'between 0', `${pongs}`);
});

await check('a large event comes out whole', async () => {
  const client = await Client.connect();
  await client.subscribe({ event_types: ['large'] });
  const text = word.repeat(12_000);
  await publish({ type: 'large', payload: { text } });
  assert.equal((await client.event()).payload.text, text);
});

await check('a message over the limit is closed with 1009, in one frame or in many', async () => {
  const one = await Client.connect();
  one.ws.send('x'.repeat(65_537));
  assert.equal((await one.closed).code, 1009);
  const many = await Client.connect();
  for (let n = 0; n < 70; n += 1) many.ws.send('x'.repeat(1000), { fin: false });
  assert.equal((await many.closed).code, 1009);
});

await check('text that is not UTF-8 is closed with 1007', async () => {
  const client = await Client.connect();
  client.ws.send(Buffer.from([0x7b, 0xff, 0xfe]), { binary: false });
  assert.equal((await client.closed).code, 1007);
});

await check('a ping is answered with its bytes', async () => {
  const client = await Client.connect();
  const pongs = [];
  client.ws.on('pong', (data) => pongs.push(data));
  const longest = Buffer.alloc(125, 7);
  client.ws.ping();
  client.ws.ping(longest);
  await until('two pongs', () => pongs.length === 2);
  assert.deepEqual(pongs, [Buffer.alloc(0), longest]);
});

await check('a close is answered with its code', async () => {
  for (const [code, reason] of [[1000, 'bye'], [3000, ''], [4999, 'ö'.repeat(60)]]) {
    const client = await Client.connect();
    client.ws.close(code, reason);
    assert.equal((await client.closed).code, code);
  }
  const silent = await Client.connect();
  silent.ws.close();
  assert([1000, 1005].includes((await silent.closed).code));
});

await check('a client that answers pings stays, and one that does not is closed', async () => {
  base = await ask('serve --heartbeat 2s');
  const alive = await Client.connect({ base });
  const dead = await Client.connect({ base, autoPong: false });
  await alive.subscribe();
  const closed = await dead.closed;
  assert(dead.pings.length >= 2, `${dead.pings.length} pings, closed with ${closed.code}`);
  await until('several pings', () => alive.pings.length >= 3);
  await publish(numbered(1), base);
  assert.equal((await alive.event()).payload.n, 1);
});

await check('SIGTERM: published events arrive, then 1001 or 1012, and the server exits with 0', async () => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => Client.connect({ base })));
  await Promise.all(clients.map((client) => client.subscribe()));
  await publish(numbered(7), base);
  const [code] = await Promise.all([
    ask('terminate'),
    ...clients.map(async (client) => {
      assert.equal((await client.event()).payload.n, 7);
      const { code } = await client.closed;
      assert([1001, 1012].includes(code), `closed with ${code}`);
    }),
  ]);
  assert.equal(code, '0');
  await ask('restart');
  assert(await (await Client.connect({ base })).isQuiet(), 'the next server serves at the same port');
});

await done();
