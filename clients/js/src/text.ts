// Evaluates the text form of filters by the server's rules. Loaded only for a subscription with a text; the server
// checks the text.
import { pattern } from './filter.js';
import type { Subscription } from './subscription.js';
import type { FanwireEvent } from './types.js';

type Test = (event: FanwireEvent) => boolean;

const bare = (but = '') => new RegExp(`[^\\p{White_Space}\\p{Cc},"'=!<>&()${but}]+`, 'uy');
const [value, kind, key] = [bare(), bare(':'), bare('.')];
const space = /\p{White_Space}*/uy;
const quoted = /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/suy;
const escapes: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

/** Fields of an event whose names differ from those of a text. */
const fields: Record<string, string> = { type: 'event_type', stream: 'stream_id', execution: 'execution_id', correlation: 'correlation_id' };
const known = /^(event_type|source|(stream|execution|correlation)_id|channel|entity(_kind|_id)?)$/;

/** Returns a test that is true for events of own channels too, if `wants` is for their templates. */
export const named = (subscription: Subscription<any, any>, wants: Test): Test => (event) =>
  subscription.ack ? wants(event) || Object.entries(subscription.ack.own_channels ?? {}).some(([template, channel]) => event.channel === channel && wants({ ...event, channel: template })) : !subscription.kept;

/** Makes a subscription evaluate its text. Returns false if it can't: a merged event has the payload of several, and some texts are beyond it. */
export function evaluate(subscription: Subscription<any, any>): boolean {
  const [lists, { filter }] = [subscription.wants, subscription.filter];
  subscription.named = named;
  subscription.wants = named(subscription, lists);
  if (subscription.wire.concat) return false;
  if (filter) {
    const wants = evaluator(filter);
    subscription.wants = named(subscription, (event) => lists(event) && wants(event));
  }
  return true;
}

/** The order of two values of one kind; NaN if they have none. */
function order(found: unknown, literal: unknown): number {
  if (found === literal) return 0;
  if (typeof found === 'number' && typeof literal === 'number') return found - literal;
  if (typeof found !== 'string' || typeof literal !== 'string') return NaN;
  // By code points. A surrogate that stands alone is U+FFFD.
  const [a, b] = [found, literal].map((text) => Array.from(text.replace(/\p{Cs}/gu, '\ufffd'), (character) => character.codePointAt(0)!)) as [number[], number[]];
  const at = a.findIndex((point, n) => point !== b[n]);
  return at < 0 ? a.length - b.length : a[at]! - (b[at] ?? -1);
}

const orders: Record<string, (order: number) => boolean> = {
  '=': (n) => n === 0,
  '==': (n) => n === 0,
  '<': (n) => n < 0,
  '<=': (n) => n <= 0,
  '>': (n) => n > 0,
  '>=': (n) => n >= 0,
};

/** The value at a path, or undefined. */
function find(value: any, path: string[]): unknown {
  for (const key of path) {
    if (typeof value !== 'object' || !value || !Object.hasOwn(value, key)) return;
    if (Array.isArray(value) && !/^(0|[1-9]\d{0,8})$/.test(key)) return;
    value = value[key];
  }
  return value;
}

function literal(text: string): unknown {
  if (/^(null|true|false)$/.test(text)) return JSON.parse(text);
  if (!/^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i.test(text)) return text;
  if (/^-?\d+$/.test(text) && !Number.isSafeInteger(+text)) throw new RangeError(`${text} is no number here`);
  return +text;
}

/**
 * Returns whether a filter's text wants an event. Throws if it can't tell: the text has an integer beyond 2^53, or
 * something of a later version.
 */
export function evaluator(text: string): Test {
  let at = 0;
  const take = (form: RegExp): string => {
    form.lastIndex = at;
    const found = form.exec(text)?.[0] ?? '';
    at += found.length;
    return found;
  };
  const need = (form: RegExp): string => {
    const found = take(form);
    if (!found) throw new SyntaxError(`at ${at} of ${text}`);
    return found;
  };
  const unquoted = (): string | undefined => {
    const found = take(quoted);
    if (!found) return;
    return found.slice(1, -1).replace(/\\(?:u(.{4})|(.))/gs, (_, code, letter) => (code ? String.fromCharCode(parseInt(code, 16)) : (escapes[letter] ?? letter)));
  };
  const word = (form: RegExp): string => unquoted() ?? need(form);
  const list = <T>(read: () => T): T[] => {
    const all = [];
    do {
      take(space);
      all.push(read());
      take(space);
    } while (take(/,/y));
    return all;
  };

  /** After `payload`: a condition on a field. */
  const condition = (): Test => {
    const path: string[] = [];
    while (take(/\./y)) path.push(word(key));
    take(space);
    const operator = need(/!?exists|[=!<>]+/y);
    const found = (event: FanwireEvent) => find(event.payload ?? {}, path);
    if (operator === 'exists') return (event) => found(event) !== undefined;
    if (operator === '!exists') return (event) => found(event) === undefined;
    const literals = list(() => unquoted() ?? literal(need(value)));
    const negated = operator === '!=';
    const holds = orders[negated ? '=' : operator];
    if (!holds) throw new SyntaxError(operator);
    return (event) => literals.some((literal) => holds(order(found(event), literal))) !== negated;
  };

  const tests: Test[] = [];
  /** Values of a group by attribute; of a negated one apart. */
  let sets: Record<string, Test[]> = {};
  for (;;) {
    take(space);
    if (at === text.length) return (event) => tests.every((test) => test(event));
    if (take(/&/y)) {
      sets = {};
      continue;
    }
    const name = need(/\w+/y);
    if (name === 'payload') tests.push(condition());
    else if (name === 'nothing') tests.push(() => false);
    else {
      const field = fields[name] ?? name;
      take(space);
      const operator = /^(!?)=(=?)$/.exec(need(/[=!<>]+/y));
      if (!known.test(field) || !operator) throw new SyntaxError(name);
      const negated = !!operator[1];
      const form = (text: string) => (operator[2] ? (value: string) => value === text : pattern(text));
      const member = (): Test => {
        if (field !== 'entity') {
          const holds = form(word(value));
          const part = /^entity_(.*)/.exec(field)?.[1];
          return (event: any) => holds((part ? event.entity?.[part] : event[field]) ?? '');
        }
        let first = word(kind);
        let second;
        if (take(/:/y)) second = word(value);
        else [, first, second] = /^([^:]*):(.*)/s.exec(first) as unknown as [string, string, string];
        const [kinds, ids] = [form(first), form(second)];
        return ({ entity }) => kinds(entity?.kind ?? '') && ids(entity?.id ?? '');
      };
      const own = `${negated}${field}`;
      if (!sets[own]) {
        const members: Test[] = (sets[own] = []);
        tests.push((event) => members.some((holds) => holds(event)) !== negated);
      }
      sets[own].push(...list(member));
    }
  }
}
