// Changes of a subscription's lists. Loaded with the first one.
import { matcher } from './filter.js';
import { closed } from './link.js';
import type { Subscription } from './subscription.js';
import { FanwireError, type Change, type FanwireEvent, type Filter, type Updated } from './types.js';

type Any = Subscription<any, any>;
type Lists = Record<string, readonly unknown[] | string | undefined>;

const list = (of: Lists, name: string): unknown[] => [of[name] ?? []].flat();

/** A value by which equal ones are found: an entity may be a text, or an object of kind and id. */
const key = (value: any): string => (typeof value === 'string' ? value : `${value.kind || '**'}:${value.id || '**'}`);

/** Changes the lists of a subscription as the server has changed them. */
function apply(subscription: Any, change: Change, text: (event: FanwireEvent) => boolean): Updated {
  const [filter, kept] = [{ ...subscription.filter } as Lists, { ...subscription.kept } as Lists];
  const [add, remove] = [change.add ?? {}, change.remove ?? {}] as [Lists, Lists];
  const count = { added: 0, removed: 0 };
  for (const name of new Set([...Object.keys(add), ...Object.keys(remove)])) {
    const held = new Map(list(filter, name).map((value) => [key(value), value]));
    for (const value of list(remove, name)) {
      const known = held.get(key(value));
      if (!held.delete(key(value))) continue;
      count.removed += 1;
      if (!held.size) kept[name] = [known];
    }
    for (const value of list(add, name)) {
      if (!held.has(key(value))) count.added += 1;
      held.set(key(value), value);
    }
    if (held.size) delete kept[name];
    filter[name] = [...held.values()];
  }
  subscription.filter = filter as Filter;
  subscription.kept = Object.keys(kept).length ? (kept as Filter) : undefined;
  const lists = matcher(subscription.filter);
  // A list without values matches nothing.
  const wants = (event: FanwireEvent) => !subscription.kept && lists(event) && text(event);
  subscription.wants = subscription.named?.(subscription, wants) ?? wants;
  return count;
}

/** Updates that wait for the confirmation of their subscription. */
const waiting = new WeakMap<Any, (() => void)[]>();

/** Sends what waits. An empty list has a value at the server since the subscription was made again. */
function resume(subscription: Any): void {
  const ignore = (): void => {};
  if (subscription.kept) subscription.send({ type: 'update', payload: { subscription_id: subscription.id, remove: subscription.kept }, resolve: ignore, reject: ignore });
  for (const go of waiting.get(subscription)?.splice(0) ?? []) go();
}

/** Asks the server for a change, once it has confirmed the subscription, and again after a lost connection. */
export async function update(subscription: Any, change: Change): Promise<Updated> {
  const everything = () => true;
  const { filter: condition } = subscription.filter;
  // A text that this client can't evaluate, or not on merged events, has a connection of its own: all events are for it.
  const text = condition && !subscription.wire.concat ? await import('./text.js').then(({ evaluator }) => evaluator(condition)).catch(() => everything) : everything;
  if (/{/.test(`${change.add?.channels} ${change.remove?.channels}`)) subscription.named = (await import('./text.js')).named;
  subscription.resumed ??= () => resume(subscription);
  const queue = waiting.get(subscription) ?? [];
  waiting.set(subscription, queue);
  return new Promise((resolve, reject) => {
    const end = () => reject(closed());
    if (subscription.isOver) return end();
    void subscription.over.then(end);
    const go = (): void =>
      subscription.send({
        type: 'update',
        target: subscription,
        payload: { subscription_id: subscription.id, ...change },
        resolve({ added, removed, not_held, own_channels }) {
          if (own_channels) subscription.ack = { own_channels: { ...subscription.ack?.own_channels, ...own_channels } };
          const count = apply(subscription, change, text);
          resolve(added === undefined ? count : { added, removed, ...(not_held ? { not_held } : {}) });
        },
        // Adding and removing again is harmless.
        reject(error) {
          if (error.code === 'uncertain' && !subscription.isOver) queue.push(go);
          // A server of an earlier version does not know the message, and has changed nothing.
          else reject(error.code === 'unknown_type' ? new FanwireError('unsupported', 'this server takes no updates') : error);
        },
      });
    if (subscription.active) go();
    else queue.push(go);
  });
}
