import { Subscription } from './subscription.js';
import { FanwireError, type EventMap, type EventOf, type FanwireEvent, type Filter, type Gap, type Matching, type NewEvent, type Options, type Status, type SubscribeOptions } from './types.js';
/** Whether an item is a gap, not an event. */
export declare const isGap: (item: FanwireEvent | Gap) => item is Gap;
export declare class Fanwire<M extends EventMap = EventMap> {
    #private;
    /** A server by its URL (`https://events.example.com/`). Nothing is opened before there is something to do. */
    constructor(url: string | URL, options?: Options);
    get status(): Status;
    /**
     * Items in order, each once, over all reconnects: events, and gaps where some are missing. A text is a pattern of event
     * types. Starts with what comes from now on, or with the past that the options name.
     */
    subscribe<P extends string>(filter: P | readonly P[], options?: SubscribeOptions): Subscription<M, Matching<M, P>>;
    subscribe(filter?: Filter, options?: SubscribeOptions): Subscription<M>;
    /** Calls a handler with each event whose type is this, or matches this pattern; `*` is every event. Call the result to stop. */
    on<P extends string>(type: P | readonly P[], handler: (event: EventOf<M, Matching<M, P>>) => void, options?: SubscribeOptions): () => void;
    /** The events of one agent, under both of the names in use (`agent_status`, `agent.status`). */
    subscribeToAgent(id: string, events?: readonly string[]): Subscription<M>;
    /** The events of one workflow. */
    subscribeToWorkflow(id: string, events?: readonly string[]): Subscription<M>;
    /**
     * Publishes an event; gives its id. While offline it waits. Fails with `queue_full` where too many wait, and with
     * `uncertain` where the connection broke before the answer: then the event may have been taken, or not.
     */
    publish<T extends Extract<keyof M, string>>(event: NewEvent<T, M[T]>, options?: {
        signal?: AbortSignal;
    }): Promise<string>;
    /** Asks the server: `list_subscriptions`, `subscription_count`, `server_info`. Needs a WebSocket. */
    request(action: string, options?: {
        signal?: AbortSignal;
    }): Promise<any>;
    onStatus(listener: (status: Status) => void): () => void;
    /** Every gap of every subscription. */
    onGap(listener: (gap: Gap) => void): () => void;
    /** What went wrong: lost connections, refused publishes, handlers that threw. Nothing here ends the client. */
    onError(listener: (error: FanwireError) => void): () => void;
    /** Opens the connection now, also out of a wait. */
    connect(): void;
    /** Ends all subscriptions and the connection, for good. */
    close(): void;
}
