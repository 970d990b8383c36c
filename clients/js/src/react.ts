// React: `useFanwire` and `useRun` for a Fanwire server, `useWebSocket` for any socket with JSON messages.
import { useCallback, useEffect, useRef, useState } from 'react';
import { Fanwire, isGap } from './client.js';
import { run, type RunEnd, type RunOptions } from './runs.js';
import type { EventMap, EventOf, FanwireEvent, Filter, Gap, Matching, NewEvent, Options, SocketLike, Status, SubscribeOptions } from './types.js';

/** Clients that components share, by URL. The last component to leave closes the client. */
const shared = new Map<string, { client: Fanwire<any>; users: number }>();

function borrow(source: string | Fanwire<any>, options: Options): { client: Fanwire<any>; giveBack: () => void } {
  if (typeof source !== 'string') return { client: source, giveBack: () => {} };
  let held = shared.get(source);
  if (!held) shared.set(source, (held = { client: new Fanwire(source, options), users: 0 }));
  const { client } = (held.users += 1, held);
  const giveBack = () => {
    // A component that comes back in the same tick, as in strict mode, finds the connection still open.
    setTimeout(() => {
      if ((held.users -= 1) > 0) return;
      client.close();
      if (shared.get(source) === held) shared.delete(source);
    });
  };
  return { client, giveBack };
}

export interface UseFanwireOptions extends Options, Omit<SubscribeOptions, 'signal'> {
  /** Number of newest events to keep. Default 100. */
  limit?: number;
}

export interface UseFanwire<M extends EventMap, T extends string> {
  /** The newest events, oldest first. */
  events: readonly EventOf<M, T>[];
  /** The newest event. */
  last: EventOf<M, T> | null;
  /** The events that this component missed. */
  gaps: readonly Gap[];
  status: Status;
  /** Error that ended the subscription or the client. */
  error: Error | null;
  publish: (event: NewEvent) => Promise<string>;
}

/**
 * Provides events of a server as state: subscribes while the component is mounted, and renders at most once a
 * frame. Components with the same URL share one connection (the options of the first count). A client of your
 * own works too.
 */
export function useFanwire<M extends EventMap = EventMap, P extends string = string>(
  source: string | Fanwire<M>,
  filter: P | readonly P[] | Filter = {},
  options: UseFanwireOptions = {},
): UseFanwire<M, Matching<M, P>> {
  type Event = EventOf<M, Matching<M, P>>;
  const [state, setState] = useState<{ events: Event[]; gaps: Gap[] }>({ events: [], gaps: [] });
  const [status, setStatus] = useState<Status>('idle');
  const [error, setError] = useState<Error | null>(null);
  const client = useRef<Fanwire<any>>(null);
  const wanted = JSON.stringify(filter);
  const { limit = 100, since, history, snapshot, from, absent, on_lag, compact, concat, max_per_second, buffer, ...connection } = options;
  const past = JSON.stringify({ since, history, snapshot, from, absent, on_lag, compact, concat, max_per_second, buffer });

  useEffect(() => {
    const { client: mine, giveBack } = borrow(source, connection);
    client.current = mine;
    setState({ events: [], gaps: [] });
    setError(null);
    const subscription = mine.subscribe(JSON.parse(wanted), JSON.parse(past));
    const { client: shown = mine } = subscription;
    const off = shown.onStatus(setStatus);
    setStatus(shown.status);
    let fresh: (FanwireEvent | Gap)[] = [];
    let frame: (() => void) | undefined;
    const show = () => {
      frame = undefined;
      const [events, gaps] = [fresh.filter((item) => !isGap(item)) as Event[], fresh.filter(isGap)];
      fresh = [];
      setState((old) => ({
        events: events.length ? [...old.events, ...events].slice(-limit) : old.events,
        gaps: gaps.length ? [...old.gaps, ...gaps].slice(-limit) : old.gaps,
      }));
    };
    void (async () => {
      try {
        for await (const item of subscription) {
          fresh.push(item as FanwireEvent | Gap);
          frame ??= nextFrame(show);
        }
      } catch (cause) {
        setError(cause as Error);
      }
    })();
    return () => {
      frame?.();
      off();
      subscription.close();
      client.current = null;
      giveBack();
    };
  }, [source, wanted, past, limit]);

  const publish = useCallback((event: NewEvent) => {
    return client.current ? client.current.publish(event) : Promise.reject(new Error('the component is not mounted'));
  }, []);
  return { ...state, last: state.events.at(-1) ?? null, status, error, publish };
}

