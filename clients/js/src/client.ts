// The client: subscriptions and waiting jobs, over links that come and go.
import { STABLE, closed, uncertain, type Host, type Job, type Link, type Loss } from './link.js';
import { dial, socketLink } from './socket.js';
import { Subscription } from './subscription.js';
import {
  FanwireError,
  type EventMap,
  type EventOf,
  type FanwireEvent,
  type Filter,
  type Gap,
  type Matching,
  type NewEvent,
  type Options,
  type Status,
  type SubscribeOptions,
} from './types.js';

/** Longest delay of a timer: with a longer one it fires at once. */
const LONGEST = 2 ** 31 - 1;

/** Returns whether an item is a gap, not an event. */
export const isGap = (item: FanwireEvent | Gap): item is Gap => item.event_type === undefined;

export class Fanwire<M extends EventMap = EventMap> {
  #base: URL;
  #options: Options;
  #status: Status = 'idle';
  #subscriptions = new Map<string, Subscription<any, any>>();
  #children = new Set<Fanwire<any>>();
  #listeners: Record<'status' | 'gap' | 'error', Set<(value: any) => void>> = { status: new Set(), gap: new Set(), error: new Set() };
  #outbox: Job[] = [];
  #link: Link | undefined;
  /** Whether the link takes jobs. */
  #open = false;
  #since = 0;
  #attempt = 0;
  /** The transport to try; whether it has ever worked, and now; attempts since then. */
  #transport = 0;
  #known = false;
  #proven = false;
  #misses = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Whether the server gave this client a time to come back. */
  #slot = false;
  #ended = new AbortController();
  /** Loaded if a function gives the tokens. */
  #tokens: typeof import('./token.js') | undefined;
  /** Ends the renewal of the token. */
  #unrenew: (() => void) | undefined;
  #number = 0;

