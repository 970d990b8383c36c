//! The server's metrics: one table of name, type and help. `/metrics`, `/api/stats` and the page read them.
//!
//! Invariant: a counter only grows; a gauge is moved by the owner of the things it counts.

mod exposition;
mod histogram;

pub(crate) use exposition::Exposition;

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use histogram::FastHistogram;

/// The label `kind`: a transport, an error or a message type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
}

/// Returns a histogram of lags, with buckets from `first` up, each four times as wide as the one before.
fn lag(first: f64) -> Histogram {
    Histogram::new(exponential_buckets(first, 4.0, 10))
}

/// Defines the struct of all metrics and its registration from one table: field, type, name, help, and for histograms the
/// buckets.
macro_rules! metrics {
    (@new) => { Default::default() };
    (@new $new:expr) => { $new };
    ($($field:ident: $type:ty, $name:literal, $help:literal $(, $new:expr)?;)*) => {
        /// The metrics of one server, shared by its loops. The table below has each one's name and help.
        pub(crate) struct Metrics {
            registry: Registry,
            $(pub(crate) $field: $type,)*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("fanwire");
                $(
                    let $field: $type = metrics!(@new $($new)?);
                    registry.register($name, $help, Clone::clone(&$field));
                )*
                Self { registry, $($field,)* }.with_zeros()
            }
        }
    };
}

