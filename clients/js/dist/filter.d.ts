import type { Filter, FanwireEvent } from './types.js';
/**
 * Whether a value is of this form: `.`, `:` and `/` cut it into segments, `*` stands for one of them, `**` for any run,
 * also none. An asterisk beside other characters means itself.
 */
export declare function pattern(text: string): (value: string) => boolean;
/** Whether an event is one that a filter wants. */
export declare function matcher(filter: Filter): (event: FanwireEvent) => boolean;
/** The query of `/sse` that asks for the same. */
export declare function query(filter: Filter, into: URLSearchParams): void;
