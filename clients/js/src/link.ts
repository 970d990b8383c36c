// The interface between a client and its connection. A link lives once: after `lost` it reports nothing.
import type { Subscription } from './subscription.js';
import { FanwireError, type FanwireEvent, type Gap, type Options } from './types.js';

type Any = Subscription<any, any>;

/** A message that needs an answer: a publish or a request. */
export interface Job {
  type: 'publish' | 'request' | 'update';
  payload: object;
  /** The subscription that an update changes. */
  of?: Any;
  /** False if only an error is to be answered. */
  ack?: boolean | undefined;
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
  event(event: FanwireEvent, of?: Any): void;
  gap(gap: Gap, of?: Any): void;
  /** The subscription needs its own connection: the server cannot separate its past from the others' events. */
  apart(one: Any): void;
  /** Whether the client has ended. */
  readonly ended: AbortSignal;
  /** A job for the next link. */
  again(job: Job): void;
  failed(error: FanwireError): void;
  lost(loss: Loss): void;
}

export const closed = () => new FanwireError('closed', 'client closed');

/** Life after which a link counts as good, and the next waits start short again. */
export const STABLE = 5_000;

/**
 * Returns whether a gap is to be refilled: it is available, or the server no longer knows the events before it
 * and all subscriptions that it concerns want everything.
 */
export const refillable = ({ options }: Host, all: Any[], { recoverable, from }: Gap): boolean =>
  options.onGap !== 'tell' &&
  (recoverable || from === null) &&
  all.every(({ wire: { on_lag = 'disconnect' } }) => /^(disconnect|drop_oldest)$/.test(on_lag));

export interface Link {
  add(subscription: Any): void;
  remove(subscription: Any): void;
  send(job: Job): void;
  /** Presents a new token of the same user. Returns false if only a new connection accepts it. */
  refresh(token: string): boolean;
  close(): void;
}
