// The native protocol over one WebSocket: all subscriptions, publishes and requests.
import type { Host, Job, Link } from './link.js';
import { distance, sequence } from './position.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type FanwireEvent, type Gap, type Options, type SocketLike } from './types.js';

type Answer = (payload: any, error?: FanwireError) => void;

/** Opens a WebSocket and says nothing. */
export function dial({ WebSocket = globalThis.WebSocket, lean }: Options, url: URL): SocketLike {
  const address = new URL(url);
  address.protocol = address.protocol.replace('http', 'ws');
  return new WebSocket(address.href, lean ? ['fanwire.v1.lean', 'fanwire.v1'] : ['fanwire.v1']);
}

export function socketLink(host: Host, url: URL, token: string | undefined): Link {
  const { heartbeat: { interval = 25_000, timeout = 10_000 } = {} } = host.options;
  const answers = new Map<string, Answer>();
  let number = 0;
  /** What several subscriptions resume with, until all of it is there: then it is put in order. */
  let merging: (FanwireEvent | Gap)[] | undefined;
  /** Where the newest subscription began. */
  let began: string | undefined;
  /** On the clock that nobody sets. */
  let heard = -1;
  /** When this client may come back, if the server said. */
  let slot: number | undefined;
  let over = false;
  let timer: ReturnType<typeof setTimeout>;

  const ask = (type: string, payload: object, answer: Answer): void => {
    const message_id = `${(number += 1)}`;
    answers.set(message_id, answer);
    socket.send(JSON.stringify({ type, payload, message_id }));
  };

  const ping = (): void =>
    ask('ping', {}, (pong, error) => {
      if (error) return;
      const merged = merging;
      merging = undefined;
      inOrder(merged ?? []).forEach(pass);
      reach(pong.last_event_id);
    });

  const active = () => host.subscriptions().filter((one) => one.active);

  const reach = (place?: string) => active().forEach((one) => one.reach(place));

  const subscribe = (one: Subscription<any, any>, resume?: string): void => {
    const { since, history, snapshot, ...rest } = one.wire;
    const past = resume ? { since: resume } : { since, history, snapshot };
    ask('subscribe', { subscription_id: one.id, ...one.filter, ...rest, ...past }, (ack, error) => {
      if (!error) {
        began = ack.last_event_id;
        one.taken();
        // What it is to see of the past comes first.
        if (!Object.values(past).some(Boolean)) one.reach(began);
      } else if (!over) one.end(error);
    });
  };

  const begin = (): void => {
    const all = host.subscriptions();
    // They may stand at different places, having been on another transport: from the first of them on, then.
    let first: string | undefined;
    for (const { fresh, position } of all) {
      if (!fresh && position && (!first || distance(position, first)! < 0)) first = position;
    }
    if (first && all[1]) merging = [];
    for (const one of all) subscribe(one, one.fresh ? undefined : distance(first, one.position) === undefined ? one.position : first);
    ping();
    host.opened();
  };

  const login = (token: string, then?: () => void): void =>
    ask('auth', { token }, (_, error) => {
      // A server that knows no tokens lets everybody in.
      if (!error || error.code === 'unknown_type') then?.();
      else end(new FanwireError('unauthorized', error.message));
    });

  const pass = (item: FanwireEvent | Gap): void => {
    if (item.event_type !== undefined) return host.event(item);
    host.gap(item);
    // Behind a restart there are new places.
    for (const one of active()) item.to ? one.reach(item.to) : (one.position = began);
  };

  const take = (data: unknown): void => {
    if (over) return;
    heard = performance.now();
    host.proven();
    let message: any;
    try {
      message = JSON.parse(`${data}`);
    } catch (cause) {
      return host.failed(new FanwireError('protocol', 'no message', cause));
    }
    const { position, ...event } = message;
    // A lean event has no message around it.
    if (event.event_type) message = { type: 'event', payload: { correlation_id: null, ...event } };
    const { type, payload, correlation_id = '' } = message;
    if (type === 'event' || type === 'gap') {
      if (merging) merging.push(payload);
      else {
        pass(payload);
        // A server with several shards says in its own words where that leaves the client.
        reach(position);
      }
    } else if (type === 'reconnect') slot = payload.delay_ms;
    else {
      const error = type === 'error' ? new FanwireError(payload.code, payload.error) : undefined;
      const answer = answers.get(correlation_id);
      answers.delete(correlation_id);
      if (answer) answer(payload, error);
      else if (error) host.failed(error);
    }
  };

  /** Asks when all is silent; silence after that is the end. */
  const watch = (time: number, asked = -1): void => {
    timer = setTimeout(() => {
      const quiet = performance.now() - heard;
      if (heard < asked) return end(new FanwireError('timeout', `silent for ${timeout} ms`));
      if (quiet < interval) return watch(interval - quiet);
      ping();
      watch(timeout, performance.now());
    }, time);
  };

  const close = (): void => {
    over = true;
    clearTimeout(timer);
    socket.close(1000);
    for (const answer of answers.values()) answer(0, new FanwireError('uncertain', 'disconnected'));
    answers.clear();
  };

  const end = (error: FanwireError, delay?: number): void => {
    if (over) return;
    close();
    host.lost({ error, delay: slot ?? delay, exact: slot !== undefined });
  };

  const socket = dial(host.options, url);
  socket.onopen = () => (token === undefined ? begin() : login(token, begin));
  socket.onmessage = ({ data }) => take(data);
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => {
    // 1012 and 1013 may say when to come back: `retry=1500`, in milliseconds.
    const said = /retry\D*(\d+)/i.exec(reason);
    const denied = code === 4001 || (code === 1008 && !/limit/.test(reason));
    end(new FanwireError(denied ? 'unauthorized' : 'disconnected', `${reason || code}`), said ? +said[1]! : undefined);
  };
  watch(timeout, 0);

  return {
    add(one) {
      subscribe(one);
      // What it asked for of the past stands before the pong.
      if (one.wire.history || one.wire.snapshot) ping();
    },
    remove(one) {
      if (socket.readyState === 1) ask('unsubscribe', { subscription_id: one.id }, () => {});
    },
    send(job: Job) {
      ask(job.type, job.payload, (payload, error) => {
        if (!error) job.resolve(payload);
        // Asking again does no harm; publishing again would be a second event.
        else if (over && job.type === 'request') host.again(job);
        else job.reject(error);
      });
    },
    refresh: (token) => (login(token), true),
    close,
  };
}

/** Several replays as one run. Where each has a gap behind the same place, the last one counts: it reaches furthest. */
function inOrder(items: (FanwireEvent | Gap)[]): (FanwireEvent | Gap)[] {
  const place = (item: FanwireEvent | Gap) => sequence(item.event_id ?? item.to);
  const one = new Map(items.map((item) => [item.event_id ?? item.from, item]));
  return [...one.values()].sort((a, b) => place(a) - place(b));
}