  /** Creates a client of the server at a URL (`https://events.example.com/`). Opens nothing before there is something to do. */
  constructor(url: string | URL, options: Options = {}) {
    this.#base = new URL(url, globalThis.location?.href);
    this.#base.protocol = this.#base.protocol.replace('ws', 'http');
    if (!this.#base.pathname.endsWith('/')) this.#base.pathname += '/';
    this.#options = options;
  }

  get status(): Status {
    return this.#status;
  }

  /**
   * Subscribes. Returns items in order, each once, over all reconnects: events, and gaps for missing events. A
   * text is a pattern of event types. Starts with the next event, or with the past that the options request.
   */
  subscribe<P extends string>(filter: P | readonly P[], options?: SubscribeOptions): Subscription<M, Matching<M, P>>;
  subscribe(filter?: Filter, options?: SubscribeOptions): Subscription<M>;
  subscribe(filter?: Filter | string | readonly string[], options?: SubscribeOptions): Subscription<M, any> {
    return this.#subscribe(filter, options);
  }

  /** Calls a handler with each event of this type, or of a type that matches this pattern; `*` is every event. Call the result to stop. */
  on<P extends string>(type: P | readonly P[], handler: (event: EventOf<M, Matching<M, P>>) => void, options?: SubscribeOptions): () => void {
    const own = this.#subscribe(type, options, (item) => {
      if (!isGap(item)) this.#call(handler as (event: FanwireEvent) => void, item);
    });
    return () => own.close();
  }

  /** Subscribes to the events of one agent, under both names in use (`agent_status`, `agent.status`). */
  subscribeToAgent(id: string, events: readonly string[] = ['status', 'task_update', 'log', 'metric']): Subscription<M> {
    return this.#resource('agent', id, events);
  }

  /** Subscribes to the events of one workflow. */
  subscribeToWorkflow(id: string, events: readonly string[] = ['started', 'step_complete', 'complete', 'failed']): Subscription<M> {
    return this.#resource('workflow', id, events);
  }

  #resource(kind: string, id: string, events: readonly string[]): Subscription<M> {
    const event_types = events.flatMap((event) => [`${kind}_${event}`, `${kind}.${event}`]);
    return this.subscribe({ entities: [{ kind, id }], event_types });
  }

  #subscribe(
    wanted: Filter | string | readonly string[] = {},
    options: SubscribeOptions = {},
    handler?: (item: FanwireEvent | Gap) => void,
  ): Subscription<M, any> {
    const types = [wanted].flat() as string[];
    const filter = (typeof types[0] === 'object' ? wanted : types.includes('*') ? {} : { event_types: types }) as Filter;
    const id = `js-${(this.#number += 1)}`;
    const subscription: Subscription<M, any> = new Subscription(id, filter, options, handler, () => this.#drop(id));
    // A handler has no loop that would throw.
    if (handler) subscription.ready.catch((error) => this.#notify('error', error));
    // If this client can't evaluate a text, all events of a connection are for it. A channel may be named by a template.
    if (filter.filter || /{/.test(filter.channels as string)) void import('./text.js').then(({ evaluate }) => evaluate(subscription)).catch(() => {}).then((is) => this.#join(subscription, is));
    // The server merges for a slow client's whole connection.
    else this.#join(subscription, options.on_lag !== 'concat');
    return subscription;
  }

  /** Takes a subscription, unless it has ended: into this client's connection, or into one of its own. */
  #join(subscription: Subscription<any, any>, shares: unknown): void {
    if (this.#status === 'closed') subscription.end(closed());
    if (!subscription.isOver) shares ? this.#take(subscription) : this.#apart(subscription);
  }

  #take(subscription: Subscription<any, any>): void {
    this.#subscriptions.set(subscription.id, subscription);
    subscription.send = (job) => this.#link!.send(job);
    if (this.#open) this.#link!.add(subscription);
    else this.#start();
  }

  #drop(id: string): void {
    const subscription = this.#subscriptions.get(id);
    if (this.#subscriptions.delete(id)) this.#link?.remove(subscription!);
  }

  /** Gives a subscription its own connection. */
  #apart(subscription: Subscription<any, any>): void {
    this.#subscriptions.delete(subscription.id);
    const child = (subscription.client = new Fanwire<M>(this.#base, this.#options));
    child.#listeners = { ...this.#listeners, status: new Set() };
    this.#children.add(child);
    subscription.leave = () => {
      child.#drop(subscription.id);
      child.close();
      this.#children.delete(child);
    };
    child.#take(subscription);
  }

  /**
   * Publishes an event and returns its id. While offline it waits. If the connection breaks before the answer, it is sent
   * again with the same `dedupe_id`, so that it is published once. Fails with `queue_full` if too many wait, and with `uncertain`
   * if it may or may not have been published: the server does not deduplicate or may have forgotten the id, or the client was closed
   * meanwhile.
   *
   * With `ack: false` it returns nothing, once the event is handed to the socket: the server answers only an
   * error, which goes to `onError`, and an event that is lost with the connection is not reported.
   */
  publish<T extends Extract<keyof M, string>>(event: NewEvent<T, M[T]>, options?: { signal?: AbortSignal; ack?: true }): Promise<string>;
  publish<T extends Extract<keyof M, string>>(event: NewEvent<T, M[T]>, options: { signal?: AbortSignal; ack: false }): Promise<void>;
  publish(event: NewEvent, { signal, ack }: { signal?: AbortSignal; ack?: boolean } = {}): Promise<any> {
    const id = this.#send('publish', event, signal, ack).then(({ event_id }) => event_id);
    id.catch(() => {});
    return id;
  }

  /** Asks the server: `list_subscriptions`, `subscription_count`, `server_info`, `presence` of a channel. Needs a WebSocket. */
  request(action: string, { signal, ...more }: { signal?: AbortSignal; channel?: string } = {}): Promise<any> {
    return this.#send('request', { action, ...more }, signal);
  }

  #send(type: Job['type'], payload: object, signal?: AbortSignal, ack?: boolean): Promise<any> {
    let job: Job;
    const abort = () => {
      this.#outbox = this.#outbox.filter((one) => one !== job);
      job.reject(new FanwireError('aborted', 'aborted'));
    };
    const promise = new Promise<any>((resolve, reject) => {
      job = { type, payload, ack, resolve, reject };
      if (this.#status === 'closed') return reject(closed());
      if (signal?.aborted) return abort();
      signal?.addEventListener('abort', abort);
      if (this.#open) return this.#link!.send(job);
      const { queue = 1_000 } = this.#options;
      if (this.#outbox.length >= queue) return job.reject(new FanwireError('queue_full', `${queue} wait`));
      this.#outbox.push(job);
      this.#start();
    });
    // An error that nothing awaits must not end the process; `onError` reports it.
    promise.catch((error) => this.#notify('error', error)).then(() => signal?.removeEventListener('abort', abort));
    return promise;
  }

  onStatus(listener: (status: Status) => void): () => void {
    return this.#listen('status', listener);
  }

  /** Calls a listener with every gap of every subscription. */
  onGap(listener: (gap: Gap) => void): () => void {
    return this.#listen('gap', listener);
  }

  /** Calls a listener with every error: lost connections, refused publishes, handlers that threw. None of them ends the client. */
  onError(listener: (error: FanwireError) => void): () => void {
    return this.#listen('error', listener);
  }

  #listen(what: 'status' | 'gap' | 'error', listener: (value: any) => void): () => void {
    this.#listeners[what].add(listener);
    return () => this.#listeners[what].delete(listener);
  }

  #notify(what: 'status' | 'gap' | 'error', value: unknown): void {
    for (const listener of this.#listeners[what]) this.#call(listener, value);
  }

  /** Opens the first connection. A wait between two attempts goes on, whatever is requested meanwhile. */
  #start(): void {
    if (this.#status === 'idle') this.connect();
  }

  /** @internal For verbs of other entries. */
  get parts() {
    return [this.#base, this.#options, () => this.#token()] as const;
  }

  /** Opens the connection now, also out of a wait. */
  connect(): void {
    if (this.#status !== 'idle' && this.#status !== 'waiting') return;
    clearTimeout(this.#timer);
    if (this.#status === 'idle') globalThis.addEventListener?.('online', this.#online);
    this.#set('connecting');
    void this.#dial();
  }

  /** Ends all subscriptions and the connection, for good. */
  close(): void {
    this.#end();
  }

  #online = (): void => {
    if (this.#status === 'waiting' && !this.#slot) this.connect();
  };

  /** Returns a token, or the reason why there is none. */
  async #token(): Promise<string | undefined> {
    const { token, heartbeat: { timeout = 10_000 } = {} } = this.#options;
    if (typeof token !== 'function') return token;
    this.#tokens = await import('./token.js');
    return this.#tokens.ask(token, timeout, this.#ended.signal);
  }

  async #dial(): Promise<void> {
    const { WebSocket = globalThis.WebSocket, transports = ['ws', 'sse'] } = this.#options;
    const usable = transports.filter((kind) => kind !== 'ws' || WebSocket);
    const kind = usable[this.#transport % usable.length];
    if (!kind) return this.#end(new FanwireError('no_transport', 'none'));
    this.#proven = false;
    try {
      const token = await this.#token();
      // The fallback is loaded only when it is needed.
      const stream = kind === 'sse' && (await import('./stream.js'));
      if (this.#status !== 'connecting') return;
      const host = this.#host();
      this.#link = stream ? stream.streamLink(host, this.#base, token) : socketLink(host, token);
      this.#unrenew = this.#tokens?.renew(token, this.#link, host, () => this.#token());
    } catch (cause) {
      this.#lost({ error: cause instanceof FanwireError ? cause : new FanwireError('no_transport', `${cause}`, cause) });
    }
  }

  #host(): Host {
    const all = () => [...this.#subscriptions.values()];
    return {
      options: this.#options,
      subscriptions: all,
      ended: this.#ended.signal,
      apart: (subscription) => this.#apart(subscription),
      opened: () => {
        if (this.#open) return;
        this.#open = true;
        this.#since = performance.now();
        // Waiting jobs go before the publishes of a listener.
        this.#flush();
        this.#set('open');
      },
      proven: () => (this.#proven = true),
      event: (event, only) => {
        for (const subscription of only ? [only] : all()) if (subscription.active) subscription.offer(event);
      },
      gap: (gap, only) => {
        this.#notify('gap', gap);
        for (const subscription of only ? [only] : all()) if (subscription.active) subscription.gap(gap);
      },
      again: (job) => {
        this.#outbox.push(job);
        // Not to the link that is ending.
        queueMicrotask(() => this.#open && this.#flush());
      },
      dial: () => dial(this.#options, this.#base),
      through: () => {
        this.#unlink();
        this.#transport = 0;
        this.#set('waiting');
        this.connect();
      },
      failed: (error) => this.#notify('error', error),
      lost: (loss) => this.#lost(loss),
    };
  }

  #flush(): void {
    for (const job of this.#outbox.splice(0)) this.#link?.send(job);
  }

  #lost({ error, delay, exact }: Loss): void {
    if (this.#status === 'closed') return;
    const { backoff: { base = 500, max = 30_000 } = {}, attempts = Infinity, token } = this.#options;
    if (this.#open && this.#proven && performance.now() - this.#since > STABLE) this.#attempt = 0;
    this.#unlink();
    if (error) this.#notify('error', error);
    // A token that cannot be replaced will not be accepted next time either.
    if (error?.code === 'unauthorized' && typeof token !== 'function') return this.#end(error);
    if (++this.#attempt >= attempts) return this.#end(new FanwireError('gave_up', `${attempts} attempts`, error));
    // Back to the first transport that may work. One that has worked is given up only after repeated failures.
    this.#misses = this.#proven ? 0 : this.#misses + 1;
    this.#known ||= this.#proven;
    if (this.#proven) this.#transport = 0;
    // Without a token nothing was tried.
    else if (error?.code !== 'token' && (!this.#known || this.#misses > 2)) this.#transport += 1;
    const random = Math.random() * Math.min(max, base * 2 ** (this.#attempt - 1));
    // An invalid delay counts as none: NaN fails the comparison.
    const asked = delay! >= 0 ? delay! : 0;
    this.#slot = !!exact && asked === delay;
    this.#set('waiting');
    // A listener may have closed or connected it.
    if (this.#status !== 'waiting') return;
    this.#timer = setTimeout(() => this.connect(), Math.min(LONGEST, this.#slot ? asked : asked + random));
  }

  #unlink(): void {
    this.#link = undefined;
    this.#open = false;
    this.#unrenew?.();
    for (const subscription of this.#subscriptions.values()) subscription.active = subscription.recalls = false;
  }

  #end(error?: FanwireError): void {
    if (this.#status === 'closed') return;
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.('online', this.#online);
    this.#link?.close();
    this.#unlink();
    this.#set('closed');
    this.#ended.abort();
    for (const child of this.#children) child.close();
    for (const subscription of this.#subscriptions.values()) subscription.end(error);
    for (const job of this.#outbox.splice(0)) job.reject(job.until ? uncertain(error) : (error ?? closed()));
  }

  #set(status: Status): void {
    if (status === this.#status) return;
    this.#status = status;
    this.#notify('status', status);
  }

  /** An error of a listener ends nothing. */
  #call<T>(listener: (value: T) => void, value: T): void {
    try {
      listener(value);
    } catch (cause) {
      // A listener of errors does not get its own.
      if (this.#listeners.error.size && !this.#listeners.error.has(listener)) this.#notify('error', new FanwireError('handler', `${cause}`, cause));
      else console.error(cause);
    }
  }
}
