//! The table of all settings, from which flags, environment variables, TOML keys, defaults and docs are derived.
//!
//! Invariant: one name has three spellings. The key `drain.timeout` is the flag `--drain-timeout` and the variable
//! `FANWIRE_DRAIN_TIMEOUT`.
//!
//! To add a setting: add a field with its default to the settings of its subsystem, and one line here, below the
//! heading where a reader looks for it. `LIVE` if a running server takes a new value at SIGHUP, `FIXED` otherwise.
//! Then `FANWIRE_BLESS=1 cargo test --lib config::` writes docs/configuration.md.

use super::retain::rules;
use super::settings::{Config, LogFormat};
use super::value::{
    SECRET_KIND, Setting, byte_limit_not_zero, bytes, count, file, limit, limit_not_zero, list, one_of,
    secret, switch, text, time,
};
use crate::engine::{EngineError, check_url};
use crate::event::Attribute;
use crate::filter::Filter;
#[cfg(feature = "auth")]
use crate::server::auth::Template;
use crate::server::{ParseAddressRangeError, Preset};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Whether a running server takes a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Live,
    Fixed,
}
use When::{Fixed as FIXED, Live as LIVE};

pub(super) type Lens = for<'a> fn(&'a mut Config) -> Box<dyn Setting + 'a>;

/// Setting with its key.
#[derive(Clone, Copy)]
pub(super) struct KeyRow {
    pub(super) path: &'static str,
    pub(super) when: When,
    pub(super) help: &'static str,
    pub(super) lens: Lens,
}

const fn row(path: &'static str, when: When, help: &'static str, lens: Lens) -> KeyRow {
    KeyRow { path, when, help, lens }
}

/// Settings under one heading.
pub(super) struct KeyGroup {
    pub(super) heading: &'static str,
    pub(super) rows: &'static [KeyRow],
}

