// One subscription: its items, in order, each once, for a loop or for a handler.
import type { Fanwire } from './client.js';
import { matcher } from './filter.js';
import type { Job } from './link.js';
import { distance } from './position.js';
import type { Change, EventMap, EventOf, FanwireError, FanwireEvent, Filter, Gap, LogEnd, Past, SubscribeOptions, Updated } from './types.js';

/** Events and gaps in order. Leaving the loop ends it; so does `close`, the signal, or the end of the client. */
export class Subscription<M extends EventMap = EventMap, T extends string = Extract<keyof M, string>>
  implements AsyncIterableIterator<EventOf<M, T> | Gap>
{
  /**
   * Settles when the server has confirmed it: events published from then on will come. Later confirmations,
   * after reconnects, are not reported.
   */
  readonly ready: Promise<void>;
  /**
   * Settles when all of the requested past has come, before live events, with the number of its events and
   * whether it is complete. Undefined if no past was requested, or an older server does not report it.
   */
  readonly past: Promise<Past | undefined>;
  /** @internal */
  passed!: (past?: Past) => void;
  /** @internal Removes it from its client. */
  leave: () => void;
  /** @internal The last position up to which everything was delivered. It resumes there. */
  position: string | undefined;
  /** @internal Whether the server has never confirmed it. */
  fresh = true;
  /** @internal Whether the server has confirmed it on this connection. */
  active = false;
  /** @internal */
  wants: (event: FanwireEvent) => boolean;
  /** @internal A value of each list that is empty now, so that the server keeps the list. */
  declare kept: Filter | undefined;
  /** @internal The server's confirmation, with the client's channels by the templates that the filter names. Undefined if all events of its connection are for it. */
  declare ack: { own_channels?: Record<string, string> } | undefined;
  /** @internal Makes a test look at own channels too, once the filter names a template. */
  declare named: ((one: Subscription<any, any>, wants: (event: FanwireEvent) => boolean) => (event: FanwireEvent) => boolean) | undefined;
  /** @internal Called when the server has confirmed it, again after each reconnect. */
  declare resumed: (() => void) | undefined;
  /** @internal Whether the past of added values is coming. Events before the position are new. */
  declare recalls: boolean | undefined;
  /** @internal The last end of a kept stream that the server reported. */
  declare ended: LogEnd | undefined;
  /** @internal Called when its buffer is full, instead of losing the oldest. */
  declare full: (() => void) | undefined;
  /** @internal The client that it has for itself, if it needs a connection of its own. */
  declare client: Fanwire<any> | undefined;
  /** @internal Sends a message about it. */
  declare send: (job: Job) => void;

  /** @internal Settles at its end. */
  readonly over: Promise<void>;

  /** @internal The options for the server. */
  readonly wire: Omit<SubscribeOptions, 'signal' | 'buffer'>;

  #buffer: number;
  #ended!: () => void;
  #taken!: (error?: FanwireError) => void;
  #items: (FanwireEvent | Gap)[] = [];
  #waiting: ((result?: FanwireError) => void)[] = [];
  #lost: Gap | undefined;
  #given: string | null = null;
  #over = false;
  #error: FanwireError | undefined;

  /** @internal */
  constructor(
    readonly id: string,
    /** The filter, as updates have changed it. */
    public filter: Filter,
    options: SubscribeOptions,
    /** @internal Receiver of items, instead of a loop. */
    readonly handler: ((item: FanwireEvent | Gap) => void) | undefined,
    leave: () => void,
  ) {
    this.leave = leave;
    this.over = new Promise((resolve) => (this.#ended = resolve));
    this.past = new Promise((resolve) => (this.passed = resolve));
    this.wants = matcher(filter);
    this.ready = new Promise((resolve, reject) => {
      this.#taken = (error) => (error ? reject(error) : resolve());
    });
    this.ready.catch(() => {});
    const { signal, buffer = 10_000, ...wire } = options;
    this.wire = wire;
    this.#buffer = buffer;
    const abort = () => this.close();
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort);
    // A signal may outlive many subscriptions.
    this.over.then(() => signal?.removeEventListener('abort', abort));
  }

  /** Whether it has ended. */
  get isOver(): boolean {
    return this.#over;
  }

  /**
   * Adds values to lists of the filter and removes values; all others stay. The server confirms it: nothing that was
   * removed comes from then on. With `snapshot` the latest events of what was added come next. While there is no
   * connection it waits. Needs a WebSocket, or begins its event stream again.
   */
  async update(change: Change): Promise<Updated> {
    return (await import('./update.js')).update(this, change);
  }

  /** @internal */
  taken(): void {
    this.fresh = false;
    this.active = true;
    this.#taken();
    this.resumed?.();
  }

  /** @internal Everything up to here was delivered. Earlier positions are ignored. */
  reach(position: string | null | undefined): void {
    if (position && !(distance(position, this.position)! <= 0)) this.position = position;
  }

  /** @internal Offers an event that may be for it. Takes each event once. */
  offer(event: FanwireEvent): void {
    if (!this.recalls) {
      if (distance(event.event_id, this.position)! <= 0) return;
      this.position = event.event_id;
    }
    if (this.wants(event)) this.#push(event);
  }

  /** @internal */
  gap(gap: Gap): void {
    this.#push(gap);
  }

  #push(item: FanwireEvent | Gap): void {
    if (this.#over) return;
    if (this.handler) return this.handler(item);
    this.#items.push(item);
    if (this.#items.length > this.#buffer) this.full ? this.full() : this.#drop(this.#items.shift()!);
    this.#waiting.shift()?.();
  }

  /** Adds the oldest item to the gap before those that wait. */
  #drop(oldest: FanwireEvent | Gap): void {
    const lost = (this.#lost ??= { missed: 0, from: this.#given, to: null, recoverable: true });
    const [known, more] = [lost.missed, oldest.event_id ? 1 : oldest.missed!];
    const bound = (known ?? lost.at_most)! + (more ?? oldest.at_most)!;
    lost.missed = known === null || more === null ? null : known + more;
    delete lost.at_most;
    // A missing number makes the sum unknown.
    if (lost.missed === null && bound >= 0) lost.at_most = bound;
    lost.to = oldest.event_id ?? oldest.to!;
  }

  /** Waits for the next item. Throws if the server refused the subscription. */
  async next(): Promise<IteratorResult<EventOf<M, T> | Gap, undefined>> {
    for (;;) {
      let item: FanwireEvent | Gap | undefined = this.#lost;
      this.#lost = undefined;
      item ??= this.#items.shift();
      if (item) {
        this.#given = item.event_id ?? item.to ?? this.#given;
        return { value: item as EventOf<M, T> | Gap, done: false };
      }
      if (this.#error) throw this.#error;
      if (this.#over) return { value: undefined, done: true };
      await new Promise<unknown>((wake) => this.#waiting.push(wake));
    }
  }

  async return(): Promise<IteratorResult<EventOf<M, T> | Gap, undefined>> {
    this.close();
    this.#items = [];
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends it. A loop gets the items that have come, then its end. */
  close(): void {
    this.end();
  }

  /** @internal */
  end(error?: FanwireError): void {
    if (this.#over) return;
    this.#over = true;
    this.#error = error;
    this.#taken(error);
    this.passed();
    this.#ended();
    this.leave();
    for (const wake of this.#waiting.splice(0)) wake();
  }
}
