// Runs from their start to their end, and the past in pages. An entry of its own: the client with two more verbs.
import { Fanwire as Client, isGap } from './client.js';
import { closed } from './link.js';
import { query } from './query.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type EventMap, type EventOf, type FanwireEvent, type Filter, type Gap, type Options, type Past, type SubscribeOptions } from './types.js';

export { isGap } from './client.js';
export { FanwireError } from './types.js';

/** The end of a run. */
export interface RunEnd {
  /** The type of the event that ended it, as `run.finished`; null if the filter leaves that event out. */
  status: string | null;
  /** The event that ended it. */
  last_event_id: string;
  /** Whether no event is missing, from the run's first one to its end. */
  complete: boolean;
}

export interface RunOptions extends Omit<Filter, 'stream_ids' | 'filter'>, Pick<SubscribeOptions, 'signal' | 'compact' | 'concat'> {
  /** The server's action when this client is too slow. With `catch_up` or `concat` nothing is lost that is kept. Default `drop_oldest`. */
  on_lag?: 'drop_oldest' | 'catch_up' | 'concat' | 'disconnect';
  /** `error`: fails with `no_such_log` if nothing of the run is kept. Default `wait`: the run may begin later. */
  absent?: 'wait' | 'error';
  /** Items that wait for a slow loop. Beyond it the rest waits at the server. Default 10,000. */
  buffer?: number;
}

/** A run: an iterator over its events and gaps that ends with it. */
export class Run<M extends EventMap = EventMap> implements AsyncIterableIterator<EventOf<M> | Gap, RunEnd | undefined> {
  /** The end, once the loop is there. Undefined before, and if the run was closed. */
  end: RunEnd | undefined;
  /** Settles when everything that was kept has come, before live events. */
  readonly past: Promise<Past | undefined>;
  #subscription: Subscription<M>;
  #subscribe: (since?: string) => Subscription<M>;
  #last: FanwireEvent | undefined;
  #complete = true;
  #isOver = false;
  /** Whether the buffer is full: the rest is at the server. */
  #isFull = false;
  /** The position after which the server has the rest. */
  #place: string | undefined;

  /** @internal */
  constructor(client: Client<M>, stream: string, { signal, absent, buffer = 10_000, on_lag, compact, concat, ...filter }: RunOptions) {
    this.#subscribe = (since) => {
      const start = since ? { since } : { from: 'start', absent: absent === 'error' ? absent : undefined };
      const options = { ...start, signal, buffer, on_lag, compact, concat } as SubscribeOptions;
      const subscription = client.subscribe({ ...filter, stream_ids: [stream] }, options);
      // The position includes the event that filled the buffer only after this turn. Later events of a past under way still move it.
      subscription.full = () =>
        queueMicrotask(() => {
          if (subscription.isOver) return;
          [this.#isFull, this.#place] = [true, subscription.position];
          subscription.close();
        });
      return subscription;
    };
    this.#subscription = this.#subscribe();
    this.past = this.#subscription.past;
  }

