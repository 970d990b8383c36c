// Shared by the Node scripts: named checks, waits that end, clients that keep what they receive, requests to
// the test.
import assert from 'node:assert/strict';
import readline from 'node:readline';
import WebSocket from 'ws';

export { assert, WebSocket };
export const [url, ...args] = process.argv.slice(2);

/** How many times slower the browser's machine is than this one: a limit for it is longer by that. */
export const SLOWER = Math.max(1, Number(process.env.FANWIRE_BROWSER_SLOWER ?? 1));

/** Longest time for any single wait, in ms. */
export const PATIENCE = 60_000 * SLOWER;
export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
export const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$/;

let passed = 0;

/** Runs one check. A failure ends the script. */
export async function check(name, body) {
  try {
    await inTime(name, Promise.resolve().then(body), 2 * PATIENCE);
  } catch (error) {
    console.error(`not ok ${name}\n`, error);
    await leave(1);
  }
  passed += 1;
  console.log(`ok ${name}`);
}

export async function done() {
  console.log(`passed ${passed}`);
  await leave(0);
}

/** Cleanups for the end. Each gets the exit code. */
export const cleanups = [];

export async function leave(code) {
  await Promise.allSettled(cleanups.map((cleanup) => cleanup(code)));
  process.exit(code);
}

export function inTime(what, promise, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`took too long: ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

/** Waits until `test()` returns something true, and returns it. */
export async function until(what, test) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const value = await test();
    if (value) return value;
    if (Date.now() > end) throw new Error(`did not happen: ${what}`);
    await sleep(10);
  }
}

let answers;

/** Sends a request to the test (see support/script.rs) and returns its answer. */
export async function ask(wish) {
  answers ??= readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  console.log(`ask ${wish}`);
  return (await answers.next()).value;
}

/** POSTs one event or a list, and returns the last id. */
export async function publish(events, to = url) {
  const answer = await fetch(`${to}/publish`, { method: 'POST', body: JSON.stringify(events) });
  const body = await answer.json();
  assert.equal(answer.status, 200, JSON.stringify(body));
  return body.last_event_id;
}

export const numbered = (n, more = {}) => ({ type: 'test.numbered', source: 'test', payload: { n }, ...more });

/** A queue with waits. It keeps every item until it is taken. */
export class Queue {
  items = [];
  waiting = [];

  push(item) {
    const next = this.waiting.shift();
    if (next) next(item);
    else this.items.push(item);
  }

  next(what = 'the next item') {
    if (this.items.length > 0) return Promise.resolve(this.items.shift());
    return inTime(what, new Promise((take) => this.waiting.push(take)));
  }
}

/** A native client over the `ws` package. */
export class Client {
  messages = new Queue();
  pings = [];

  static async connect({ base = url, protocols = [], ...options } = {}) {
    const client = new Client();
    client.ws = new WebSocket(`${base.replace('http', 'ws')}/ws`, protocols, options);
    client.ws.on('message', (data, binary) => {
      assert.equal(binary, false, 'messages are text');
      client.messages.push(JSON.parse(data));
    });
    client.ws.on('ping', (data) => client.pings.push(data));
    client.closed = new Promise((closed) => {
      client.ws.on('close', (code, reason) => closed({ code, reason: reason.toString() }));
    });
    await new Promise((open, fail) => {
      client.ws.on('open', open);
      client.ws.on('error', fail);
    });
    // From here on, an error shows in the close.
    client.ws.removeAllListeners('error').on('error', () => {});
    return client;
  }

  send(type, payload, message_id) {
    this.ws.send(JSON.stringify({ type, payload, message_id }));
  }

  /** Sends a message and returns the answer, which must name it. */
  async ask(type, payload) {
    const id = `m-${Math.random()}`;
    this.send(type, payload, id);
    const answer = await this.messages.next(`an answer to ${type}`);
    assert.equal(answer.correlation_id, id, JSON.stringify(answer));
    assert.match(answer.message_id, UUID);
    assert.match(answer.timestamp, TIME);
    return answer;
  }

  async subscribe(payload = {}) {
    const answer = await this.ask('subscribe', payload);
    assert.equal(answer.type, 'ack', JSON.stringify(answer));
    return answer.payload.subscription_id;
  }

  /** Returns the event of the next message, which must be an event. */
  async event() {
    const message = await this.messages.next('an event');
    assert.equal(message.type, 'event', JSON.stringify(message));
    return message.payload;
  }

  /** Returns whether this ping's pong is the only answer to everything sent before. */
  async isQuiet() {
    const answer = await this.ask('ping', {});
    return answer.type === 'pong' && this.messages.items.length === 0;
  }
}