/// All settings. Keys without a dot come first, so that the printed defaults are one TOML file.
#[rustfmt::skip]
pub(super) const GROUPS: &[KeyGroup] = &[
    KeyGroup { heading: "Serving", rows: &[
        row("listen", FIXED, "Address and port to listen on; port 0 takes a free one",
            |c| text(&mut c.listen, "ADDR:PORT", address)),
        row("loops", FIXED, "Threads that serve connections",
            |c| count(&mut c.loops, 1..=256)),
        row("dialect", LIVE, "Systems to serve at the paths that their clients use: native, fcc, agentos, hive, autosdlc, gathering",
            |c| list(&mut c.server.presets, "NAMES", preset, |s| s.name().to_owned())),
        row("endpoint", LIVE, "Further paths at which a dialect is served, such as /stream=hive; in the file also [[endpoint]] with path and dialect",
            |c| list(&mut c.server.endpoints, "PATH=DIALECT", str::parse, ToString::to_string)),
        row("cors_origin", LIVE, "Origins of pages elsewhere that may read responses; `*` allows any",
            |c| list(&mut c.server.cors_origins, "ORIGIN", origin, Clone::clone)),
        row("allowed_origin", LIVE, "Origins of pages that may open streams and publish, in addition to the server's own; others get 403; `*` allows any. None = any with authentication, otherwise loopback origins and those in cors_origin",
            |c| list(&mut c.server.allowed_origins, "ORIGIN", origin, Clone::clone)),
        row("allowed_host", LIVE, "Names in Host that are served on a loopback address without authentication and trusted_proxy, in addition to localhost, addresses and hosts of allowed origins: events.example.com, *.example.com, or * for any; others get 403",
            |c| list(&mut c.server.allowed_hosts, "HOST", host, Clone::clone)),
        row("compression", LIVE, "Whether clients that support it get compressed bytes: permessage-deflate on WebSockets, gzip on event streams",
            |c| switch(&mut c.server.compression)),
        row("insecure", FIXED, "Serve other machines though there is no authentication",
            |c| switch(&mut c.server.insecure)),
        row("demo", FIXED, "Publish a made-up run of agents, to see something at once",
            |c| switch(&mut c.demo)),
        row("demo_rate", FIXED, "Events per second of the demo",
            |c| count(&mut c.demo_rate, 1..=100_000)),
    ]},
    KeyGroup { heading: "Engine: where order and history live for several nodes", rows: &[
        row("engine", FIXED, "Address of the log that nodes share: redis://HOST:PORT or nats://HOST:PORT (several separated by commas), or file://FOLDER for this node alone; none = memory",
            |c| text(&mut c.engine.url, SECRET_KIND, check_url)),
        row("engine_name", FIXED, "Prefix of the log's keys or streams; nodes with the same name share one log",
            |c| text(&mut c.engine.name, "NAME", |_| Ok(()))),
        row("engine_history", FIXED, "Approximate number of events that the log keeps of each shard",
            |c| count(&mut c.engine.history, 1..=1_000_000_000)),
        row("engine_max_waiting_events", FIXED, "Events that may wait for the log; beyond, publishers are refused",
            |c| count(&mut c.engine.max_waiting_events, 1..=100_000_000)),
        row("engine_max_waiting_bytes", FIXED, "Bytes of events that may wait for the log; beyond, publishers are refused",
            |c| bytes(&mut c.engine.max_waiting_bytes, 0..=64 * TIB)),
        row("engine_accept_timeout", FIXED, "How long a publisher may wait for the log before it is refused",
            |c| time(&mut c.engine.accept_timeout, 1..=HOUR)),
        row("engine_tls_ca_file", FIXED, "For rediss:// and tls://: PEM file with the certificates of authorities to trust; none = the system's authorities",
            |c| text(&mut c.engine.tls_ca_file, "FILE", |_| Ok(()))),
        row("engine_replicas", FIXED, "For nats://: number of servers that keep each event, read when the streams are created",
            |c| count(&mut c.engine.replicas, 1..=5)),
        row("engine_by_interest", FIXED, "For nats:// without JetStream: subscribe only to events that this node's clients want",
            |c| switch(&mut c.engine.by_interest)),
        row("engine_interest_linger", FIXED, "How long to stay subscribed for a client that has left, so that it misses nothing if it returns",
            |c| time(&mut c.engine.interest_linger, 0..=HOUR)),
        row("engine_sync_interval", FIXED, "For file://: how often writes are synchronized to disk, safe from a crash of the machine; 0 = before each publisher has its answer",
            |c| time(&mut c.engine.sync_interval, 0..=HOUR)),
        row("engine_max_bytes", FIXED, "For file://: approximate maximum size of all files together",
            |c| bytes(&mut c.engine.max_bytes, MIB..=TIB)),
    ]},
    KeyGroup { heading: "Kept streams (docs/runs.md)", rows: &[
        row("retain", LIVE, "Rules: which events are kept, by which attribute, and how much of each log; in the file [[retain]] with match, by, events, bytes, for and end",
            |c| rules(&mut c.server.retain.rules)),
        row("retain_max_logs", LIVE, "Maximum number of logs of all rules together; beyond it, the least recently written one is evicted",
            |c| count(&mut c.server.retain.max_logs, 1..=10_000_000)),
        row("retain_max_bytes", LIVE, "Maximum memory of all logs together; beyond it, the least recently written one is evicted",
            |c| bytes(&mut c.server.retain.max_bytes, MIB..=TIB)),
        row("retain_max_logs_read", LIVE, "Logs that one request may read from the start; over it an error",
            |c| count(&mut c.server.retain.max_logs_read, 1..=10_000)),
        row("retain_read_timeout", LIVE, "With an engine, longest time for reading its log at start to make kept logs again; what is not read then is missing from them",
            |c| time(&mut c.server.retain.read_timeout, 1..=HOUR)),
    ]},
    KeyGroup { heading: "Ingest: other systems' publishers", rows: &[
        row("ingest", FIXED, "Channels to publish here: redis://HOST:PORT#CHANNEL (* matches any text) or nats://HOST:PORT#SUBJECT",
            |c| list(&mut c.ingest, "URL#CHANNEL", |text| text.parse().map_err(|e: EngineError| e.to_string()), ToString::to_string)),
    ]},
    KeyGroup { heading: "Limits", rows: &[
        row("max_message_bytes", LIVE, "Longest message of a WebSocket client; over it close code 1009",
            |c| bytes(&mut c.server.max_message_bytes, 128..=GIB)),
        row("max_body_bytes", LIVE, "Longest body of a request; over it 413",
            |c| bytes(&mut c.server.max_body_bytes, 128..=GIB)),
        row("max_batch_events", LIVE, "Events in one request to publish, which are accepted together or not at all; over it 413",
            |c| count(&mut c.server.max_batch_events, 1..=10_000_000)),
        row("max_head_bytes", LIVE, "Longest head of a request; over it 431",
            |c| bytes(&mut c.server.max_head_bytes, 512..=MIB)),
        row("max_connections", LIVE, "Open connections; over it new ones are closed at once",
            |c| count(&mut c.server.max_connections, 1..=100_000_000)),
        row("accept_rate", LIVE, "Connections accepted per second, while the kernel holds the others; none = as they come",
            |c| limit_not_zero(&mut c.server.accept_rate, 1..=10_000_000)),
        row("max_subscriptions", LIVE, "Subscriptions of one client; over it an error",
            |c| count(&mut c.server.max_subscriptions, 1..=1_000_000)),
        row("max_subscription_values", LIVE, "Values, and segments of patterns, in all subscriptions of one client together (a ** counts 16); over it an error",
            |c| count(&mut c.server.max_subscription_values, 1..=100_000_000)),
        row("max_memory_bytes", LIVE, "Bytes held for all clients together, of whatever kind; over it, feeds drop their past and the clients that hold the most are closed; none = no budget",
            |c| byte_limit_not_zero(&mut c.server.max_memory_bytes, 1..=64 * TIB)),
    ]},
    KeyGroup { heading: "Lag: clients that are slower than their events", rows: &[
        row("max_lag_events", LIVE, "Events a client may fall behind before it gets a gap",
            |c| count(&mut c.server.max_lag_events, 1..=100_000_000)),
        row("max_lag_bytes", LIVE, "Bytes a client may fall behind before it gets a gap",
            |c| bytes(&mut c.server.max_lag_bytes, KIB..=TIB)),
        row("max_conflate_keys", LIVE, "Keys of which the latest event is kept for `on_lag=conflate`",
            |c| count(&mut c.server.max_conflate_keys, 1..=100_000_000)),
        row("max_snapshot_keys", FIXED, "Keys of which the latest event is kept for `snapshot`",
            |c| count(&mut c.server.max_snapshot_keys, 1..=100_000_000)),
        row("conflate_key", FIXED, "Attributes that make two events be about the same thing; none = type and entity if there is one, otherwise type and stream",
            |c| list(&mut c.server.conflate_key, "NAMES", attribute, |a| a.name().to_owned())),
        row("write_budget_bytes", LIVE, "Bytes written to one connection before the next has its turn",
            |c| bytes(&mut c.server.write_budget_bytes, KIB..=GIB)),
        row("share_pages_bytes", LIVE, "Minimum size of a write to eight clients or more that shares its memory pages instead of a copy for each (Linux, no TLS); none = never",
            |c| byte_limit_not_zero(&mut c.server.share_pages_bytes, 1..=GIB)),
    ]},
    KeyGroup { heading: "Times", rows: &[
        row("handshake_timeout", LIVE, "How long the head of a request may take to arrive",
            |c| time(&mut c.server.handshake_timeout, 1..=HOUR)),
        row("body_timeout", LIVE, "How long the body of a request may take to arrive",
            |c| time(&mut c.server.body_timeout, 1..=DAY)),
        row("keep_alive", LIVE, "How long a connection may wait for its next request",
            |c| time(&mut c.server.keep_alive, 1..=DAY)),
        row("heartbeat", LIVE, "How often a quiet client is pinged; closed after two unanswered",
            |c| time(&mut c.server.heartbeat, 1..=DAY)),
        row("flush_interval", LIVE, "How long an event may be held back after another one, so that more of them go in one write; 0 = not at all",
            |c| time(&mut c.server.flush_interval, 0..=MINUTE)),
        row("retry", LIVE, "Time that SSE clients are asked to wait before they reconnect",
            |c| time(&mut c.server.retry, 0..=DAY)),
    ]},
    KeyGroup { heading: "Compression: once for each feed", rows: &[
        row("deflate.max_windows", LIVE, "Windows that feeds' compressors may hold in each loop, about 330 KB each; further feeds deflate each event by itself",
            |c| count(&mut c.server.max_deflate_windows, 0..=100_000)),
        row("deflate.level", LIVE, "Effort, for windows that open from now on: 1 takes about 0.5 µs for a small event, 6 about 8 µs, for a third fewer bytes",
            |c| count(&mut c.server.deflate_level, 1..=9)),
        row("deflate.min_bytes", LIVE, "Shortest WebSocket message that is deflated with the previous messages as its context",
            |c| bytes(&mut c.server.deflate_min_bytes, 0..=GIB)),
        row("deflate.alone_min_bytes", LIVE, "Shortest WebSocket message that is deflated by itself, for clients that demand it",
            |c| bytes(&mut c.server.deflate_alone_min_bytes, 0..=GIB)),
    ]},
    KeyGroup { heading: "Authentication (docs/auth.md)", rows: &[
        row("auth.api_keys_file", LIVE, "File with one line of JSON for each API key, as `fanwire token --api-key` prints it",
            |c| file(&mut c.server.auth.api_keys_file)),
        row("auth.revoked_file", LIVE, "File with one line of JSON for each revoked token or subject",
            |c| file(&mut c.server.auth.revoked_file)),
        row("auth.cookie", LIVE, "Cookie that may hold a token",
            |c| text(&mut c.server.auth.cookie, "NAME", |_| Ok(()))),
        row("auth.max_token_bytes", LIVE, "Longer tokens are refused unread",
            |c| bytes(&mut c.server.auth.max_token_bytes, 64..=MIB)),
        row("auth.ticket_ttl", LIVE, "How long a ticket of POST /ticket is valid",
            |c| time(&mut c.server.auth.ticket_ttl, SECOND..=HOUR)),
        row("auth.max_tickets", LIVE, "Unused tickets; over it 503, and over a tenth of it for one subject 429",
            |c| count(&mut c.server.auth.max_tickets, 1..=100_000_000)),
        row("auth.max_revocations", LIVE, "Revocations kept from POST /api/revoke; over it 507",
            |c| count(&mut c.server.auth.max_revocations, 1..=100_000_000)),
        row("auth.jwt.hs256_secret", LIVE, "Secret of HS256 tokens, 32 random bytes or more",
            |c| secret(&mut c.server.auth.jwt.hs256_secret)),
        row("auth.jwt.hs384_secret", LIVE, "Secret of HS384 tokens",
            |c| secret(&mut c.server.auth.jwt.hs384_secret)),
        row("auth.jwt.hs512_secret", LIVE, "Secret of HS512 tokens",
            |c| secret(&mut c.server.auth.jwt.hs512_secret)),
        row("auth.jwt.public_key_file", LIVE, "Public key in PEM: RSA (RS256), P-256 (ES256), P-384 (ES384) or Ed25519 (EdDSA)",
            |c| file(&mut c.server.auth.jwt.public_key_file)),
        row("auth.jwt.jwks_file", LIVE, "JSON Web Key Set",
            |c| file(&mut c.server.auth.jwt.jwks_file)),
        row("auth.jwt.audience", LIVE, "Values of which a token's `aud` must be one; none = it must have no `aud`",
            |c| list(&mut c.server.auth.jwt.audience, "NAME", any, Clone::clone)),
        row("auth.jwt.issuer", LIVE, "Values of which a token's `iss` must be one; none = any",
            |c| list(&mut c.server.auth.jwt.issuer, "NAME", any, Clone::clone)),
        row("auth.jwt.leeway", LIVE, "How far clocks may differ, for `exp` and `nbf`",
            |c| time(&mut c.server.auth.jwt.leeway, 0..=HOUR)),
        row("auth.jwt.require_exp", LIVE, "Refuse tokens that never expire",
            |c| switch(&mut c.server.auth.jwt.require_exp)),
        row("auth.grant.channels", LIVE, "Channels that every token may see in addition to its own, as user:{sub}: the claim `sub` or `jti` is inserted literally",
            |c| list(&mut c.server.auth.grant.channels, "TEMPLATE", template, Clone::clone)),
        row("auth.anonymous.streams", LIVE, "Streams that clients without a token may see; `*` is everything",
            |c| list(&mut c.server.auth.anonymous.streams, "PATTERN", any, Clone::clone)),
        row("auth.anonymous.types", LIVE, "Types that clients without a token may see",
            |c| list(&mut c.server.auth.anonymous.types, "PATTERN", any, Clone::clone)),
        row("auth.anonymous.channels", LIVE, "Channels that clients without a token may see",
            |c| list(&mut c.server.auth.anonymous.channels, "PATTERN", any, Clone::clone)),
        row("auth.anonymous.entities", LIVE, "Entities that clients without a token may see, as kind:id",
            |c| list(&mut c.server.auth.anonymous.entities, "PATTERN", any, Clone::clone)),
        row("auth.anonymous.filter", LIVE, "Filter that events must also match for clients without a token",
            |c| text(&mut c.server.auth.anonymous.filter, "FILTER", filter)),
        row("auth.anonymous.publish", LIVE, "Types that clients without a token may publish; `*` is every type",
            |c| list(&mut c.server.auth.anonymous.publish, "PATTERN", any, Clone::clone)),
        row("auth.anonymous.purge", LIVE, "Let clients without a token purge kept logs that they may see whole",
            |c| switch(&mut c.server.auth.anonymous.purge)),
    ]},
    KeyGroup { heading: "Presence: users in a channel (docs/presence.md)", rows: &[
        row("presence.channels", LIVE, "Channels with presence, such as lobby, room.* or **; none = presence is off",
            |c| list(&mut c.server.presence.channels, "PATTERN", any, Clone::clone)),
        row("presence.grace", LIVE, "How long a user may be disconnected before they count as gone; 0 = not at all",
            |c| time(&mut c.server.presence.grace, 0..=HOUR)),
        row("presence.max_channels", LIVE, "Channels with users; further channels have no presence",
            |c| count(&mut c.server.presence.max_channels, 1..=10_000_000)),
        row("presence.max_channels_per_user", LIVE, "Channels of one user or one connection; in further channels it is not present",
            |c| count(&mut c.server.presence.max_channels_per_user, 1..=1_000_000)),
        row("presence.max_members", LIVE, "Users listed by name in one channel; further users are only counted",
            |c| count(&mut c.server.presence.max_members, 1..=1_000_000)),
    ]},
    KeyGroup { heading: "Dedupe: publications that are accepted once (docs/publishing.md)", rows: &[
        row("dedupe.window", LIVE, "How long an Idempotency-Key or a dedupe_id is remembered, so that a second one is not published again",
            |c| time(&mut c.server.dedupe.window, SECOND..=DAY)),
        row("dedupe.max_ids", LIVE, "Keys and ids that are remembered; over it the oldest are forgotten before their time",
            |c| count(&mut c.server.dedupe.max_ids, 1..=100_000_000)),
    ]},
    KeyGroup { heading: "Rates: limits on requests of a client", rows: &[
        row("limits.window", LIVE, "Window of time to which the numbers below apply",
            |c| time(&mut c.server.limits.window, SECOND..=DAY)),
        row("limits.messages", LIVE, "Messages of each type from one WebSocket client; none = as its dialect's document says",
            |c| limit(&mut c.server.limits.messages, 0..=1_000_000_000)),
        row("limits.message_kinds", LIVE, "Other numbers for some types, such as subscribe=50",
            |c| list(&mut c.server.limits.message_kinds, "TYPE=N", message_kind, |(name, max)| format!("{name}={max}"))),
        row("limits.refused_messages", LIVE, "Messages over a limit after which the client is closed",
            |c| count(&mut c.server.limits.refused_messages, 0..=1_000_000_000)),
        row("limits.publishes", LIVE, "Requests to /publish from one client, by its token's subject or its address; over it 429",
            |c| limit(&mut c.server.limits.publishes, 1..=1_000_000_000)),
        row("limits.connections_per_address", LIVE, "Open connections from one address, for IPv6 from one /64",
            |c| limit(&mut c.server.limits.connections_per_address, 1..=100_000_000)),
        row("limits.trusted_proxy", LIVE, "Proxies, such as 10.0.0.0/8, that are trusted to state client addresses in X-Forwarded-For; none = the socket's address counts",
            |c| list(&mut c.server.trusted_proxies, "ADDRESS", |text| text.parse().map_err(|e: ParseAddressRangeError| e.to_string()), ToString::to_string)),
    ]},
    KeyGroup { heading: "Bridge: handlers of other protocols' messages (docs/bridge.md)", rows: &[
        row("bridge.threads", LIVE, "Threads that run one protocol's handler at the same time",
            |c| count(&mut c.server.bridge.threads, 1..=1024)),
        row("bridge.max_waiting", LIVE, "Messages of one protocol that wait for a thread; over it 503",
            |c| count(&mut c.server.bridge.max_waiting, 1..=1_000_000)),
        row("bridge.answer_timeout", LIVE, "How long a client waits for a handler's answer; over it 504",
            |c| time(&mut c.server.bridge.answer_timeout, 1..=DAY)),
    ]},
    KeyGroup { heading: "Bus", rows: &[
        row("bus.shards", FIXED, "Rings; events with the same stream, or without one the same source, stay in order in one ring",
            |c| count(&mut c.bus.shards, 1..=1024)),
        row("bus.capacity", FIXED, "Events that each ring keeps, which is the history for replays: a power of two",
            |c| count(&mut c.bus.capacity, 1..=1 << 24)),
        row("bus.max_bytes", FIXED, "Size of attributes and payloads in all rings together; over it the oldest events are dropped early; none = no bound",
            |c| byte_limit_not_zero(&mut c.bus.max_bytes, 1..=64 * TIB)),
    ]},
    #[cfg(feature = "tls")]
    KeyGroup { heading: "TLS: https:// and wss:// instead of http:// and ws://", rows: &[
        row("tls.cert_file", LIVE, "Certificate with its intermediate certificates, PEM; read again at SIGHUP",
            |c| file(&mut c.server.tls.cert_file)),
        row("tls.key_file", LIVE, "The certificate's private key, PEM; read again at SIGHUP",
            |c| file(&mut c.server.tls.key_file)),
        row("tls.min_version", LIVE, "Oldest supported version of TLS",
            |c| one_of(&mut c.server.tls.only_1_3, &[("1.2", false), ("1.3", true)])),
    ]},
    #[cfg(feature = "schema")]
    KeyGroup { heading: "Schemas for payloads", rows: &[
        row("schemas.dir", LIVE, "Folder of JSON Schemas for published payloads: task.progress.json, or task.*.json for a pattern",
            |c| file(&mut c.server.schemas.dir)),
        row("schemas.unknown", LIVE, "Reaction to events of a type without a schema",
            |c| one_of(&mut c.server.schemas.refuse_unknown, &[("allow", false), ("refuse", true)])),
        #[cfg(feature = "dialects")]
        row("schemas.autosdlc", LIVE, "Whether AutoSDLC's clients, and events of its types, must match its document's schemas",
            |c| switch(&mut c.server.schemas.autosdlc)),
    ]},
    KeyGroup { heading: "Shutdown", rows: &[
        row("drain.delay", LIVE, "How long new clients are still accepted after readiness ends, when the server shuts down; then it drains",
            |c| time(&mut c.drain_delay, 0..=HOUR)),
        row("drain.window", LIVE, "Time over which streams are closed at shutdown, in random order; 0 = all at once",
            |c| time(&mut c.server.drain_window, 0..=HOUR)),
        row("drain.return_rate", LIVE, "Clients per second that reconnect after that, each at its own time",
            |c| count(&mut c.server.drain_return_rate, 1..=10_000_000)),
        row("drain.timeout", LIVE, "How long clients may take their pending bytes at shutdown",
            |c| time(&mut c.drain_timeout, 1..=DAY)),
    ]},
    KeyGroup { heading: "Log", rows: &[
        row("log.level", LIVE, "Log level: off, error, warn, info, debug, trace, or directives such as info,fanwire=debug",
            |c| text(&mut c.log_level, "LEVEL", directives)),
        row("log.format", FIXED, "Format of log lines",
            |c| one_of(&mut c.log_format, &[("text", LogFormat::Text), ("json", LogFormat::Json)])),
        #[cfg(feature = "dialects")]
        row("log.message_types", LIVE, "Types of AutoSDLC messages in the log of the target fanwire::messages; none = all",
            |c| list(&mut c.server.message_log.types, "TYPE", any, Clone::clone)),
        #[cfg(feature = "dialects")]
        row("log.message_types_except", LIVE, "Types of AutoSDLC messages to leave out of it",
            |c| list(&mut c.server.message_log.except, "TYPE", any, Clone::clone)),
    ]},
];

