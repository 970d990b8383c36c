// The native protocol over one WebSocket: all subscriptions, publishes and requests.
import { lacking, named, needs, refillable, uncertain, type Host, type Job, type Link, type ServerInfo } from './link.js';
import { distance, sequence } from './position.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type FanwireEvent, type Gap, type LogEnd, type Options, type Past, type SocketLike } from './types.js';

type Any = Subscription<any, any>;
type Answer = (payload: any, error?: FanwireError) => void;
type Ended = LogEnd & { subscription_id: string };

/** Opens a WebSocket without a message. */
export function dial({ WebSocket = globalThis.WebSocket, lean, path = 'ws' }: Options, base: URL): SocketLike {
  const address = new URL(path, base);
  address.protocol = address.protocol.replace('http', 'ws');
  return new WebSocket(address.href, lean ? ['fanwire.v1.lean', 'fanwire.v1'] : ['fanwire.v1']);
}

export function socketLink(host: Host, token: string | undefined): Link {
  const { heartbeat: { interval = 25_000, timeout = 10_000 } = {} } = host.options;
  const answers = new Map<string, Answer>();
  let number = 0;
  /** Past events of several subscriptions, held until all have come. Then they are sorted. */
  let merging: (FanwireEvent | Gap)[] | undefined;
  /** Position at which the newest subscription began. */
  let began: string | undefined;
  /** Ends of kept streams that came meanwhile. */
  const ends: Ended[] = [];
  /** The server's description of itself, once it has come, with its capabilities that older ones lack. */
  let info: ServerInfo | undefined;
  /** Work that waits for it: subscriptions that need a capability, and publishes, which depend on one. */
  const held: (() => void)[] = [];
  /** The subscription with a past under way. Until the end of that past, no event is for others. */
  let recalling: Any | undefined;
  /** Position up to which everything has come. */
  let reached: string | undefined;
  /** Whether a refill was requested and not answered yet. Events until then will come again. */
  let refilling = false;
  let refilled: string | undefined;
  /** On the monotonic clock. */
  let heard = -1;
  /** Time at which this client may come back, if the server named one. */
  let slot: number | undefined;
  let over = false;
  let timer: ReturnType<typeof setTimeout>;

  const proceed = () => held.splice(0).forEach((go) => go());

  const can = (ability: string) => info?.capabilities?.includes(ability);

  const ask = (type: string, payload: object, answer?: Answer, ack?: boolean): void => {
    const message_id = `${(number += 1)}`;
    if (answer) answers.set(message_id, answer);
    socket.send(JSON.stringify({ type, payload, message_id, ack }));
  };

  const ping = (): void =>
    ask('ping', {}, (pong, error) => {
      if (error) return;
      const merged = merging;
      merging = undefined;
      inOrder(merged ?? []).forEach((item) => pass(item));
      ends.splice(0).forEach(ended);
      reach(pong.last_event_id);
    });

  const active = () => host.subscriptions().filter((subscription) => subscription.active);

  const find = (name: string) => host.subscriptions().find(({ id }) => id === name);

  const reach = (place?: string) => {
    if (refilling || !place) return;
    reached = place;
    active().forEach((subscription) => subscription.reach(place));
  };

  const subscribe = (subscription: Any, resume?: string, alone?: boolean): void => {
    const { since, history, snapshot, from, absent, ...rest } = subscription.wire;
    const past = resume ? { since: resume } : { since, history, snapshot, from, absent };
    const hasPast = Object.values(past).some(Boolean);
    // Beside other subscriptions it needs its own past: on one connection an event comes only once.
    const isOwn = alone || (!resume && hasPast && host.subscriptions().length > 1);
    const wanted = needs(subscription);
    if (isOwn || wanted[0]) {
      if (!info) return void held.push(() => add(subscription));
      const lacks = wanted.find((need) => !can(need));
      if (lacks) return subscription.end(lacking(lacks));
      if (isOwn && !(can('own_past') && can('history_end'))) return host.apart(subscription);
    }
    ask('subscribe', { subscription_id: subscription.id, ...subscription.filter, ...subscription.kept, ...rest, ...past, ...(isOwn && { own_past: true }) }, (ack, error) => {
      if (error) {
        if (!over) subscription.end(error);
        return;
      }
      subscription.ack = ack;
      began = ack.last_event_id;
      subscription.taken();
      if (!can('history_end') || !hasPast) subscription.passed();
      // The past comes first.
      if (isOwn) recalling = subscription;
      else if (!hasPast) {
        subscription.reach(began);
        if (!refilling) reached = began;
      }
    });
  };

  /** Handles the end of a kept stream. A refill delivers nothing to a subscription that is over, so such a subscription reads its past again. */
  const ended = (end: Ended): void => {
    const subscription = find(end.subscription_id);
    if (!subscription) return;
    subscription.ended = end;
    if (!end.over) return;
    if (!refilling) return subscription.end();
    subscription.active = false;
    subscribe(subscription, subscription.position, true);
  };

  /** A past is over. Live events come next. */
  const passed = ({ subscription_id, ...past }: Past & { subscription_id: string }): void => {
    if (recalling?.id === subscription_id) {
      recalling.recalls = false;
      recalling.reach(began);
      recalling = undefined;
    }
    find(subscription_id)?.passed(past);
  };

  /** Asks for the content of a gap, if it is available and was not asked for in vain. */
  const refill = (gap: Gap): boolean => {
    const since = reached ?? gap.from;
    if (!can('refill') || !since || since === refilled || !refillable(host, active(), gap)) return false;
    refilled = since;
    refilling = true;
    ask('refill', { since }, (_, error) => {
      refilling = false;
      if (error && !over) report(gap);
    });
    return true;
  };

  const begin = (): void => {
    const start = (): void => {
      const all = host.subscriptions();
      // After another transport they may have different positions. Resume from the first of them.
      // A past with merged events is not for others.
      const resumed = all.filter(({ fresh, position, wire }) => !fresh && position && !(wire.compact && all[1]));
      const first = resumed.reduce((a, { position: b }) => (distance(b, a)! < 0 ? b : a), resumed[0]?.position);
      if (resumed[1]) merging = [];
      for (const subscription of resumed) subscribe(subscription, distance(first, subscription.position) === undefined ? subscription.position : first);
      // Pasts of their own come after what is merged.
      if (merging) ping();
      for (const subscription of all) if (!resumed.includes(subscription)) subscribe(subscription, subscription.position, !!subscription.position);
      ping();
      host.opened();
    };
    // All resume together, and only if this server, too, can do what they need.
    const waits = host.subscriptions().some((subscription) => !subscription.fresh && needs(subscription)[0]);
    ask('request', { action: 'server_info' }, (answer) => {
      if (over) return;
      info = answer ?? {};
      if (waits) start();
      proceed();
    });
    if (!waits) start();
  };

  const login = (token: string, then?: () => void): void =>
    ask('auth', { token }, (_, error) => {
      // A server without tokens admits every client.
      if (!error || error.code === 'unknown_type') then?.();
      else end(new FanwireError('unauthorized', error.message));
    });

  const pass = (item: FanwireEvent | Gap, position?: string): void => {
    if (recalling) {
      if (item.event_type !== undefined) host.event(item, recalling);
      else host.gap(item, recalling);
      recalling.reach(position ?? (item as Gap).to);
    } else if (refilling) return;
    else if (item.event_type !== undefined) {
      host.event(item);
      reached = item.event_id;
      // A server with several shards sends the position after the event in its own form.
      reach(position);
    } else if (!refill(item)) report(item);
  };

  const report = (gap: Gap): void => {
    host.gap(gap);
    // After a restart there are new positions.
    for (const subscription of active()) gap.to ? subscription.reach(gap.to) : (subscription.position = began);
  };

  const add = (subscription: Any): void => {
    if (over || subscription.isOver) return;
    subscribe(subscription);
    // The past that it asked for comes before the pong.
    if (subscription.wire.history || subscription.wire.snapshot) ping();
  };

  const take = (data: unknown): void => {
    if (over) return;
    heard = performance.now();
    host.proven();
    let message: any;
    try {
      message = JSON.parse(`${data}`);
    } catch (cause) {
      return host.failed(new FanwireError('protocol', 'no JSON', cause));
    }
    const { position, ...event } = message;
    // A lean event has no message around it.
    if (event.event_type) message = { type: 'event', payload: { correlation_id: null, ...event } };
    const { type, payload, correlation_id = '' } = message;
    if (type === 'event' || type === 'gap') {
      if (merging) merging.push(payload);
      else pass(payload, position);
    } else if (type === 'reconnect') slot = payload.delay_ms;
    else if (type === 'history_end') passed(payload);
    else if (type === 'end') merging ? ends.push(payload) : ended(payload);
    else {
      const error = type === 'error' ? new FanwireError(payload.code, payload.error) : undefined;
      const answer = answers.get(correlation_id);
      answers.delete(correlation_id);
      if (answer) answer(payload, error);
      else if (error) host.failed(error);
    }
  };

  /** Pings when all is silent. Silence after that is the end. */
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
    for (const answer of answers.values()) answer(0, uncertain());
    answers.clear();
    proceed();
  };

  const end = (error: FanwireError, delay?: number): void => {
    if (over) return;
    close();
    host.lost({ error, delay: slot ?? delay, exact: slot !== undefined });
  };

  const socket = host.dial();
  socket.onopen = () => (token === undefined ? begin() : login(token, begin));
  socket.onmessage = ({ data }) => take(data);
  socket.onerror = () => {};
  socket.onclose = ({ code, reason }) => {
    // 1012 and 1013 may say when to come back: `retry=1500`, in milliseconds.
    const retry = /retry\D*(\d+)/i.exec(reason);
    const denied = code === 4001 || (code === 1008 && !/limit/.test(reason));
    end(new FanwireError(denied ? 'unauthorized' : 'disconnected', `${reason || code}`), retry ? +retry[1]! : undefined);
  };
  watch(timeout, 0);

  const send = (job: Job): void => {
    if (job.ack === false) {
      // An error goes to the host, as it has no receiver here. An older server answers always, which is ignored.
      ask(job.type, job.payload, undefined, can('publish_unacked') ? false : undefined);
      return job.resolve({});
    }
    if (over) return host.again(job);
    if (job.type === 'publish') {
      if (!info) return void held.push(() => send(job));
      if (!named(job, info)) return job.reject(uncertain());
    }
    ask(job.type, job.payload, (payload, error) => {
      // The past of what was added comes next.
      if (job.target && payload.history) {
        (recalling = job.target).recalls = true;
        began = payload.last_event_id;
      }
      if (!error) job.resolve(payload);
      // Asking again is harmless. Publishing again would make a second event, unless the server knows the `dedupe_id` of the first.
      else if (over && (job.type === 'request' || job.until)) host.again(job);
      else job.reject(error);
    });
  };

  return {
    add,
    remove(subscription) {
      if (socket.readyState === 1) ask('unsubscribe', { subscription_id: subscription.id }, () => {});
    },
    send,
    refresh: (token) => (login(token), true),
    close,
  };
}

/** Merges several replays. If each has a gap after one position, the last gap counts: it reaches furthest. */
function inOrder(items: (FanwireEvent | Gap)[]): (FanwireEvent | Gap)[] {
  const place = (item: FanwireEvent | Gap) => sequence(item.event_id ?? item.to);
  const unique = new Map(items.map((item) => [item.event_id ?? item.from, item]));
  return [...unique.values()].sort((a, b) => place(a) - place(b));
}
