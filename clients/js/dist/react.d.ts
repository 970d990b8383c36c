import { Fanwire } from './client.js';
import type { EventMap, EventOf, Filter, Gap, Matching, NewEvent, Options, SocketLike, Status, SubscribeOptions } from './types.js';
export interface UseFanwireOptions extends Options, Omit<SubscribeOptions, 'signal'> {
    /** How many of the newest events are kept. Default 100. */
    limit?: number;
}
export interface UseFanwire<M extends EventMap, T extends string> {
    /** The newest events, oldest first. */
    events: readonly EventOf<M, T>[];
    /** The newest event. */
    last: EventOf<M, T> | null;
    /** What this component did not get. */
    gaps: readonly Gap[];
    status: Status;
    /** Why the subscription or the client ended, if it did. */
    error: Error | null;
    publish: (event: NewEvent) => Promise<string>;
}
/**
 * Events of a server as state: subscribes while the component is there, renders once a frame however many come.
 * Components that name the same URL share one connection (the options of the first count); or give a client of your own.
 */
export declare function useFanwire<M extends EventMap = EventMap, P extends string = string>(source: string | Fanwire<M>, filter?: P | readonly P[] | Filter, options?: UseFanwireOptions): UseFanwire<M, Matching<M, P>>;
export interface UseWebSocketOptions {
    protocols?: string[];
    /** Messages kept. Default 1,000. */
    limit?: number;
    /** Attempts in a row to come back. Default 10. */
    attempts?: number;
    /** Milliseconds before an attempt, or a function of its number from 1. Default 3,000. */
    delay?: number | ((attempt: number) => number);
    /** Sent each time that the socket opens: what a server wants to hear first. */
    greeting?: readonly unknown[];
    WebSocket?: new (url: string, protocols: string[]) => SocketLike;
}
export interface UseWebSocket<T> {
    isConnected: boolean;
    messages: readonly T[];
    lastMessage: T | null;
    /** Sends a message as JSON, when the socket is next open. */
    sendMessage: (message: unknown) => void;
    /** Sends it if the socket is open; says whether. */
    send: (message: unknown) => boolean;
    /**
     * Subscribes to a resource (`{resource, resourceId, events}`), again after each reconnect. Returns the subscription's id;
     * `unsubscribe` takes it.
     */
    subscribe: (subscription: object) => string;
    unsubscribe: (subscriptionId: string) => void;
}
/** A WebSocket of JSON messages as state; it comes back by itself, and is closed with the component. */
export declare function useWebSocket<T = any>(url: string, options?: UseWebSocketOptions): UseWebSocket<T>;
