// The promises of the client with a hostile server: `cases/referee.json`, which also drives the Python client.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { test } from 'node:test';
import WebSocket, { WebSocketServer } from 'ws';
import { Fanwire, isGap } from '../dist/index.js';
import { here, listening, sleep, take, until } from './support.mjs';

const cases = JSON.parse(readFileSync(here('../../cases/referee.json'), 'utf8'));
const BASE = 20;
const ABLE = ['catch_up', 'concat', 'filter', 'history_end', 'own_past', 'refill'];

/** A server with a log of numbered events. It breaks some connections in one state. */
class Hostile {
  log = 0;
  /** Length of the log when a subscription was first accepted: all later events must come. */
  first = undefined;
  attempts = [];
  heard = [];
  losses = 0;

  /** Accepted events, and their answers by name. */
  published = 0;
  names = new Map();

  constructor(t, { state, reason, losses = 0, capabilities = ABLE, answer, once } = {}) {
    Object.assign(this, { state, reason, left: losses, capabilities, answer, once });
    this.http = http.createServer((request, response) => this.#request(request, response));
    this.ws = new WebSocketServer({ noServer: true });
    this.http.on('upgrade', (request, socket, head) => {
      this.attempts.push(performance.now());
      if (this.state === 'connecting' && this.#lose(undefined, socket)) return;
      this.ws.handleUpgrade(request, socket, head, (one) => this.#socket(one));
    });
    t.after(() => (this.http.closeAllConnections(), this.http.close(), this.ws.clients.forEach((one) => one.terminate())));
  }

  async listen() {
    this.url = await listening(this.http);
    return this;
  }

  event = (n) => ({ event_id: `a-${n}`, event_type: 'x', correlation_id: null, payload: n });

  /** Breaks a connection, if that is due. An event is published meanwhile. */
  #lose(socket, raw) {
    if (this.left <= 0) return false;
    this.left -= 1;
    this.losses += 1;
    // The loss of a publisher's connection is not the loss of a stream.
    if (this.first !== undefined && !(this.state === 'publishing' && raw)) this.log += 1;
    const { reason } = this;
    if (reason === 'mute') socket && (socket.mute = true);
    else if (/^\d{4}$/.test(reason)) socket.close(+reason, reason === '1012' || reason === '1013' ? `retry=${cases.slot}` : '');
    else if (reason === '503' || reason === 'html') {
      const [status, type] = reason === '503' ? ['503 Busy', 'application/json'] : ['200 OK', 'text/html'];
      raw.end(`HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}`);
    } else if (reason === 'end') raw.end();
    else (raw ?? socket._socket).destroy();
    return true;
  }

  get info() {
    return { name: 'fanwire', ...(this.capabilities && { capabilities: this.capabilities }), dedupe_seconds: this.once?.dedupe_seconds ?? 120 };
  }

  /** Accepts an event, once if it has a name. The connection is lost before that or after, if that is due. */
  #publish({ dedupe_id: name }, answer, lose) {
    const { lose: when } = this.once ?? { lose: this.state === 'publishing' && 'before' };
    if (when === 'before' && lose()) return;
    const id = this.names.get(name) ?? `p-${(this.published += 1)}`;
    if (name) this.names.set(name, id);
    if (when === 'after' && lose()) return;
    answer(id);
  }

  #socket(socket) {
    const say = (type, payload, correlation_id = null) => socket.mute || socket.send(JSON.stringify({ type, payload, correlation_id }));
    const events = (since) => {
      for (let n = since + 1; n <= this.log; n += 1) say('event', this.event(n));
    };
    socket.on('error', () => {});
    socket.on('message', (data) => {
      if (socket.mute) return;
      const { type, payload, message_id } = JSON.parse(data);
      this.heard.push(type);
      const number = (place) => +place.split('-')[1];
      if (this.answer?.(type, say, message_id, payload)) return;
      if (type === 'request') {
        if (this.state === (payload.action === 'server_info' ? 'asking' : 'requesting') && this.#lose(socket)) return;
        say('response', this.info, message_id);
      } else if (type === 'ping') say('pong', { last_event_id: `a-${this.log}` }, message_id);
      else if (type === 'publish') this.#publish(payload, (event_id) => say('ack', { event_id }, message_id), () => this.#lose(socket));
      else if (type === 'refill') {
        if (this.#lose(socket)) return;
        say('ack', {}, message_id);
        events(number(payload.since));
      } else if (type === 'subscribe') {
        if (this.state === 'subscribing' && this.#lose(socket)) return;
        this.first ??= this.log;
        const ack = { subscription_id: payload.subscription_id, last_event_id: `a-${this.log}` };
        say('ack', ack, message_id);
        if (payload.event_types?.includes('other') && this.state === 'past' && this.left > 0) {
          say('event', this.event(1));
          return this.#lose(socket);
        }
        const since = payload.since ? number(payload.since) : payload.history ? Math.max(0, this.log - payload.history) : this.log;
        events(since);
        if (payload.since || payload.history) say('history_end', { subscription_id: payload.subscription_id, events: this.log - since, complete: true });
        if (payload.event_types?.includes('other')) return;
        this.log += 1;
        say('event', this.event(this.log));
        if (this.state === 'draining' && this.left > 0) say('reconnect', { delay_ms: cases.slot });
        if (this.state === 'refilling' && this.left > 0) {
          const from = `a-${this.log}`;
          this.log += 2;
          say('gap', { missed: 2, from, to: `a-${this.log}`, recoverable: true });
        } else if (['subscribed', 'draining', 'text'].includes(this.state)) this.#lose(socket);
      } else say('ack', {}, message_id);
    });
  }

  #request(request, response) {
    const raw = request.socket;
    if (request.method === 'POST') {
      let body = '';
      request.on('data', (bytes) => (body += bytes));
      const answer = (last_event_id) => response.end(JSON.stringify({ accepted: 1, last_event_id }));
      return void request.on('end', () => this.#publish(JSON.parse(body), answer, () => this.#lose({}, raw)));
    }
    if (request.url === '/api/server_info') return void response.writeHead(this.capabilities ? 200 : 404).end(JSON.stringify(this.info));
    this.attempts.push(performance.now());
    if (this.state === 'connecting' && this.#lose({}, raw)) return;
    response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    const say = (n) => response.write(`id: a-${n}\ndata: ${JSON.stringify(this.event(n))}\n\n`);
    this.first ??= this.log;
    const query = new URL(request.url, this.url).searchParams;
    const since = query.get('last_event_id');
    this.heard.push('stream');
    if (this.answer?.('stream', (kind, what) => response.write(kind === 'event' ? `id: ${what.event_id}\ndata: ${JSON.stringify(what)}\n\n` : `event: ${kind}\ndata: ${JSON.stringify(what)}\n\n`), null, { since })) return;
    if (since) for (let n = +since.split('-')[1] + 1; n <= this.log; n += 1) say(n);
    else response.write(`id: a-${this.log}\n\n`);
    this.log += 1;
    say(this.log);
    if (this.state === 'refilling' && this.left > 0) {
      const from = `a-${this.log}`;
      this.log += 2;
      response.write(`event: gap\ndata: {"missed":2,"from":"${from}","to":"a-${this.log}","recoverable":true}\n\n`);
      // The stream that comes for it is broken at once.
      this.state = 'connecting';
    } else if (['subscribed', 'text'].includes(this.state)) setTimeout(() => this.#lose({}, raw), 5);
  }
}

/** Timers in this process, those of the WebSocket library and of the test included. */
const open = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

/** Records the timers and listeners of the client's own files. Returns a function that lists those still in use. */
function inUse(t) {
  const timers = new Map();
  const listeners = [];
  const { setTimeout: start, clearTimeout: stop } = globalThis;
  const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
  const maker = () => new Error().stack.split('\n').slice(1).find((line) => !/referee\.test\.mjs|test_runner/.test(line)) ?? '';
  const isOwn = (line) => line.includes('/clients/js/dist/');
  const added = (target, kind, listener, from) => isOwn(from) && listeners.push({ target, kind, listener, from });
  const removed = (target, kind, listener) => {
    const at = listeners.findIndex((one) => one.target === target && one.kind === kind && one.listener === listener);
    if (at >= 0) listeners.splice(at, 1);
  };
  t.mock.method(globalThis, 'setTimeout', (run, time, ...more) => {
    const from = maker();
    const timer = start(() => (timers.delete(timer), run(...more)), time);
    if (isOwn(from)) timers.set(timer, from);
    return timer;
  });
  t.mock.method(globalThis, 'clearTimeout', (timer) => (timers.delete(timer), stop(timer)));
  t.mock.method(EventTarget.prototype, 'addEventListener', function (kind, listener, ...more) {
    added(this, kind, listener, maker());
    return add.call(this, kind, listener, ...more);
  });
  t.mock.method(EventTarget.prototype, 'removeEventListener', function (kind, listener, ...more) {
    removed(this, kind, listener);
    return remove.call(this, kind, listener, ...more);
  });
  // Node has no events of the network. Browsers do.
  globalThis.addEventListener = (kind, listener) => added(globalThis, kind, listener, maker());
  globalThis.removeEventListener = (kind, listener) => removed(globalThis, kind, listener);
  t.after(() => (delete globalThis.addEventListener, delete globalThis.removeEventListener));
  return () => [...timers.values(), ...listeners.map(({ kind, from }) => `${kind} ${from}`)];
}

/** Checks that a closed client leaves no timer and no listener. */
const leavesNothing = async (used) => {
  await until('no timer and no listener of the client is left', () => used().length === 0).catch((error) => assert.fail(`${error.message}: ${used()}`));
};

for (const transport of ['ws', 'sse']) {
  for (const [state, reasons] of Object.entries(cases[transport])) {
    for (const reason of reasons) {
      test(`${transport}, ${state}, ${reason}`, async (t) => {
        const server = await new Hostile(t, { state, reason, losses: cases.losses }).listen();
        t.mock.method(Math, 'random', () => 1);
        const used = inUse(t);
        let refused = state === 'token' ? cases.losses : 0;
        const heartbeat = reason === 'mute' ? { interval: 100, timeout: 400 } : { interval: 25_000, timeout: 10_000 };
        const client = new Fanwire(server.url, {
          WebSocket, transports: [transport], backoff: { base: BASE, max: 8 * BASE }, heartbeat,
          token: state === 'token' ? () => (refused-- > 0 ? Promise.reject(new Error('none')) : 'any') : undefined,
        });
        t.after(() => client.close());
        const [statuses, gaps] = [[], []];
        client.onStatus((status) => statuses.push(status));
        client.onGap((gap) => gaps.push(gap));
        client.onError(() => {});
        const abort = new AbortController();
        // The server's capabilities are asked for before a text, and again on each connection.
        const loop = client.subscribe(['asking', 'text'].includes(state) ? { filter: 'type=x' } : 'x', { signal: abort.signal });
        const others = [];
        if (state === 'publishing') others.push(loop.ready.then(() => client.publish({ type: 'y' })).then(() => 'done', ({ code }) => code));
        if (state === 'requesting') others.push(loop.ready.then(() => client.request('subscription_count')).then(() => 'done', ({ code }) => code));
        if (state === 'past') {
          await loop.ready;
          client.subscribe('other', { history: 5 });
        }
        for (const outcome of await Promise.all(others)) assert(['done', ...(state === 'publishing' ? ['uncertain'] : [])].includes(outcome), outcome);
        if (state === 'publishing') for (let n = 0; n < cases.losses; n += 1) await client.publish({ type: 'y' }).catch(({ code }) => assert.equal(code, 'uncertain'));
        await until('the losses', () => server.left <= 0 || state === 'token');
        await until('the client is back', () => client.status === 'open');
        await loop.ready;
        await until('all that was published', () => loop.position === `a-${server.log}`);
        const wanted = Array.from({ length: server.log - server.first }, (_, n) => server.first + 1 + n);
        assert.deepEqual((await take(loop, wanted.length)).map((item) => (isGap(item) ? item : item.payload)), wanted);
        assert.deepEqual(gaps, []);
        // Each status once, one after the other.
        assert.deepEqual(statuses.filter((status, at) => status === statuses[at - 1]), []);
        // Attempts keep to the backoff, or to the server's instructions.
        const slot = reason === '1012' || reason === '1013' || state === 'draining' ? cases.slot : 0;
        const waits = server.attempts.slice(1).map((time, at) => time - server.attempts[at]);
        if (!['publishing', 'past'].includes(state) && !(transport === 'sse' && state === 'refilling')) {
          waits.slice(0, cases.losses).forEach((wait, at) => assert(wait >= Math.max(slot, slot ? 0 : BASE * 2 ** at) - 3, `${waits}`));
        }
        assert(server.attempts.length <= cases.losses + 2, `${server.attempts.length} attempts`);
        assert(used().length > 0, 'an open client has timers and listeners');
        client.close();
        await assert.rejects(client.publish({ type: 'y' }), { code: 'closed' });
        assert.equal((await loop.next()).done, true);
        assert.equal(getEventListeners(abort.signal, 'abort').length, 0);
        await leavesNothing(used);
        const attempts = server.attempts.length;
        await until('no timer is left', () => open() === 0 || transport === 'sse');
        await sleep(3 * BASE);
        assert.equal(server.attempts.length, attempts, 'it is over');
        assert.equal(statuses.at(-1), 'closed');
      });
    }
  }

  for (const { name, reasons, losses = 1, able = true, dedupe_id, close, want, published, ...once } of cases.once) {
    for (const reason of reasons[transport]) {
      test(`${transport}, ${reason}: a publish is ${name}`, async (t) => {
        const server = await new Hostile(t, { reason, losses, once, capabilities: able ? [...ABLE, 'publish_once'] : ABLE }).listen();
        const used = inUse(t);
        const client = new Fanwire(server.url, {
          WebSocket, transports: [transport], backoff: { base: 5, max: 40 }, heartbeat: { interval: 100, timeout: reason === 'mute' ? 400 : 10_000 },
        });
        t.after(() => client.close());
        client.onError(() => {});
        await client.subscribe('x').ready;
        const outcome = client.publish({ type: 'y', ...(dedupe_id && { dedupe_id }) }).catch(({ code }) => code);
        await until('the losses', () => server.left === 0);
        if (close) client.close();
        assert.equal(await outcome, want);
        assert.equal(server.published, published);
        if (dedupe_id) assert.deepEqual([...server.names.keys()], [dedupe_id]);
        client.close();
        await leavesNothing(used);
      });
    }
  }

  for (const { name, say, refill, want, refills, client: mode, on_lag, concat, capabilities = ABLE, only } of cases.gaps) {
    if (only && only !== transport) continue;
    test(`${transport}: a gap is ${name}`, async (t) => {
      const gap = (more) => ({ missed: 2, from: 'a-1', to: 'a-3', recoverable: true, ...more });
      let asked = 0;
      const server = new Hostile(t, { capabilities, answer: (type, tell, id, payload) => {
        const play = (what, number) => {
          if (what === 'all') for (let n = 2; n <= 4; n += 1) tell('event', server.event(n));
          else if (what === 'event') tell('event', server.event(number));
          else if (what === 'unknown') tell('news', { what: 1 });
          else tell('gap', gap({ lost: { recoverable: false }, nameless: { from: null, recoverable: false } }[what]));
        };
        const again = type === 'refill' || (type === 'stream' && asked++ > 0);
        if (again) {
          assert.equal(payload.since, 'a-1');
          server.refills = (server.refills ?? 0) + 1;
          if (id) tell('ack', {}, id);
          refill.forEach((what) => play(what, 4));
        } else if (type === 'subscribe' || type === 'stream') {
          if (id) tell('ack', { subscription_id: payload.subscription_id, last_event_id: 'a-0' }, id);
          say.forEach((what, at) => play(what, at ? 4 : 1));
        } else return false;
        return true;
      } });
      await server.listen();
      const used = inUse(t);
      const client = new Fanwire(server.url, { WebSocket, transports: [transport], onGap: mode, backoff: { base: 5, max: 40 } });
      t.after(() => client.close());
      const gaps = [];
      client.onGap((gap) => gaps.push(gap));
      const items = await take(client.subscribe('x', { on_lag, concat }), want.length);
      assert.deepEqual(items.map((item) => (isGap(item) ? 'gap' : item.payload)), want);
      assert.equal(gaps.length, want.filter((item) => item === 'gap').length);
      assert.equal(server.refills ?? 0, refills);
      client.close();
      await leavesNothing(used);
    });
  }
}