  /** Waits for the next item. At the end its value is that end. Throws if the server refused the run or the client ended with an error. */
  async next(): Promise<IteratorResult<EventOf<M> | Gap, RunEnd | undefined>> {
    for (;;) {
      const subscription = this.#subscription;
      const { value } = await subscription.next().catch((error) => {
        if (!/from_start$/.test(error.message)) throw error;
        throw new FanwireError('unsupported', 'this server is too old for runs: it can start no subscription at the beginning of a stream', error);
      });
      if (value && isGap(value)) {
        this.#complete = false;
        return { value, done: false };
      }
      if (value) {
        this.#last = value;
        return { value, done: false };
      }
      if (this.#isOver) return { value: this.end, done: true };
      // Another call may have gone on already.
      if (subscription !== this.#subscription) continue;
      if (this.#isFull) {
        this.#isFull = false;
        this.#subscription = this.#subscribe(this.#place);
        // The run's end may have come already.
        this.#subscription.ended = subscription.ended;
        continue;
      }
      this.#isOver = true;
      if (subscription.ended) {
        const { last_event_id, complete } = subscription.ended;
        const status = this.#last && this.#last.event_id === last_event_id ? this.#last.event_type : null;
        this.end = { status, last_event_id, complete: complete && this.#complete };
      }
      return { value: this.end, done: true };
    }
  }

  /** @internal The client of this run alone, if there is one. */
  get client() {
    return this.#subscription.client;
  }

  /** Ends the iteration here. The run itself goes on. */
  close(): void {
    this.#isOver = true;
    this.#subscription.close();
  }

  async return(): Promise<IteratorResult<EventOf<M> | Gap, RunEnd | undefined>> {
    this.close();
    await this.#subscription.return();
    return { value: this.end, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

export interface HistoryOptions extends Filter {
  /** `asc`, the default: the oldest event first. */
  order?: 'asc' | 'desc';
  /** Events of a page, 1 to 1,000. Default 100. */
  limit?: number;
  /** The first page: events after this place (with `asc`) or before it (with `desc`): `next` of a page, or an event's id. */
  after?: string;
  before?: string;
  /** Only events since this time: ISO 8601, milliseconds since 1970, or a Date. */
  since?: string | number | Date;
  /** Ends the walk. */
  signal?: AbortSignal;
}

/** A page of the past. It may have fewer events than asked for, or none, and more pages after it. */
export interface Page<M extends EventMap = EventMap> {
  events: EventOf<M>[];
  /** The place of the next page; null if there is none. */
  next: string | null;
  /** Whether nothing that the walk requested has been evicted. */
  complete: boolean;
}

/** Statuses that are tried again: the server is busy or restarts, or its proxy cannot reach it. */
const BUSY = [429, 502, 503, 504];
/** Attempts for one page, if the client has no limit of its own. */
const ATTEMPTS = 5;

/** Walks the past, page by page, as long as the loop goes on. A lost connection is tried again from the same page. */
export async function* history<M extends EventMap>(
  client: Client<M>,
  { order = 'asc', limit, after, before, since, signal, ...filter }: HistoryOptions = {},
): AsyncGenerator<Page<M>, void, undefined> {
  const [base] = client.parts;
  const url = new URL('events', base);
  query(filter, url.searchParams);
  const place = order === 'desc' ? 'before' : 'after';
  const given = { order, limit, after, before, since: since instanceof Date ? since.getTime() : since };
  for (const [name, value] of Object.entries(given)) if (value !== undefined) url.searchParams.set(name, `${value}`);
  for (;;) {
    const page = await read<M>(client, url, signal);
    yield page;
    const { next } = page;
    if (next === null) return;
    if (next === url.searchParams.get(place)) throw new FanwireError('protocol', 'the next page is the same one');
    url.searchParams.set(place, next);
  }
}

async function read<M extends EventMap>(client: Client<M>, url: URL, signal: AbortSignal | undefined): Promise<Page<M>> {
  const [, options, getToken] = client.parts;
  const { fetch = globalThis.fetch, attempts = ATTEMPTS, backoff: { base = 500, max = 30_000 } = {}, heartbeat: { timeout = 10_000 } = {} } = options;
  for (let attempt = 1; ; attempt += 1) {
    let error: FanwireError;
    let delay = Math.random() * Math.min(max, base * 2 ** (attempt - 1));
    const abort = new AbortController();
    const stop = () => abort.abort();
    const timer = setTimeout(stop, timeout);
    signal?.addEventListener('abort', stop);
    try {
      if (client.status === 'closed') throw closed();
      if (signal?.aborted) throw new FanwireError('aborted', 'aborted');
      const token = await getToken();
      const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
      const answer = await fetch(url, { headers, cache: 'no-store', signal: abort.signal });
      const reply = await answer.json().catch(() => ({}));
      if (answer.ok && reply.events) return reply;
      const codes: Record<number, string> = { 401: 'unauthorized', 403: 'forbidden', 404: 'unsupported', 501: 'unsupported' };
      const text = answer.status === 404 ? 'this server has no pages' : (reply.error ?? answer.statusText);
      error = new FanwireError(answer.ok ? 'protocol' : (codes[answer.status] ?? reply.code ?? `http_${answer.status}`), text);
      if (!BUSY.includes(answer.status)) throw error;
      const after = answer.headers.get('retry-after') ?? '';
      delay += /^\d+$/.test(after) ? Math.min(+after * 1000, max) : 0;
    } catch (cause) {
      if (cause instanceof FanwireError && cause.code !== 'token') throw cause;
      if (signal?.aborted) throw new FanwireError('aborted', 'aborted', cause);
      error = cause instanceof FanwireError ? cause : new FanwireError('disconnected', `${cause}`, cause);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', stop);
    }
    if (attempt >= attempts) throw error;
    await pause(delay, signal);
  }
}

/** Waits for this time, or until the signal is aborted. */
function pause(time: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, time);
    signal?.addEventListener('abort', done);
  });
}

/** Follows a run from its start to its end, over all reconnects. */
export const run = <M extends EventMap>(client: Client<M>, stream: string, options: RunOptions = {}): Run<M> => new Run(client, stream, options);

/** The client, with runs and history. */
export class Fanwire<M extends EventMap = EventMap> extends Client<M> {
  constructor(url: string | URL, options: Options = {}) {
    super(url, options);
  }

  /**
   * Follows a run, the kept stream of this id: its events from the first on, each once and in order over all reconnects, until it
   * has ended. Works for ended runs, too. A stream that no rule of the server keeps
   * (`[[retain]]`) has no end, so its loop goes on. A server that is too old for runs ends it with `unsupported`.
   */
  run(stream: string, options?: RunOptions): Run<M> {
    return run(this, stream, options);
  }

  /** Returns the past in pages: `for await (const { events } of client.history({ event_types: 'audit.**', order: 'desc' }))`. */
  history(options?: HistoryOptions): AsyncGenerator<Page<M>, void, undefined> {
    return history(this, options);
  }
}
