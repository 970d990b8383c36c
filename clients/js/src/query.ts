// Filters in queries.
import { fields, pairs, values } from './filter.js';
import type { Filter } from './types.js';

/** Writes the query of `/sse` and `/events` that asks for the same events. */
export function query(filter: Filter, into: URLSearchParams): void {
  for (const field of fields) for (const value of values(filter, field)) into.append(field.replace(/^event_|_id$/, ''), value);
  for (const pair of pairs(filter)) into.append('entity', pair.join(':'));
  if (filter.filter) into.set('filter', filter.filter);
}