export interface UseRunOptions extends Options, Omit<RunOptions, 'signal'> {
  /** The text that an event adds. Default: its `payload.delta`, if that is a text. */
  text?: (event: FanwireEvent) => string | undefined;
  /** Number of newest events to keep. Default: all. */
  limit?: number;
}

export interface UseRun<M extends EventMap> {
  /** The events so far, oldest first. */
  events: readonly EventOf<M>[];
  /** The texts of the events, put together. */
  text: string;
  /** Parts of the run that are lost. */
  gaps: readonly Gap[];
  /** The end of the run; null until then. */
  ended: RunEnd | null;
  /** The state of the connection. */
  status: Status;
  /** Error that ended the run or the client. */
  error: Error | null;
}

const deltaOf = ({ payload }: FanwireEvent): string | undefined => {
  const delta = (payload as { delta?: unknown } | null)?.delta;
  return typeof delta === 'string' ? delta : undefined;
};

/**
 * Follows a run from its first event to its end, also after a reload of the page; renders at most once a frame. Shares connections as
 * `useFanwire` does. Without a stream (null) it waits for one.
 */
export function useRun<M extends EventMap = EventMap>(source: string | Fanwire<M>, stream: string | null, options: UseRunOptions = {}): UseRun<M> {
  type Shown = Pick<UseRun<M>, 'events' | 'text' | 'gaps' | 'ended' | 'error'>;
  const empty: Shown = { events: [], text: '', gaps: [], ended: null, error: null };
  const [state, setState] = useState(empty);
  const [status, setStatus] = useState<Status>('idle');
  const { text = deltaOf, limit = Infinity, event_types, sources, correlation_ids, execution_ids, entities, channels, absent, buffer, on_lag, compact, concat, ...connection } = options;
  const wanted = JSON.stringify({ event_types, sources, correlation_ids, execution_ids, entities, channels, absent, buffer, on_lag, compact, concat });
  const textOf = useRef(text);
  textOf.current = text;

  useEffect(() => {
    setState(empty);
    if (stream === null) return setStatus('idle');
    const { client, giveBack } = borrow(source, connection);
    const own = run<M>(client, stream, JSON.parse(wanted));
    const { client: shown = client } = own;
    const off = shown.onStatus(setStatus);
    setStatus(shown.status);
    let fresh: (EventOf<M> | Gap)[] = [];
    let last: Partial<Shown> = {};
    let frame: (() => void) | undefined;
    let isGone = false;
    const show = () => {
      frame = undefined;
      const [events, gaps] = [fresh.filter((item): item is EventOf<M> => !isGap(item as FanwireEvent | Gap)), fresh.filter((item): item is Gap => isGap(item as FanwireEvent | Gap))];
      fresh = [];
      const more = events.map((event) => textOf.current(event as FanwireEvent) ?? '').join('');
      setState((old) => ({
        ...old,
        events: events.length ? [...old.events, ...events].slice(-limit) : old.events,
        gaps: gaps.length ? [...old.gaps, ...gaps].slice(-100) : old.gaps,
        text: old.text + more,
        ...last,
      }));
    };
    const plan = () => isGone || (frame ??= nextFrame(show));
    void (async () => {
      try {
        for await (const item of own) {
          fresh.push(item);
          plan();
        }
        last = { ended: own.end ?? null };
      } catch (cause) {
        last = { error: cause as Error };
      }
      plan();
    })();
    return () => {
      isGone = true;
      frame?.();
      off();
      own.close();
      giveBack();
    };
  }, [source, stream, wanted, limit]);
  return { ...state, status };
}

/** Runs a function once per frame. A hidden page has no frames, so a timer runs too. Returns a function that cancels. */
function nextFrame(run: () => void): () => void {
  const stop = () => {
    clearTimeout(timer);
    globalThis.cancelAnimationFrame?.(frame);
  };
  const once = () => (stop(), run());
  const timer = setTimeout(once, 100);
  const frame = globalThis.requestAnimationFrame?.(once) ?? 0;
  return stop;
}

