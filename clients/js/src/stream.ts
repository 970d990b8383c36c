// The fallback: a `/sse` stream for each subscription, and `POST /publish`.
import { STABLE, closed, lacking, named, needs, refillable, uncertain, type Host, type Job, type Link, type Loss, type ServerInfo } from './link.js';
import { query } from './query.js';
import { parser } from './sse.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type Filter, type Gap } from './types.js';

type Any = Subscription<any, any>;

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
    const reply = await answer.json().catch(() => ({}));
    const code = { 401: 'unauthorized', 403: 'forbidden' }[answer.status] ?? reply.code ?? `http_${answer.status}`;
    return new FanwireError(code, reply.error ?? answer.statusText);
  };

  /** Returns whether a gap is refilled: the stream begins again at its position before the gap. */
  const refill = (subscription: Any, gap: Gap): boolean => {
    const { count = 0, since } = refills.get(subscription) ?? {};
    const place = subscription.position;
    if (!refillable(host, [subscription], gap) || !place || place === since) return false;
    const { backoff: { base = 500, max = 30_000 } = {} } = host.options;
    streams.get(subscription)!.abort();
    // A stream that ends for this reason is no loss.
    streams.set(subscription, new AbortController());
    // The first refill is immediate, the next one waits like after a lost connection.
    const wait = count && Math.random() * Math.min(max, base * 2 ** count);
    const timer = setTimeout(() => streams.has(subscription) && add(subscription), wait);
    refills.set(subscription, { count: count + 1, since: place, timer });
    return true;
  };

  /** Reads a stream to its end. The result has further details. */
  const read = async (subscription: Any, abort: AbortController): Promise<Loss | void> => {
    // The server itself refuses what else it does not know.
    const wanted = needs(subscription).filter((need) => !/^f/.test(need));
    if (wanted[0]) {
      const { capabilities } = await describe();
      if (!info) throw new Error('no answer');
      const lacks = wanted.find((need) => !capabilities?.includes(need));
      if (lacks) return subscription.end(lacking(lacks));
    }
    const url = new URL('sse', base);
    const { since, absent, ...rest } = subscription.wire;
    query({ ...subscription.filter, ...subscription.kept }, url.searchParams);
    for (const [name, value] of Object.entries({ ...rest, absent: absent && subscription.fresh && '204', last_event_id: subscription.position ?? since })) {
      if (value) url.searchParams.set(name, `${value}`);
    }
    // The server's heartbeat is a comment each 30 s, by default.
    const watch = (time: number) => setTimeout(() => abort.abort(new Error(`silent for ${time} ms`)), time);
    let timer = watch(timeout);
    try {
      const answer = await request(url, { cache: 'no-store', signal: abort.signal }, { accept: 'text/event-stream' });
      if (!answer.ok) {
        const error = await refusal(answer);
        // The subscription's request is wrong or not allowed, which concerns no other subscription.
        if (answer.status === 400 || answer.status === 403) return subscription.end(error);
        const after = answer.headers.get('retry-after') ?? '';
        // Seconds or a date (RFC 9110, 10.2.3). For anything else the client's own wait applies.
        return { error, delay: /^\d+$/.test(after) ? +after * 1000 : Date.parse(after) - Date.now() };
      }
      // The server will never have more for this subscription (HTML, 9.2.3).
      if (answer.status === 204) {
        if (absent && subscription.fresh) return subscription.end(new FanwireError('no_such_log', 'nothing is kept there'));
        // The end itself was lost with the connection.
        subscription.ended ??= { by: '', value: '', last_event_id: subscription.position ?? since ?? '', complete: true };
        return subscription.end();
      }
      // A login page or a proxy's own answer, for example.
      const kind = `${answer.headers.get('content-type')}`;
      if (!/^text\/event-stream\b/i.test(kind)) return { error: new FanwireError('protocol', `not an event stream: ${kind}`) };
      subscription.ack = undefined;
      subscription.taken();
      if (!(subscription.wire.since ?? subscription.wire.history ?? subscription.wire.snapshot ?? subscription.wire.from)) subscription.passed();
      opened();
      let end: Loss | undefined;
      let isOver = false;
      const feed = parser(({ event, data, id, retry: wait = '', '': comment = '' }) => {
        // The stream has ended for a refill.
        if (abort.signal.aborted) return;
        const passed = /^history_end events=(\d+) complete=(\w+)/.exec(comment);
        if (passed) subscription.passed({ events: +passed[1]!, complete: passed[2] === 'true' });
        retry = /^\d+$/.test(wait) ? +wait : retry;
        let item: any = {};
        try {
          item = data ? JSON.parse(data) : item;
        } catch (cause) {
          host.failed(new FanwireError('protocol', 'no event', cause));
        }
        isOver = false;
        if (item.event_type !== undefined) host.event(item, subscription);
        else if (event === 'end') {
          subscription.ended = item;
          isOver = namesOneLog(subscription);
        } else if (event === 'gap') {
          if (refill(subscription, item)) return;
          host.gap(item, subscription);
          id = item.to;
        } else if (event === 'closed') {
          // The token's end. The next thing is the end of the stream.
          end = { error: new FanwireError(/^token_/.test(item.code) ? 'unauthorized' : `${item.code}`, `${item.error}`) };
        }
        subscription.reach(id);
      });
      const began = performance.now();
      const decoder = new TextDecoder();
      const reader = answer.body!.getReader();
      for (;;) {
        // In Node a read of an aborted stream may never settle.
        const { value, done } = await new Promise<ReadableStreamReadResult<Uint8Array>>((resolve, reject) => {
          abort.signal.onabort = () => reject(abort.signal.reason);
          if (abort.signal.aborted) throw abort.signal.reason;
          reader.read().then(resolve, reject);
        });
        // A stream ends after the end of all that its filter names.
        if (done && isOver) return subscription.end();
        if (done || over) return end;
        if (refills.has(subscription) && performance.now() - began > STABLE) refills.delete(subscription);
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
    for (const subscription of host.subscriptions()) if (!streams.has(subscription)) add(subscription);
  };

  const add = (subscription: Any): void => {
    const abort = new AbortController();
    streams.set(subscription, abort);
    read(subscription, abort)
      .catch((cause) => ({ error: new FanwireError('disconnected', `${cause.message}`, cause) }))
      .then((loss) => {
        if (over || streams.get(subscription) !== abort) return;
        close();
        host.lost({ error: new FanwireError('disconnected', 'the stream ended'), delay: retry && retry * Math.random(), ...loss });
      });
  };

  /** Publishes that wait for their next attempt. */
  const waits = new Map<Job, ReturnType<typeof setTimeout>>();
  let unprobe: (() => void) | undefined;

  const close = (): void => {
    over = true;
    unprobe?.();
    for (const [job, timer] of waits) {
      clearTimeout(timer);
      host.again(job);
    }
    waits.clear();
    for (const { timer } of refills.values()) clearTimeout(timer);
    for (const abort of streams.values()) abort.abort();
  };

  /** One failure, of a slow server for example, proves little about a network. WebSockets are tried again, at growing intervals. */
  const { WebSocket = globalThis.WebSocket, transports = ['ws'], backoff: { base: first = 500, max = 30_000 } = {} } = host.options;
  const probe = (wait: number): void => {
    const timer = setTimeout(() => {
      const socket = host.dial();
      const fail = () => {
        unprobe!();
        probe(Math.min(2 * wait, 10 * max));
      };
      const late = setTimeout(fail, timeout);
      unprobe = () => {
        clearTimeout(late);
        socket.onopen = socket.onclose = null;
        socket.close(1000);
      };
      socket.onerror = () => {};
      socket.onclose = fail;
      socket.onopen = () => {
        close();
        host.through();
      };
    }, wait * (0.5 + Math.random()));
    unprobe = () => clearTimeout(timer);
  };
  if (WebSocket && transports.includes('ws')) probe(10 * first);

  /** A request with a limit, which ends with the client. */
  const limited = async <T>(path: string, init: RequestInit, headers: Record<string, string>, use: (answer: Response) => Promise<T>): Promise<T> => {
    const abort = new AbortController();
    const stop = () => abort.abort();
    host.ended.addEventListener('abort', stop);
    const timer = setTimeout(stop, timeout);
    try {
      return await use(await request(new URL(path, base), { ...init, signal: abort.signal }, headers));
    } finally {
      clearTimeout(timer);
      host.ended.removeEventListener('abort', stop);
    }
  };

  /** Asks the server once for its description. One that is too old has none. */
  let info: Promise<ServerInfo> | undefined;
  const describe = (): Promise<ServerInfo> =>
    (info ??= limited('api/server_info', {}, {}, async (answer) => (answer.ok ? answer.json() : {})).catch(() => ((info = undefined), {})));

  const publish = async (job: Job, attempt = 0): Promise<void> => {
    const { ack, resolve } = job;
    const reject = ack === false ? host.failed : job.reject;
    try {
      if (ack !== false && !named(job, await describe())) return reject(uncertain());
      // The request goes on when the streams are lost, but not when the client ends.
      if (host.ended.aborted) throw closed();
      const init = { method: 'POST', body: JSON.stringify(job.payload) };
      await limited('publish', init, { 'content-type': 'application/json' }, async (answer) => {
        if (!answer.ok) return reject(await refusal(answer));
        host.proven();
        resolve({ event_id: (await answer.json()).last_event_id });
      });
    } catch (cause) {
      if (!job.until || host.ended.aborted) return reject(uncertain(cause));
      if (over) return host.again(job);
      const wait = Math.random() * Math.min(max, first * 2 ** attempt);
      waits.set(job, setTimeout(() => (waits.delete(job), void publish(job, attempt + 1)), wait));
    }
  };

  const all = host.subscriptions();
  all.forEach(add);
  // Without a stream, publishing shows whether the transport works. The last stream may end before it opens, as that of a run that is over.
  const idle = (): void => {
    if (!streams.size) queueMicrotask(() => over || opened());
  };
  idle();

  const remove = (subscription: Any): void => {
    const abort = streams.get(subscription);
    streams.delete(subscription);
    clearTimeout(refills.get(subscription)?.timer);
    abort?.abort();
    idle();
  };

  return {
    add,
    remove,
    send(job) {
      const { type, target, resolve, reject } = job;
      if (type === 'update') {
        resolve({});
        if (!target) return;
        // The stream begins again at its position, with the changed lists.
        target.active = false;
        remove(target);
        return add(target);
      }
      if (type === 'request') return reject(new FanwireError('no_transport', 'requests need a WebSocket'));
      void publish(job);
      if (job.ack === false) resolve({});
    },
    refresh: () => false,
    close,
  };
}

const LISTS: Record<string, keyof Filter> = {
  stream: 'stream_ids', channel: 'channels', entity: 'entities', execution: 'execution_ids', correlation: 'correlation_ids', type: 'event_types',
};

/** Returns whether a filter's lists name one kept stream and no other: the one that has ended. */
function namesOneLog({ ended, filter }: Any): boolean {
  const list: unknown[] = [filter[LISTS[ended!.by]!] ?? []].flat();
  return list.length === 1 && list[0] === ended!.value;
}