fn address(text: &str) -> Result<(), String> {
    let port = text.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    match port.map(str::parse::<u16>) {
        Some(Ok(_)) => Ok(()),
        _ => {
            Err("expected ADDRESS:PORT of this machine, as 127.0.0.1:8765, 0.0.0.0:8765 or [::1]:8765"
                .to_owned())
        }
    }
}

fn origin(text: &str) -> Result<String, String> {
    let is_port = |port: &str| port.contains(']') || port.parse::<u16>().is_ok();
    let is_origin = text.split_once("://").is_some_and(|(_, host)| {
        !host.is_empty()
            && !host.contains(['/', ' ', '@', '?', '#', '*'])
            && host.rsplit_once(':').is_none_or(|(name, port)| !name.is_empty() && is_port(port))
    });
    if text == "*" || text == "null" || is_origin {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no origin: as https://example.com, without a path, or *"))
    }
}

fn host(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_v6 = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if text == "*" || is_name || is_v6.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is no host: as events.example.com, without scheme and port, *.example.com, or *"
        ))
    }
}

fn preset(text: &str) -> Result<Preset, String> {
    text.trim().parse()
}

fn attribute(text: &str) -> Result<Attribute, String> {
    let names = || Attribute::ALL.map(Attribute::name).join(", ");
    Attribute::ALL
        .into_iter()
        .find(|attribute| attribute.name() == text.trim())
        .ok_or_else(|| format!("`{text}` is no attribute: {}", names()))
}

