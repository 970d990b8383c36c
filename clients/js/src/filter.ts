// Evaluates filters by the server's rules, to find the subscriptions that an event is for.
import type { Filter, FanwireEvent } from './types.js';

const segment = '[^.:/]*';
const segments = `${segment}(?:[.:/]${segment})*`;

/**
 * Returns whether a value matches a pattern: `.`, `:` and `/` cut it into segments, `*` stands for one segment,
 * `**` for any number of them, including none. An asterisk beside other characters means itself.
 */
export function pattern(text: string): (value: string) => boolean {
  const parts = text.split(/([.:/])/);
  if (!parts.some((part) => part === '*' || part === '**')) return (value) => value === text;
  let form = '';
  // Only `**` so far, or nothing.
  let leading = true;
  for (let at = 0; at < parts.length; at += 2) {
    const part = parts[at]!;
    const separator = at ? `[${parts[at - 1]}]` : '';
    if (part === '**') {
      form += leading ? '' : `(?:${separator}${segments})?`;
      continue;
    }
    form += leading && at ? `(?:${segments}${separator})?` : separator;
    form += part === '*' ? segment : part.replace(/[\\^$*+?()[\]{}|]/g, '\\$&');
    leading = false;
  }
  const whole = new RegExp(`^(?:${leading ? segments : form})$`, 's');
  return (value) => !!value && whole.test(value);
}

/** An event's fields that filters name. A filter's field has an `s` at its end. */
export const fields = ['event_type', 'source', 'correlation_id', 'stream_id', 'execution_id', 'channel'] as const;

/** Returns the values of a field. */
export const values = (filter: Filter, field: (typeof fields)[number]) => [filter[`${field}s`] ?? []].flat() as string[];

/** Kind and id. A kind alone matches every id. */
export const pairs = (filter: Filter) =>
  (filter.entities ?? []).map((entity) => {
    const [, kind, id] = typeof entity === 'string' ? /^([^:]*):?(.*)$/s.exec(entity)! : [0, entity.kind, entity.id];
    return [kind || '**', id || '**'] as const;
  });

/** Returns whether a filter wants an event. */
export function matcher(filter: Filter): (event: FanwireEvent) => boolean {
  const wanted = fields
    .map((field) => [field, values(filter, field).map(pattern)] as const)
    .filter(([, forms]) => forms.length);
  const entities = pairs(filter).map(([kind, id]) => [pattern(kind), pattern(id)] as const);
  return (event) =>
    wanted.every(([field, forms]) => forms.some((form) => form(event[field] ?? ''))) &&
    (!entities.length || entities.some(([kind, id]) => event.entity && kind(event.entity.kind) && id(event.entity.id)));
}
