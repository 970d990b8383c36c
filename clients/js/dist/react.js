// React: `useFanwire` for a Fanwire server, `useWebSocket` for any socket that speaks JSON messages.
import { useCallback, useEffect, useRef, useState } from 'react';
import { Fanwire, isGap } from './client.js';
/** Clients that components share, by URL; the last to leave closes it. */
const shared = new Map();
function borrow(source, options) {
    if (typeof source !== 'string')
        return { client: source, giveBack: () => { } };
    let held = shared.get(source);
    if (!held)
        shared.set(source, (held = { client: new Fanwire(source, options), users: 0 }));
    const { client } = (held.users += 1, held);
    const giveBack = () => {
        // A component that comes back in the same tick, as in strict mode, finds the connection still there.
        setTimeout(() => {
            if ((held.users -= 1) > 0)
                return;
            client.close();
            if (shared.get(source) === held)
                shared.delete(source);
        });
    };
    return { client, giveBack };
}
/**
 * Events of a server as state: subscribes while the component is there, renders once a frame however many come.
 * Components that name the same URL share one connection (the options of the first count); or give a client of your own.
 */
export function useFanwire(source, filter = {}, options = {}) {
    const [state, setState] = useState({ events: [], gaps: [] });
    const [status, setStatus] = useState('idle');
    const [error, setError] = useState(null);
    const client = useRef(null);
    const wanted = JSON.stringify(filter);
    const { limit = 100, since, history, snapshot, on_lag, max_per_second, buffer, ...connection } = options;
    const past = JSON.stringify({ since, history, snapshot, on_lag, max_per_second, buffer });
    useEffect(() => {
        const { client: mine, giveBack } = borrow(source, connection);
        client.current = mine;
        setState({ events: [], gaps: [] });
        setError(null);
        const subscription = mine.subscribe(JSON.parse(wanted), JSON.parse(past));
        const off = mine.onStatus(setStatus);
        setStatus(mine.status);
        let fresh = [];
        let frame;
        const show = () => {
            frame = undefined;
            const [events, gaps] = [fresh.filter((item) => !isGap(item)), fresh.filter(isGap)];
            fresh = [];
            setState((old) => ({
                events: events.length ? [...old.events, ...events].slice(-limit) : old.events,
                gaps: gaps.length ? [...old.gaps, ...gaps].slice(-limit) : old.gaps,
            }));
        };
        void (async () => {
            try {
                for await (const item of subscription) {
                    fresh.push(item);
                    frame ??= nextFrame(show);
                }
            }
            catch (cause) {
                setError(cause);
            }
        })();
        return () => {
            frame?.();
            off();
            subscription.close();
            client.current = null;
            giveBack();
        };
    }, [source, wanted, past, limit]);
    const publish = useCallback((event) => {
        return client.current ? client.current.publish(event) : Promise.reject(new Error('the component is not mounted'));
    }, []);
    return { ...state, last: state.events.at(-1) ?? null, status, error, publish };
}
/** Once per frame; where the page is hidden there are no frames, so a timer stands by. Returns how to cancel. */
function nextFrame(run) {
    const stop = () => {
        clearTimeout(timer);
        globalThis.cancelAnimationFrame?.(frame);
    };
    const once = () => (stop(), run());
    const timer = setTimeout(once, 100);
    const frame = globalThis.requestAnimationFrame?.(once) ?? 0;
    return stop;
}
/** Messages kept for a socket that is not open. */
const WAITING_MAX = 1_000;
/** A WebSocket of JSON messages as state; it comes back by itself, and is closed with the component. */
export function useWebSocket(url, options = {}) {
    const [isConnected, setIsConnected] = useState(false);
    const [messages, setMessages] = useState([]);
    const socket = useRef(null);
    const waiting = useRef([]);
    const subscriptions = useRef(new Map());
    const number = useRef(0);
    const now = useRef(options);
    now.current = options;
    useEffect(() => {
        let attempt = 0;
        let timer;
        const dial = () => {
            const { WebSocket = globalThis.WebSocket, protocols = [] } = now.current;
            const mine = new WebSocket(new URL(url, globalThis.location?.href.replace(/^http/, 'ws')).href, protocols);
            socket.current = mine;
            mine.onopen = () => {
                attempt = 0;
                setIsConnected(true);
                for (const message of now.current.greeting ?? [])
                    mine.send(JSON.stringify(message));
                for (const [subscriptionId, wanted] of subscriptions.current)
                    mine.send(subscribing(subscriptionId, wanted));
                for (const text of waiting.current.splice(0))
                    mine.send(text);
            };
            mine.onmessage = ({ data }) => {
                let message;
                try {
                    message = JSON.parse(data);
                }
                catch {
                    return;
                }
                setMessages((old) => [...old, message].slice(-(now.current.limit ?? 1_000)));
            };
            mine.onerror = () => { };
            mine.onclose = () => {
                if (socket.current !== mine)
                    return;
                setIsConnected(false);
                const { attempts = 10, delay = 3_000 } = now.current;
                attempt += 1;
                if (attempt <= attempts)
                    timer = setTimeout(dial, typeof delay === 'number' ? delay : delay(attempt));
            };
        };
        setMessages([]);
        dial();
        return () => {
            clearTimeout(timer);
            const last = socket.current;
            socket.current = null;
            setIsConnected(false);
            last?.close(1000);
        };
    }, [url]);
    const send = useCallback((message) => {
        if (socket.current?.readyState !== 1)
            return false;
        socket.current.send(JSON.stringify(message));
        return true;
    }, []);
    const sendMessage = useCallback((message) => {
        if (send(message))
            return;
        if (waiting.current.length >= WAITING_MAX)
            throw new Error(`${WAITING_MAX} messages wait already`);
        waiting.current.push(JSON.stringify(message));
    }, []);
    const subscribe = useCallback((wanted) => {
        const id = `sub-${(number.current += 1)}`;
        subscriptions.current.set(id, wanted);
        if (socket.current?.readyState === 1)
            socket.current.send(subscribing(id, wanted));
        return id;
    }, []);
    const unsubscribe = useCallback((subscriptionId) => {
        if (subscriptions.current.delete(subscriptionId))
            send({ type: 'unsubscribe', data: { subscriptionId } });
    }, []);
    return { isConnected, messages, lastMessage: messages.at(-1) ?? null, sendMessage, send, subscribe, unsubscribe };
}
function subscribing(subscriptionId, wanted) {
    return JSON.stringify({ type: 'subscribe', data: { subscriptionId, ...wanted } });
}
