//! The loads: names, and options for `fanwire bench`.

use crate::peers::{APP_PEERS, LOOP_PEERS, PEERS, Peer, TLS_PEERS, TOPIC_PEERS};

/// A load.
pub struct Load {
    pub name: &'static str,
    pub title: &'static str,
    pub args: &'static str,
    /// Whether clients use event streams, which not all servers have.
    sse: bool,
    /// Whether bare loops are measured, too.
    bare: bool,
    /// Whether each client has its own topics.
    pub topics: bool,
    pub peers: &'static [Peer],
}

impl Load {
    /// Returns whether a contestant can take part.
    pub fn takes(&self, peer: &Peer) -> bool {
        (peer.sse || !self.sse) && (self.bare || !peer.is_bare)
    }
}

const WS: Load = Load { name: "", title: "", args: "", sse: false, bare: true, topics: false, peers: PEERS };
const SSE: Load = Load { sse: true, ..WS };
const TOPICS: Load = Load { topics: true, peers: TOPIC_PEERS, ..WS };
const SSE_TOPICS: Load = Load { sse: true, ..TOPICS };
const APP: Load = Load { peers: APP_PEERS, ..WS };
const TLS: Load = Load { peers: TLS_PEERS, ..WS };
const LOOPS: Load = Load { peers: LOOP_PEERS, ..WS };