// The exposition has the metrics in this order.
metrics! {
    lag_events: Histogram, "server_lag_events", "Pending events of a lagging connection, sampled once a second", lag(1.0);
    lag_seconds: Histogram, "server_lag_seconds", "Time for which a lagging connection has lagged, sampled once a second", lag(0.01);
    lag_bytes: Histogram, "server_lag_bytes", "Pending bytes of the worst laggards, including the kernel's queue, sampled once a second", lag(1024.0);
    delivery: FastHistogram, "feed_delivery_seconds", "Time from an event's arrival at this node to its write to a client that keeps up; the oldest event of each batch", FastHistogram::new(25, 2, 18, 1e6);
    turn: FastHistogram, "server_loop_turn_seconds", "Duration of the event loops' turns", FastHistogram::new(25, 2, 18, 1e6);
    frame_bytes: FastHistogram, "feed_frame_bytes", "Sizes of the frames encoded", FastHistogram::new(64, 2, 16, 1.0);
    connections: Family<Kind, Gauge>, "server_connections", "Open connections, by transport";
    connections_accepted: Counter, "server_connections_accepted", "Connections accepted";
    connections_refused: Family<Kind, Counter>, "server_connections_refused", "Connections closed at once, by reason";
    requests: Counter, "server_requests", "HTTP requests answered, including upgrades and streams";
    bridged: Counter, "server_bridged", "Messages routed by POST /bridge";
    faults: Family<Kind, Counter>, "server_faults", "Refused input, by fault";
    messages_received: Counter, "server_messages_received", "WebSocket messages received";
    subscriptions: Gauge, "server_subscriptions", "Subscriptions held by clients";
    presence_channels: Gauge, "presence_channels", "Channels with presence that have a user";
    presence_users: Gauge, "presence_users", "Users known by name, counted once per channel";
    presence_joins: Counter, "presence_joins", "Users that joined a channel";
    presence_leaves: Counter, "presence_leaves", "Users that left a channel";
    presence_refused: Counter, "presence_refused", "Clients not known by name in a channel, because a limit was reached";
    feeds: Gauge, "feed_feeds", "Feeds: distinct interests in one encoding, over all loops";
    events_published: Counter, "server_events_published", "Events accepted by POST /publish and from WebSocket clients";
    long_pages: Counter, "server_long_pages", "Pages of past events that a worker makes, because they take longer than a turn of a loop may";
    events_duplicate: Counter, "server_events_duplicate", "Events not published because their Idempotency-Key or dedupe_id was known";
    events_matched: Counter, "feed_events_matched", "Events appended to feeds";
    encodings: Counter, "feed_encodings", "Frames encoded: at most one for each event and encoding";
    deflates: Counter, "feed_deflates", "Frames compressed: at most one for each event and feed, or event and encoding, independent of the number of clients";
    deflate_fresh: Counter, "feed_deflate_fresh_starts", "Compressed frames that restart the window, for clients that joined or skipped";
    deflate_in_bytes: Counter, "feed_deflate_in_bytes", "Bytes of frames before compression";
    deflate_out_bytes: Counter, "feed_deflate_out_bytes", "Bytes of frames after compression";
    deflate_windows: Gauge, "feed_deflate_windows", "Windows held by feeds' compressors, over all loops";
    deliveries: Counter, "feed_deliveries", "Events written to clients' sockets";
    dropped: Counter, "feed_events_dropped", "Events that clients did not get because they lagged or disconnected";
    conflated: Counter, "feed_events_conflated", "Events left out for a later one of the same key, as clients requested";
    grants_ended: Family<Kind, Counter>, "server_grants_ended", "Connections closed because their token expired or was revoked, or a reload changed its rights, by reason";
    merged: Counter, "server_events_merged", "Events merged into a later one of a past, as clients requested (concat)";
    catch_ups: Counter, "server_catch_ups", "Times that a client fell behind and read on from the past, as it requested";
    lag_closed: Counter, "server_lag_closed", "Connections closed because they lagged, as clients requested";
    shed: Family<Kind, Counter>, "server_shed", "Freed for memory, by kind: bytes of feeds, the largest connections and unfinished bodies, stalled clients";
    gaps: Counter, "feed_gaps", "Gap messages sent";
    pasts_incomplete: Family<Kind, Counter>, "server_pasts_incomplete", "Pasts with a gap, because the events were dropped or could not be read, by kind of request";
    snapshot_forgotten: Counter, "server_snapshot_keys_forgotten", "Keys that snapshots dropped for their limit, least recently changed first";
    written_bytes: Counter, "server_written_bytes", "Bytes accepted by clients' sockets";
    writes: Counter, "server_writes", "Write calls on clients' sockets";
    writes_shared: Counter, "server_writes_shared", "Write calls that passed shared pages to the kernel instead of a copy";
    write_blocked: Counter, "server_writes_blocked", "Write calls after which the socket was full";
    ring_bytes: Gauge, "bus_held_bytes", "Bytes of attributes and payloads of the events in the rings";
    event_frame_bytes: Gauge, "bus_frame_bytes", "Bytes of the frames that events in memory keep, in all encodings, of all servers of the process";
    loop_gaps: Counter, "server_loop_missed_events", "Events that a loop missed because the ring lapped it";
    turns: Counter, "server_loop_turns", "Turns of the event loops";
    tls_handshakes: Counter, "server_tls_handshakes", "TLS handshakes, counted at their expensive part: a key exchange and a signature";
    signatures_checked: Counter, "auth_signatures_checked", "Token signatures checked with a public key";
    work_put_off: Counter, "server_work_put_off", "Times that a connection waited for the next turn because the budget of this one was spent";
    dedupe_ids: Gauge, "server_dedupe_ids", "Idempotency keys and dedupe ids that are remembered";
    dedupe_forgotten: Gauge, "server_dedupe_ids_forgotten", "Idempotency keys and dedupe ids that were forgotten before their time, because there were too many";
    kept_logs: Gauge, "server_kept_logs", "Logs that are kept by rule";
    kept_bytes: Gauge, "server_kept_bytes", "Memory of the logs that are kept by rule, in bytes";
    engine_following: Gauge, "engine_following", "1 while the engine's log is being followed";
    engine_appending: Gauge, "engine_appending", "1 while the engine's log accepts events";
    engine_appended: Counter, "engine_events_appended", "Events of this node that the engine's log accepted";
    engine_refused: Counter, "engine_events_refused", "Events refused because the engine's log did not accept them in time";
    engine_followed: Counter, "engine_events_followed", "Events read from the engine's log";
    engine_unreadable: Counter, "engine_entries_unreadable", "Entries of the engine's log that are no events";
    engine_ingested: Counter, "engine_events_ingested", "Events made from other systems' messages";
    engine_ingest_unreadable: Counter, "engine_messages_unreadable", "Messages of other systems that make no event";
    engine_losses: Counter, "engine_connections_lost", "Connections to the engine that were lost";
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

// Kinds that are exposed as 0 before their first count, because a rate needs a zero to start from.
const REFUSED: [&str; 4] = ["draining", "too_many", "address", "no_descriptors"];
const ENDED: [&str; 3] = ["rights_changed", "token_expired", "token_revoked"];
const SHED: [&str; 4] = ["feed_bytes", "connections", "bodies", "stalled"];
const FAULTS: [&str; 3] = ["timeout", "heartbeat_missed", "invalid_event"];
const PASTS: [&str; 6] = ["since", "history", "snapshot", "start", "refill", "catch_up"];

impl Metrics {
    fn with_zeros(self) -> Self {
        let families = [
            (&self.connections_refused, &REFUSED[..]),
            (&self.grants_ended, &ENDED),
            (&self.shed, &SHED),
            (&self.faults, &FAULTS),
            (&self.pasts_incomplete, &PASTS),
        ];
        for (family, kinds) in families {
            for kind in kinds {
                drop(family.get_or_create(&Kind { kind }));
            }
        }
        self
    }

    /// Returns the exposition in this format, with the metrics of other registries after the server's own.
    pub(crate) fn text<'a>(
        &'a self,
        format: Exposition,
        others: impl Iterator<Item = &'a Registry>,
    ) -> String {
        let mut text = String::new();
        // Writing to a string fails only if an encoder fails; the text written before stays.
        for registry in std::iter::once(&self.registry).chain(others) {
            let _ = encode_registry(&mut text, registry);
        }
        let _ = encode_eof(&mut text);
        match format {
            Exposition::OpenMetrics => text,
            Exposition::Prometheus => exposition::to_prometheus(&text),
        }
    }

    /// Counts a fault of this kind.
    pub(crate) fn fault(&self, kind: &'static str) {
        self.faults.get_or_create(&Kind { kind }).inc();
    }
}
