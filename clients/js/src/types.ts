// The protocol's types, named as on the wire, and the types of the client's interface.

/** Payload types by event type. By default every payload can be anything. */
export type EventMap = Record<string, unknown>;

/** An event as delivered. Absent attributes are left out. */
export interface FanwireEvent<T extends string = string, P = unknown> {
  event_id: string;
  event_type: T;
  /** ISO 8601, UTC. With `lean`, only if its publisher set one. */
  timestamp?: string;
  correlation_id: string | null;
  payload: P;
  source?: string;
  stream_id?: string;
  execution_id?: string;
  entity?: { kind: string; id: string };
  channel?: string;
  /** Number of events that this one stands for, if neighbours were merged. */
  merged?: number;
  missed?: never;
  at_most?: never;
}

/** Events that this client did not get. A value like an event, so that no loop ends because of it. */
export interface Gap {
  /** Number of missed events that this client wanted; null if it is unknown, as after a restart of the server. */
  missed: number | null;
  /** An upper bound if `missed` is null, and the server knows one. */
  at_most?: number;
  /** The last event before the gap. */
  from: string | null;
  /** The last event within the gap. */
  to: string | null;
  /** Whether a subscription with `since: from` would still get the events. */
  recoverable: boolean;
  event_type?: never;
  event_id?: never;
}

/** An event to publish. Only the type is required. */
export interface NewEvent<T extends string = string, P = unknown> {
  type: T;
  payload?: P;
  /** ISO 8601 or milliseconds since 1970. The server's time if absent. */
  timestamp?: string | number;
  source?: string;
  correlation_id?: string;
  stream_id?: string;
  execution_id?: string;
  entity?: { kind: string; id: string };
  channel?: string;
  /**
   * Name of this event. A second one with it is not published: the answer is that of the first. The client gives each
   * event one, for its own retries.
   */
  dedupe_id?: string;
  /** Begins the next life of a kept stream that has ended. */
  reopen?: boolean;
  /** The last event of its kept stream so far; an empty text if there is none. Refused if another came in between. */
  expected_last_id?: string;
}

type Values = string | readonly string[];

/** Filter of a subscription: one of the values for each attribute named; patterns allowed. */
export interface Filter {
  event_types?: Values;
  sources?: Values;
  correlation_ids?: Values;
  stream_ids?: Values;
  execution_ids?: Values;
  /** `kind:id`, a kind alone, or both by name. */
  entities?: readonly (string | { kind?: string; id?: string })[];
  channels?: Values;
  /** The text form: `type=task.* source!=core payload.progress >= 50`. It must match in addition to the other fields. */
  filter?: string;
}

/** Values to add to lists of a subscription's filter, and to remove. Only lists that the filter has. */
export interface Change {
  add?: Omit<Filter, 'filter'>;
  remove?: Omit<Filter, 'filter'>;
}

/** Values that an update has changed. */
export interface Updated {
  added: number;
  removed: number;
  /** Values to remove that the lists did not have. */
  not_held?: number;
}

/** The end of a subscription's past. */
export interface Past {
  /** Number of events in it, without gaps. */
  events: number;
  /** Whether everything requested came. Otherwise a gap marks the missing events. */
  complete: boolean;
}

export interface SubscribeOptions {
  /** Starts with the events after this one. */
  since?: string;
  /** Starts with this many of the newest matching events. */
  history?: number;
  /** Starts with the latest event of each key. */
  snapshot?: boolean;
  /** Starts with everything that is kept of the streams that the filter names. */
  from?: 'start';
  /** Fails with `no_such_log` if the kept stream that the filter names is not there. */
  absent?: 'error';
  /** The server's action when this client is too slow. Default `drop_oldest`. */
  on_lag?: 'drop_oldest' | 'drop_newest' | 'catch_up' | 'concat' | 'conflate' | 'sample' | 'disconnect';
  /** Merges neighbours of the past that have the same type and attributes: their texts at `concat` are put together. */
  compact?: 'concat';
  /**
   * Place of the text in an event, a JSON Pointer (`/payload/delta`), for `compact` and for `on_lag: 'concat'`. With the latter the
   * subscription has a connection of its own.
   */
  concat?: string;
  /** For `sample`. */
  max_per_second?: number;
  /** Ends the subscription. */
  signal?: AbortSignal;
  /** Items that wait for a slow loop before the oldest become a gap. Default 10,000. */
  buffer?: number;
}

/** The end of a kept stream, as the server reports it. */
export interface LogEnd {
  by: string;
  value: string;
  /** The event that ended it. */
  last_event_id: string;
  /** Whether it was kept from its first event on. */
  complete: boolean;
  /** Whether the subscription is over with it. */
  over?: boolean;
}

/** The state of the connection: `waiting` is between two attempts. */
export type Status = 'idle' | 'connecting' | 'open' | 'waiting' | 'closed';

/** The types of a map that a pattern can match, as far as the compiler can tell. */
export type Matching<M extends EventMap, P extends string> = P extends keyof M
  ? P
  : P extends '*' | '**'
    ? Extract<keyof M, string>
    : P extends `${infer Head}.*` | `${infer Head}.**`
      ? Extract<keyof M, `${Head}.${string}`> extends never
        ? string
        : Extract<keyof M, `${Head}.${string}`>
      : string;

/** The union of events with these types. */
export type EventOf<M extends EventMap, T extends string = Extract<keyof M, string>> = T extends string
  ? FanwireEvent<T, T extends keyof M ? M[T] : unknown>
  : never;

/** The part of a WebSocket that the client uses: a browser's, or a compatible one (`ws`). */
export interface SocketLike {
  readonly readyState: number;
  send(data: string): void;
  close(code?: number, reason?: string): void;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
}

export interface Options {
  /** A token, or a function that returns a fresh one: called before each connection, and again before a token expires. */
  token?: string | (() => string | Promise<string>);
  /** Transports in this order. The next one is tried if one has never worked. Default `['ws', 'sse']`. */
  transports?: readonly ('ws' | 'sse')[];
  /** The WebSocket class, if there is no global one (Node before 22). */
  WebSocket?: new (url: string, protocols: string[]) => SocketLike;
  fetch?: typeof fetch;
  /** Over WebSocket, events in the lean form of the protocol: fewer bytes, and no time except one set by the publisher. */
  lean?: boolean;
  /** Path of the server's WebSocket below the URL. Default `ws`. */
  path?: string;
  /** Milliseconds: a random wait of up to `base` x 2^attempt, at most `max`. Default 500 and 30,000. */
  backoff?: { base?: number; max?: number };
  /**
   * Handling of a gap that the server reports: `refill`, the default, asks for the lost events, and the
   * application gets them in their place; only unavailable events leave a gap. `tell` gives every gap to the
   * application.
   */
  onGap?: 'refill' | 'tell';
  /** Attempts in a row before the client gives up. Default: never. */
  attempts?: number;
  /** Milliseconds of silence before a ping, and milliseconds for its answer. Default 25,000 and 10,000. */
  heartbeat?: { interval?: number; timeout?: number };
  /** Publishes that wait while offline. The next one is refused with `queue_full`. Default 1,000. */
  queue?: number;
}

/** The error in one word: the server's code, or one of the client's own. */
export class FanwireError extends Error {
  /**
   * The server's (`invalid_filter`, ...), or `queue_full`, `uncertain` (sent, and the connection broke before
   * the answer), `unsupported` (the server is too old for it), `closed`, `aborted`, `unauthorized`,
   * `no_transport`, `gave_up`, `handler`, `token`, `protocol`.
   */
  readonly code: string;
  constructor(code: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'FanwireError';
    this.code = code;
  }
}
