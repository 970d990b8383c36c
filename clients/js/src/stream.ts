// The fallback: a `/sse` stream for each subscription, and `POST /publish`.
import { fields, pairs, values } from './filter.js';
import { STABLE, refillable, type Host, type Link, type Loss } from './link.js';
import { parser } from './sse.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type Filter, type Gap } from './types.js';

type Any = Subscription<any, any>;

/** Writes the query of `/sse` that asks for the same events. */
function query(filter: Filter, into: URLSearchParams): void {
  for (const [name, field] of Object.entries(fields)) for (const value of values(filter, field)) into.append(name, value);
  for (const pair of pairs(filter)) into.append('entity', pair.join(':'));
  if (filter.filter) into.set('filter', filter.filter);
}

export function streamLink(host: Host, base: URL, token: string | undefined): Link {
  const { heartbeat: { interval = 25_000, timeout = 10_000 } = {}, fetch = globalThis.fetch } = host.options;
  const streams = new Map<Any, AbortController>();
  /** Refills in a row of one stream, and the position of the last one. */
  const refills = new Map<Any, { count: number; since: string; timer?: ReturnType<typeof setTimeout> }>();
  let over = false;
  let retry: number | undefined;

  const request = (url: URL, init: RequestInit, headers: Record<string, string>): Promise<Response> =>
    fetch(url, { ...init, headers: token === undefined ? headers : { ...headers, authorization: `Bearer ${token}` } });

  const refusal = async (answer: Response): Promise<FanwireError> => {
    const said = await answer.json().catch(() => ({}));
    const code = { 401: 'unauthorized', 403: 'forbidden' }[answer.status] ?? said.code ?? `http_${answer.status}`;
    return new FanwireError(code, said.error ?? answer.statusText);
  };

  /** Returns whether a gap is refilled: the stream begins again at its position before the gap. */
  const refill = (one: Any, gap: Gap): boolean => {
    const { count = 0, since } = refills.get(one) ?? {};
    const place = one.position;
    if (!refillable(host, [one], gap) || !place || place === since) return false;
    const { backoff: { base = 500, max = 30_000 } = {} } = host.options;
    streams.get(one)!.abort();
    // A stream that ends for this reason is no loss.
    streams.set(one, new AbortController());
    // The first refill is immediate, the next one waits like after a lost connection.
    const wait = count && Math.random() * Math.min(max, base * 2 ** count);
    const timer = setTimeout(() => streams.has(one) && add(one), wait);
    refills.set(one, { count: count + 1, since: place, timer });
    return true;
  };

  /** Reads a stream to its end. The result has further details. */
  const read = async (one: Any, abort: AbortController): Promise<Loss | void> => {
    const url = new URL('sse', base);
    const { since, ...rest } = one.wire;
    query({ ...one.filter, ...one.kept }, url.searchParams);
    for (const [name, value] of Object.entries({ ...rest, last_event_id: one.position ?? since })) {
      if (value) url.searchParams.set(name, `${value}`);
    }
    // The server's heartbeat is a comment each 30 s, by default.
    const watch = (time: number) => setTimeout(() => abort.abort(new Error(`silent for ${time} ms`)), time);
    let timer = watch(timeout);
    try {
      const answer = await request(url, { cache: 'no-store', signal: abort.signal }, { accept: 'text/event-stream' });
      if (!answer.ok) {
        const error = await refusal(answer);
        // Its request is wrong or not allowed, which concerns no other subscription.
        if (answer.status === 400 || answer.status === 403) return one.end(error);
        const after = answer.headers.get('retry-after') ?? '';
        // Seconds or a date (RFC 9110, 10.2.3). For anything else the client's own wait applies.
        return { error, delay: /^\d+$/.test(after) ? +after * 1000 : Date.parse(after) - Date.now() };
      }
      // The server will never have more for this subscription (HTML, 9.2.3).
      if (answer.status === 204) return one.end();
      // A login page or a proxy's own answer, for example.
      const kind = `${answer.headers.get('content-type')}`;
      if (!/^text\/event-stream\b/i.test(kind)) return { error: new FanwireError('protocol', `not an event stream: ${kind}`) };
      one.taken();
      if (!(one.wire.since ?? one.wire.history ?? one.wire.snapshot)) one.passed();
      opened();
      let end: Loss | undefined;
      const feed = parser(({ event, data, id, retry: wait = '', '': comment = '' }) => {
        // It has ended for a refill.
        if (abort.signal.aborted) return;
        const passed = /^history_end events=(\d+) complete=(\w+)/.exec(comment);
        if (passed) one.passed({ events: +passed[1]!, complete: passed[2] === 'true' });
        retry = /^\d+$/.test(wait) ? +wait : retry;
        let item: any = {};
        try {
          item = data ? JSON.parse(data) : item;
        } catch (cause) {
          host.failed(new FanwireError('protocol', 'no event', cause));
        }
        if (item.event_type !== undefined) host.event(item, one);
        else if (event === 'gap') {
          if (refill(one, item)) return;
          host.gap(item, one);
          id = item.to;
        } else if (event === 'closed') {
          // The token's end. The next thing is the end of the stream.
          end = { error: new FanwireError(/^token_/.test(item.code) ? 'unauthorized' : `${item.code}`, `${item.error}`) };
        }
        one.reach(id);
      });
      const began = performance.now();
      const decoder = new TextDecoder();
      const reader = answer.body!.getReader();
      for (;;) {
        const { value, done } = await reader.read();
        if (done || over) return end;
        if (refills.has(one) && performance.now() - began > STABLE) refills.delete(one);
        clearTimeout(timer);
        timer = watch(3 * interval);
        host.proven();
        feed(decoder.decode(value, { stream: true }));
      }
    } finally {
      clearTimeout(timer);
    }
  };

  const opened = (): void => {
    host.opened();
    // Subscriptions that were made since this link began, while it was not open.
    for (const one of host.subscriptions()) if (!streams.has(one)) add(one);
  };

  const add = (one: Any): void => {
    const abort = new AbortController();
    streams.set(one, abort);
    read(one, abort)
      .catch((cause) => ({ error: new FanwireError('disconnected', `${cause.message}`, cause) }))
      .then((loss) => {
        if (over || streams.get(one) !== abort) return;
        close();
        host.lost({ error: new FanwireError('disconnected', 'the stream ended'), delay: retry && retry * Math.random(), ...loss });
      });
  };

  const close = (): void => {
    over = true;
    for (const { timer } of refills.values()) clearTimeout(timer);
    for (const abort of streams.values()) abort.abort();
  };

  const all = host.subscriptions();
  all.forEach(add);
  // Without a subscription, publishing shows whether the transport works.
  if (!all[0]) queueMicrotask(() => over || opened());

  const remove = (one: Any): void => {
    const abort = streams.get(one);
    streams.delete(one);
    clearTimeout(refills.get(one)?.timer);
    abort?.abort();
  };

  return {
    add,
    remove,
    send({ type, payload, of, ack, resolve, reject }) {
      if (type === 'update') {
        resolve({});
        if (!of) return;
        // The stream begins again at its position, with the changed lists.
        of.active = false;
        remove(of);
        return add(of);
      }
      if (type === 'request') return reject(new FanwireError('no_transport', 'requests need a WebSocket'));
      if (ack === false) {
        resolve({});
        reject = host.failed;
      }
      const abort = new AbortController();
      const stop = () => abort.abort();
      // A publish goes on when the streams are lost, but not when the client ends.
      host.ended.addEventListener('abort', stop);
      const timer = setTimeout(stop, timeout);
      const init = { method: 'POST', body: JSON.stringify(payload), signal: abort.signal };
      request(new URL('publish', base), init, { 'content-type': 'application/json' })
        .then(async (answer) => {
          if (!answer.ok) return reject(await refusal(answer));
          host.proven();
          resolve({ event_id: (await answer.json()).last_event_id });
        })
        .catch((cause) => reject(new FanwireError('uncertain', 'disconnected before the answer', cause)))
        .finally(() => (clearTimeout(timer), host.ended.removeEventListener('abort', stop)));
    },
    refresh: () => false,
    close,
  };
}
