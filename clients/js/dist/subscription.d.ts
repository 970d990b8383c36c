import type { EventMap, EventOf, Filter, Gap } from './types.js';
/** Events and gaps in order. Leaving the loop ends it; so does `close`, the signal, or the end of the client. */
export declare class Subscription<M extends EventMap = EventMap, T extends string = Extract<keyof M, string>> implements AsyncIterableIterator<EventOf<M, T> | Gap> {
    #private;
    readonly id: string;
    readonly filter: Filter;
    /** Settles when the server has taken it: what is published from then on comes. Again after each reconnect is not told. */
    readonly ready: Promise<void>;
    /** Whether it has ended. */
    get isOver(): boolean;
    /** The next item; waits for it. Throws where the server refused the subscription. */
    next(): Promise<IteratorResult<EventOf<M, T> | Gap, undefined>>;
    return(): Promise<IteratorResult<EventOf<M, T> | Gap, undefined>>;
    [Symbol.asyncIterator](): this;
    /** Ends it; a loop gets what already came, then its end. */
    close(): void;
}
