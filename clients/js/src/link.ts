// What a client and its connection tell each other. A link lives once: after `lost` comes nothing more.
import type { Subscription } from './subscription.js';
import type { FanwireError, FanwireEvent, Gap, Options } from './types.js';

type Any = Subscription<any, any>;

/** A message that wants an answer: a publish or a request. */
export interface Job {
  type: 'publish' | 'request';
  payload: object;
  resolve(payload: any): void;
  reject(error: FanwireError): void;
}

/** Why a link ended, and what the server said about coming back. */
export interface Loss {
  error?: FanwireError;
  /** Milliseconds to wait. */
  delay?: number | undefined;
  /** The wait is this client's own slot: nothing is added. */
  exact?: boolean;
}

export interface Host {
  readonly options: Options;
  subscriptions(): Any[];
  /** It can be used. */
  opened(): void;
  /** A sign that the transport works here. */
  proven(): void;
  /** An event, in order; of one subscription where each has its own stream. */
  event(event: FanwireEvent, of?: Any): void;
  gap(gap: Gap, of?: Any): void;
  /** This one needs a connection of its own: the server can't tell its past from what others get. */
  apart(one: Any): void;
  /** The client has ended. */
  readonly ended: AbortSignal;
  /** A job to be done on the next link. */
  again(job: Job): void;
  failed(error: FanwireError): void;
  lost(loss: Loss): void;
}

/** A link that lived so long was a good one: the next waits start short again. */
export const STABLE = 5_000;

/**
 * Whether a gap is to be asked for again: it can be had, or the server no longer knows what came before it, and all that it
 * is told for want everything.
 */
export const refillable = ({ options }: Host, all: Any[], { recoverable, from }: Gap): boolean =>
  options.onGap !== 'tell' &&
  (recoverable || from === null) &&
  all.every(({ wire: { on_lag = 'disconnect' } }) => /^(disconnect|drop_oldest)$/.test(on_lag));

export interface Link {
  add(subscription: Any): void;
  remove(subscription: Any): void;
  send(job: Job): void;
  /** A new token for the same user; false where only a new connection takes it. */
  refresh(token: string): boolean;
  close(): void;
}