/// Accepts any text except the empty one, which would stand for an absent claim in a token.
fn any(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a text".to_owned()) } else { Ok(text.to_owned()) }
}

fn message_kind(text: &str) -> Result<(String, u32), String> {
    text.split_once('=')
        .and_then(|(name, max)| Some((name.trim().to_owned(), max.trim().parse().ok()?)))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("`{text}` is not a type and a number, such as subscribe=50"))
}

fn filter(text: &str) -> Result<(), String> {
    text.parse::<Filter>().map(drop).map_err(|error| error.to_string())
}

#[cfg(feature = "auth")]
fn template(text: &str) -> Result<String, String> {
    Template::parse(text).map(|template| template.text().to_owned())
}

fn directives(text: &str) -> Result<(), String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !levels.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(format!(
                "`{level}` is no level: use {}, or directives such as info,fanwire=debug",
                levels.join(", ")
            ));
        }
    }
    Ok(())
}

pub(super) fn rows() -> impl Iterator<Item = &'static KeyRow> {
    GROUPS.iter().flat_map(|group| group.rows)
}

pub(super) fn find(path: &str) -> Option<&'static KeyRow> {
    rows().find(|row| row.path == path)
}

/// Returns the key that was probably meant.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    let last = |path: &'_ str| path.rsplit('.').next().unwrap_or_default().to_owned();
    // A key with this name exists in another section.
    if let Some(row) = rows().find(|row| last(row.path) == last(path)) {
        return Some(row.path);
    }
    let distance = |row: &&KeyRow| strsim::damerau_levenshtein(row.path, path);
    rows().min_by_key(distance).filter(|row| distance(row) <= 1 + path.len() / 4).map(|row| row.path)
}