pub const LOADS: &[Load] = &[
    Load {
        name: "single",
        title: "1,000 clients, 100 single events a second",
        args: "-c 1000 -r 100 -s 3",
        ..WS
    },
    Load {
        name: "burst-100",
        title: "100 clients, 10,000 events a second in bursts of 100",
        args: "-c 100 -r 10000 -b 100 -s 3",
        ..WS
    },
    Load {
        name: "burst-1000",
        title: "1,000 clients, 500 events a second in bursts of 50",
        args: "-c 1000 -r 500 -b 50 -s 3",
        ..WS
    },
    Load {
        name: "saturated",
        title: "1,000 clients, bursts of 50 as fast as they are taken",
        args: "-c 1000 -b 50 --window 4 -s 3",
        ..WS
    },
    Load {
        name: "all-read",
        title: "900 clients that all read, 500 events a second in bursts of 50",
        args: "-c 900 -r 500 -b 50 -s 5",
        bare: false,
        ..WS
    },
    Load {
        name: "some-sleep",
        title: "the same 900, and 100 clients beside them that never read",
        args: "-c 1000 -r 500 -b 50 -s 5 --sleepers 10",
        bare: false,
        ..WS
    },
    Load {
        name: "all-read-single",
        title: "900 clients that all read, 100 single events a second",
        args: "-c 900 -r 100 -s 5",
        bare: false,
        ..WS
    },
    Load {
        name: "some-sleep-single",
        title: "the same 900, and 100 clients beside them that never read",
        args: "-c 1000 -r 100 -s 5 --sleepers 10",
        bare: false,
        ..WS
    },
    Load {
        name: "sse-single",
        title: "SSE: 1,000 clients, 100 single events a second",
        args: "-c 1000 -r 100 -s 3 --transport sse",
        ..SSE
    },
    Load {
        name: "sse-burst-1000",
        title: "SSE: 1,000 clients, 500 events a second in bursts of 50",
        args: "-c 1000 -r 500 -b 50 -s 3 --transport sse",
        ..SSE
    },
    Load {
        name: "sse-saturated",
        title: "SSE: 1,000 clients, bursts of 50 as fast as they are taken",
        args: "-c 1000 -b 50 --window 4 -s 3 --transport sse",
        ..SSE
    },
    Load { name: "idle-1000", title: "1,000 idle connections", args: "-c 1000 -r 1 -s 1", ..WS },
    Load { name: "idle-10000", title: "10,000 idle connections", args: "-c 10000 -r 1 -s 1", ..WS },
    Load { name: "idle-18000", title: "18,000 idle connections", args: "-c 18000 -r 1 -s 1", ..WS },
    Load {
        name: "sse-idle-10000",
        title: "SSE: 10,000 idle connections",
        args: "-c 10000 -r 1 -s 1 --transport sse",
        ..SSE
    },
    Load {
        name: "sse-idle-18000",
        title: "SSE: 18,000 idle connections",
        args: "-c 18000 -r 1 -s 1 --transport sse",
        ..SSE
    },
    Load {
        name: "ingest",
        title: "POSTs of one event, pipelined 64 deep, nobody connected",
        args: "-c 0 --window 64 -s 2",
        bare: false,
        ..WS
    },
    Load {
        name: "ingest-lines",
        title: "POSTs of 1,000 lines, nobody connected",
        args: "-c 0 -b 1000 --window 4 -s 2",
        bare: false,
        ..WS
    },
    Load {
        name: "own",
        title: "Own channel each: 10,000 clients, 5,000 single events a second",
        args: "-c 10000 --filters 10000 --mix channels -r 5000 -s 3",
        ..TOPICS
    },
    Load {
        name: "own-1000",
        title: "Own channel each: 1,000 clients, 2,000 single events a second",
        args: "-c 1000 --filters 1000 --mix channels -r 2000 -s 3",
        ..TOPICS
    },
    Load {
        name: "own-burst",
        title: "Own channel each: 1,000 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --filters 1000 --mix channels -r 5000 -b 50 -s 3",
        ..TOPICS
    },
    Load {
        name: "rooms",
        title: "50 rooms of 20 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --filters 50 --mix channels -r 5000 -b 50 -s 3",
        ..TOPICS
    },
    Load {
        name: "rooms-single",
        title: "50 rooms of 20 clients, 1,000 single events a second",
        args: "-c 1000 --filters 50 --mix channels -r 1000 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-20",
        title: "20 of 1,000 symbols: 1,000 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --watch 20 --mix entities -r 5000 -b 50 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-20-single",
        title: "20 of 1,000 symbols: 1,000 clients, 1,000 single events a second",
        args: "-c 1000 --watch 20 --mix entities -r 1000 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-20-zipf",
        title: "20 of 1,000 symbols by Zipf 1.0: 1,000 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --watch 20 --zipf 1 --mix entities -r 5000 -b 50 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-50",
        title: "50 of 1,000 symbols: 2,000 clients, 2,000 events a second in bursts of 200",
        args: "-c 2000 --watch 50 --mix entities -r 2000 -b 200 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-50-zipf",
        title: "50 of 1,000 symbols by Zipf 1.0: 2,000 clients, 2,000 events a second in bursts of 200",
        args: "-c 2000 --watch 50 --zipf 1 --mix entities -r 2000 -b 200 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-100",
        title: "100 of 1,000 symbols: 500 clients, 5,000 events a second in bursts of 500",
        args: "-c 500 --watch 100 --mix entities -r 5000 -b 500 -s 3",
        ..TOPICS
    },
    Load {
        name: "watch-100-zipf",
        title: "100 of 1,000 symbols by Zipf 1.0: 500 clients, 5,000 events a second in bursts of 500",
        args: "-c 500 --watch 100 --zipf 1 --mix entities -r 5000 -b 500 -s 3",
        ..TOPICS
    },
    Load {
        name: "sse-own-1000",
        title: "SSE, own channel each: 1,000 clients, 2,000 single events a second",
        args: "-c 1000 --filters 1000 --mix channels -r 2000 -s 3 --transport sse",
        ..SSE_TOPICS
    },
    Load {
        name: "sse-rooms",
        title: "SSE, 50 rooms of 20 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --filters 50 --mix channels -r 5000 -b 50 -s 3 --transport sse",
        ..SSE_TOPICS
    },
    Load {
        name: "sse-watch-20",
        title: "SSE, 20 of 1,000 symbols: 1,000 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --watch 20 --mix entities -r 5000 -b 50 -s 3 --transport sse",
        ..SSE_TOPICS
    },
    Load {
        name: "sse-watch-100",
        title: "SSE, 100 of 1,000 symbols: 500 clients, 5,000 events a second in bursts of 500",
        args: "-c 500 --watch 100 --mix entities -r 5000 -b 500 -s 3 --transport sse",
        ..SSE_TOPICS
    },
    Load {
        name: "app-single",
        title: "In an app: 500 clients, 100 single events a second",
        args: "-c 500 -r 100 -s 3",
        ..APP
    },
    Load {
        name: "app-burst",
        title: "In an app: 100 clients, 10,000 events a second in bursts of 100",
        args: "-c 100 -r 10000 -b 100 -s 3",
        ..APP
    },
    Load {
        name: "app-sse-single",
        title: "In an app, SSE: 500 clients, 100 single events a second",
        args: "-c 500 -r 100 -s 3 --transport sse",
        sse: true,
        ..APP
    },
    Load {
        name: "app-sse-burst",
        title: "In an app, SSE: 100 clients, 10,000 events a second in bursts of 100",
        args: "-c 100 -r 10000 -b 100 -s 3 --transport sse",
        sse: true,
        ..APP
    },
    Load {
        name: "tls-single",
        title: "TLS: 1,000 clients, 100 single events a second",
        args: "-c 1000 -r 100 -s 3",
        ..TLS
    },
    Load {
        name: "tls-burst-1000",
        title: "TLS: 1,000 clients, 500 events a second in bursts of 50",
        args: "-c 1000 -r 500 -b 50 -s 3",
        ..TLS
    },
    Load {
        name: "loops-single",
        title: "One loop and two: 500 clients, 100 single events a second",
        args: "-c 500 -r 100 -s 3",
        ..LOOPS
    },
    Load {
        name: "loops-burst",
        title: "One loop and two: 100 clients, 10,000 events a second in bursts of 100",
        args: "-c 100 -r 10000 -b 100 -s 3",
        ..LOOPS
    },
    Load {
        name: "loops-watch-20",
        title: "One loop and two: 20 of 1,000 symbols, 1,000 clients, 5,000 events a second in bursts of 50",
        args: "-c 1000 --watch 20 --mix entities -r 5000 -b 50 -s 3",
        ..LOOPS
    },
    Load {
        name: "idle-own-2000",
        title: "2,000 connections, own channel each, idle",
        args: "-c 2000 --filters 2000 --mix channels -r 1 -s 1",
        ..TOPICS
    },
    Load {
        name: "idle-own-10000",
        title: "10,000 connections, own channel each, idle",
        args: "-c 10000 --filters 10000 --mix channels -r 1 -s 1",
        ..TOPICS
    },
    Load {
        name: "idle-rooms-1000",
        title: "1,000 connections, rooms of 20, idle",
        args: "-c 1000 --filters 50 --mix channels -r 1 -s 1",
        ..TOPICS
    },
    Load {
        name: "idle-rooms-4000",
        title: "4,000 connections, rooms of 20, idle",
        args: "-c 4000 --filters 200 --mix channels -r 1 -s 1",
        ..TOPICS
    },
    Load {
        name: "idle-watch-100-500",
        title: "500 connections, 100 of 1,000 symbols, idle",
        args: "-c 500 --watch 100 --mix entities -r 1 -s 1",
        ..TOPICS
    },
    Load {
        name: "idle-watch-100-2500",
        title: "2,500 connections, 100 of 1,000 symbols, idle",
        args: "-c 2500 --watch 100 --mix entities -r 1 -s 1",
        ..TOPICS
    },
];

/// Pairs of idle loads with two sizes. The slope between them is the memory of a connection.
pub const SLOPES: &[(&str, &str, &str)] = &[
    ("own channel each, 2,000 to 10,000", "idle-own-2000", "idle-own-10000"),
    ("rooms of 20, 1,000 to 4,000", "idle-rooms-1000", "idle-rooms-4000"),
    ("100 of 1,000 symbols, 500 to 2,500", "idle-watch-100-500", "idle-watch-100-2500"),
];
