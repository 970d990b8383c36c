// The interface between a client and its connection. A link lives once: after `lost` it reports nothing.
import type { Subscription } from './subscription.js';
import { FanwireError, type FanwireEvent, type Gap, type NewEvent, type Options, type SocketLike } from './types.js';

type Any = Subscription<any, any>;

/** A message that needs an answer: a publish or a request. */
export interface Job {
  type: 'publish' | 'request' | 'update';
  payload: object;
  /** The subscription that an update changes. */
  target?: Any;
  /** False if only an error is to be answered. */
  ack?: boolean | undefined;
  /** Set once it was sent with an id by which the server recognizes it: until then it may be sent again. */
  until?: number;
  resolve(payload: any): void;
  reject(error: FanwireError): void;
}

/** Reason for a link's end, and the server's instructions for coming back. */
export interface Loss {
  error?: FanwireError;
  /** Milliseconds to wait. */
  delay?: number | undefined;
  /** Whether the wait is this client's own slot: nothing is added. */
  exact?: boolean;
}

export interface Host {
  readonly options: Options;
  subscriptions(): Any[];
  /** The link can be used. */
  opened(): void;
  /** A sign that the transport works here. */
  proven(): void;
  /** An event, in order; of one subscription if each has its own stream. */
  event(event: FanwireEvent, only?: Any): void;
  gap(gap: Gap, only?: Any): void;
  /** The subscription needs its own connection: the server cannot separate its past from the others' events. */
  apart(subscription: Any): void;
  /** Whether the client has ended. */
  readonly ended: AbortSignal;
  /** A job for the next link, or for the present one if there is one. */
  again(job: Job): void;
  /** Opens a WebSocket without a message. */
  dial(): SocketLike;
  /** A WebSocket gets through: the fallback is closed. */
  through(): void;
  failed(error: FanwireError): void;
  lost(loss: Loss): void;
}

export const closed = () => new FanwireError('closed', 'client closed');

export const uncertain = (cause?: unknown) => new FanwireError('uncertain', 'no answer', cause);

/**
 * Gives a publish a `dedupe_id`, if the server deduplicates, so that it may be sent again. Returns whether it may be sent now: false if
 * it was sent so long ago that the server may have forgotten the id.
 */
export function named(job: Job, { capabilities, dedupe_seconds = 120 }: ServerInfo): boolean {
  if (!capabilities?.includes('publish_once')) return !job.until;
  const { dedupe_id = `${[0, 0, 0].map(Math.random)}` } = job.payload as NewEvent;
  job.payload = { ...job.payload, dedupe_id };
  // The server counts from its answer. Half of that time leaves room for a slow network.
  return performance.now() <= (job.until ??= performance.now() + dedupe_seconds * 500);
}

/** The part of `server_info` that the client reads. */
export interface ServerInfo {
  capabilities?: readonly string[];
  dedupe_seconds?: number;
}

/** Returns the capabilities that a subscription needs of its server. */
export const needs = ({ fresh, filter, wire: { from, on_lag, concat } }: Any) =>
  [filter.filter && 'filter', fresh && from && 'from_start', concat && 'concat', on_lag === 'catch_up' && on_lag].filter((need) => need) as string[];

export const lacking = (capability: string) => new FanwireError('unsupported', `server lacks ${capability}`);

/** Lifetime after which a link counts as good, so that the next waits are short again. */
export const STABLE = 5_000;

/**
 * Returns whether a gap is to be refilled: it is available, or the server no longer knows the events before it
 * and all subscriptions that it concerns want everything.
 */
export const refillable = ({ options }: Host, all: Any[], { recoverable, from }: Gap): boolean =>
  options.onGap !== 'tell' &&
  (recoverable || from === null) &&
  all.every(({ wire }) => !/newest|conflate|sample/.test(`${wire.on_lag}`));

export interface Link {
  add(subscription: Any): void;
  remove(subscription: Any): void;
  send(job: Job): void;
  /** Presents a new token of the same user. Returns false if only a new connection accepts it. */
  refresh(token: string): boolean;
  close(): void;
}
