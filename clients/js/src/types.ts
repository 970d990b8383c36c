// The protocol's shapes, named as on the wire, and what the client takes and gives.

/** Payload types by event type; the default lets every payload be anything. */
export type EventMap = Record<string, unknown>;

/** An event as delivered. Absent attributes are left out. */
export interface FanwireEvent<T extends string = string, P = unknown> {
  event_id: string;
  event_type: T;
  /** ISO 8601, UTC. With `lean`, only where its publisher gave one. */
  timestamp?: string;
  correlation_id: string | null;
  payload: P;
  source?: string;
  stream_id?: string;
  execution_id?: string;
  entity?: { kind: string; id: string };
  channel?: string;
  missed?: never;
  at_most?: never;
}

/** Events that this client did not get. A value like an event, so that no loop ends because of it. */
export interface Gap {
  /** How many of those that this client wanted; null where it can't be known, as after a restart of the server. */
  missed: number | null;
  /** Where `missed` is null: an upper bound, if the server knows one. */
  at_most?: number;
  /** The last event before the gap. */
  from: string | null;
  /** The last event within it. */
  to: string | null;
  /** Whether a subscription with `since: from` would still get them. */
  recoverable: boolean;
  event_type?: never;
  event_id?: never;
}

/** An event to publish: only the type is required. */
export interface NewEvent<T extends string = string, P = unknown> {
  type: T;
  payload?: P;
  /** ISO 8601 or milliseconds since 1970; the server's time if absent. */
  timestamp?: string | number;
  source?: string;
  correlation_id?: string;
  stream_id?: string;
  execution_id?: string;
  entity?: { kind: string; id: string };
  channel?: string;
}

type Values = string | readonly string[];

/** What a subscription wants: one of the values for each attribute named; patterns allowed. */
export interface Filter {
  event_types?: Values;
  sources?: Values;
  correlation_ids?: Values;
  stream_ids?: Values;
  execution_ids?: Values;
  /** `kind:id`, a kind alone, or both by name. */
  entities?: readonly (string | { kind?: string; id?: string })[];
  channels?: Values;
  /** The text form: `type=task.* source!=core payload.progress >= 50`. What it says must hold beside the rest. */
  filter?: string;
}

/** How the past of a subscription ended. */
export interface Past {
  /** How many events it had, gaps not counted. */
  events: number;
  /** All that was asked for came; otherwise a gap stands where some did not. */
  complete: boolean;
}

export interface SubscribeOptions {
  /** First what came after this event. */
  since?: string;
  /** First the newest so many that match. */
  history?: number;
  /** First the latest of each key. */
  snapshot?: boolean;
  /** What the server does when this client is too slow; `drop_oldest` if not said. */
  on_lag?: 'drop_oldest' | 'drop_newest' | 'conflate' | 'sample' | 'disconnect';
  /** For `sample`. */
  max_per_second?: number;
  /** Ends the subscription. */
  signal?: AbortSignal;
  /** Items that wait for a slow loop before the oldest become a gap. Default 10,000. */
  buffer?: number;
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

/** The part of a WebSocket that the client uses: a browser's, or one like it (`ws`). */
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
  /** A token, or who gives a fresh one: asked before each connection, and again before one expires. */
  token?: string | (() => string | Promise<string>);
  /** In this order; the next one is tried where one has never worked. Default `['ws', 'sse']`. */
  transports?: readonly ('ws' | 'sse')[];
  /** The WebSocket class, where there is no global one (Node before 22). */
  WebSocket?: new (url: string, protocols: string[]) => SocketLike;
  fetch?: typeof fetch;
  /** Over WebSocket, events in the lean form of the protocol: fewer bytes, and no time but one that the publisher gave. */
  lean?: boolean;
  /** Where the server has its WebSocket, below the URL. Default `ws`. */
  path?: string;
  /** Milliseconds: a random wait of up to `base` x 2^attempt, at most `max`. Default 500 and 30,000. */
  backoff?: { base?: number; max?: number };
  /**
   * What is done where the server tells of a lost part: `refill`, the default, asks for it, and the application gets it in
   * its place; what can't be had any more is a gap. `tell` gives every gap to the application.
   */
  onGap?: 'refill' | 'tell';
  /** Attempts in a row before the client gives up. Default: never. */
  attempts?: number;
  /** Milliseconds of silence after which the server is asked, and how long it may take. Default 25,000 and 10,000. */
  heartbeat?: { interval?: number; timeout?: number };
  /** Publishes that wait while offline; the next is refused with `queue_full`. Default 1,000. */
  queue?: number;
}

/** What went wrong, in one word: the server's code, or one of the client's own. */
export class FanwireError extends Error {
  /**
   * The server's (`invalid_filter`, ...), or `queue_full`, `uncertain` (sent, and the connection broke before the
   * answer), `unsupported` (the server is too old for it), `closed`, `aborted`, `unauthorized`, `no_transport`, `gave_up`,
   * `handler`, `token`, `protocol`.
   */
  readonly code: string;
  constructor(code: string, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'FanwireError';
    this.code = code;
  }
}