export interface UseWebSocketOptions {
  protocols?: string[];
  /** Number of messages to keep. Default 1,000. */
  limit?: number;
  /** Reconnect attempts in a row. Default 10. */
  attempts?: number;
  /** Milliseconds before an attempt, or a function of its number from 1. Default 3,000. */
  delay?: number | ((attempt: number) => number);
  /** Message for each time that the socket opens: the first one that a server expects. */
  greeting?: readonly unknown[];
  WebSocket?: new (url: string, protocols: string[]) => SocketLike;
}

export interface UseWebSocket<T> {
  isConnected: boolean;
  messages: readonly T[];
  lastMessage: T | null;
  /** Sends a message as JSON, when the socket is next open. */
  sendMessage: (message: unknown) => void;
  /** Sends a message if the socket is open. Returns whether it did. */
  send: (message: unknown) => boolean;
  /**
   * Subscribes to a resource (`{resource, resourceId, events}`), again after each reconnect. Returns the
   * subscription's id for `unsubscribe`.
   */
  subscribe: (subscription: object) => string;
  unsubscribe: (subscriptionId: string) => void;
}

/** Number of messages kept for a socket that is not open. */
const WAITING_MAX = 1_000;

/** Provides a WebSocket of JSON messages as state. It reconnects by itself, and closes with the component. */
export function useWebSocket<T = any>(url: string, options: UseWebSocketOptions = {}): UseWebSocket<T> {
  const [isConnected, setIsConnected] = useState(false);
  const [messages, setMessages] = useState<readonly T[]>([]);
  const socket = useRef<SocketLike>(null);
  const waiting = useRef<string[]>([]);
  const subscriptions = useRef(new Map<string, object>());
  const number = useRef(0);
  const now = useRef(options);
  now.current = options;

  useEffect(() => {
    let attempt = 0;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const dial = () => {
      const { WebSocket = globalThis.WebSocket, protocols = [] } = now.current;
      const mine: SocketLike = new WebSocket(new URL(url, globalThis.location?.href.replace(/^http/, 'ws')).href, protocols);
      socket.current = mine;
      mine.onopen = () => {
        attempt = 0;
        setIsConnected(true);
        for (const message of now.current.greeting ?? []) mine.send(JSON.stringify(message));
        for (const [subscriptionId, wanted] of subscriptions.current) mine.send(subscribing(subscriptionId, wanted));
        for (const text of waiting.current.splice(0)) mine.send(text);
      };
      mine.onmessage = ({ data }) => {
        let message: T;
        try {
          message = JSON.parse(data);
        } catch {
          return;
        }
        setMessages((old) => [...old, message].slice(-(now.current.limit ?? 1_000)));
      };
      mine.onerror = () => {};
      mine.onclose = () => {
        if (socket.current !== mine) return;
        setIsConnected(false);
        const { attempts = 10, delay = 3_000 } = now.current;
        attempt += 1;
        if (attempt <= attempts) timer = setTimeout(dial, typeof delay === 'number' ? delay : delay(attempt));
      };
    };
    setMessages([]);
    dial();
    return () => {
      clearTimeout(timer);
      const last = socket.current;
      socket.current = null;
      setIsConnected(false);
      last?.close(1000);
    };
  }, [url]);

  const send = useCallback((message: unknown) => {
    if (socket.current?.readyState !== 1) return false;
    socket.current.send(JSON.stringify(message));
    return true;
  }, []);
  const sendMessage = useCallback((message: unknown) => {
    if (send(message)) return;
    if (waiting.current.length >= WAITING_MAX) throw new Error(`${WAITING_MAX} messages wait already`);
    waiting.current.push(JSON.stringify(message));
  }, []);
  const subscribe = useCallback((wanted: object) => {
    const id = `sub-${(number.current += 1)}`;
    subscriptions.current.set(id, wanted);
    if (socket.current?.readyState === 1) socket.current.send(subscribing(id, wanted));
    return id;
  }, []);
  const unsubscribe = useCallback((subscriptionId: string) => {
    if (subscriptions.current.delete(subscriptionId)) send({ type: 'unsubscribe', data: { subscriptionId } });
  }, []);
  return { isConnected, messages, lastMessage: messages.at(-1) ?? null, sendMessage, send, subscribe, unsubscribe };
}

function subscribing(subscriptionId: string, wanted: object): string {
  return JSON.stringify({ type: 'subscribe', data: { subscriptionId, ...wanted } });
}
