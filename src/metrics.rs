//! Every counter of the server, once: name, unit, help, labels. `/metrics`, `/api/stats` and the page read these.
//!
//! Imports `sync`. Always: a counter only grows; a gauge is moved by whoever owns what it counts.

mod autosdlc;
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

/// One label, `kind`: which transport, error or message it was.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
}

/// The counters of one server, shared by its loops.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) connections: Family<Kind, Gauge>,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Family<Kind, Counter>,
    pub(crate) requests: Counter,
    pub(crate) bridged: Counter,
    pub(crate) faults: Family<Kind, Counter>,
    pub(crate) messages_received: Counter,
    pub(crate) subscriptions: Gauge,
    pub(crate) presence_channels: Gauge,
    pub(crate) presence_users: Gauge,
    pub(crate) presence_joins: Counter,
    pub(crate) presence_leaves: Counter,
    pub(crate) presence_refused: Counter,
    pub(crate) feeds: Gauge,
    pub(crate) events_published: Counter,
    pub(crate) events_matched: Counter,
    pub(crate) encodings: Counter,
    pub(crate) deflates: Counter,
    pub(crate) deflate_fresh: Counter,
    pub(crate) deflate_in_bytes: Counter,
    pub(crate) deflate_out_bytes: Counter,
    pub(crate) deflate_windows: Gauge,
    pub(crate) deliveries: Counter,
    pub(crate) dropped: Counter,
    pub(crate) conflated: Counter,
    pub(crate) grants_ended: Family<Kind, Counter>,
    pub(crate) lag_closed: Counter,
    pub(crate) lag_events: Histogram,
    pub(crate) lag_seconds: Histogram,
    pub(crate) lag_bytes: Histogram,
    pub(crate) delivery: histogram::Histogram,
    pub(crate) turn: histogram::Histogram,
    pub(crate) frame_bytes: histogram::Histogram,
    pub(crate) shed: Family<Kind, Counter>,
    pub(crate) gaps: Counter,
    pub(crate) pasts_incomplete: Family<Kind, Counter>,
    pub(crate) snapshot_forgotten: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) writes: Counter,
    pub(crate) write_blocked: Counter,
    pub(crate) writes_shared: Counter,
    pub(crate) ring_bytes: Gauge,
    pub(crate) loop_gaps: Counter,
    pub(crate) turns: Counter,
    pub(crate) tls_handshakes: Counter,
    pub(crate) signatures_checked: Counter,
    pub(crate) work_put_off: Counter,
    /// AutoSDLC's own names.
    pub(crate) websocket: autosdlc::Websocket,
    pub(crate) engine_following: Gauge,
    pub(crate) engine_appending: Gauge,
    pub(crate) engine_appended: Counter,
    pub(crate) engine_refused: Counter,
    pub(crate) engine_followed: Counter,
    pub(crate) engine_unreadable: Counter,
    pub(crate) engine_losses: Counter,
    pub(crate) engine_ingested: Counter,
    pub(crate) engine_ingest_unreadable: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Puts a metric into the registry under its name.
fn registered<M: prometheus_client::registry::Metric + Clone>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("fanwire");
        let mut lag = |name, help, first| {
            registered(&mut registry, name, help, Histogram::new(exponential_buckets(first, 4.0, 10)))
        };
        let lag_events = lag(
            "server_lag_events",
            "Events that a lagging connection is behind, looked at once a second",
            1.0,
        );
        let lag_seconds = lag(
            "server_lag_seconds",
            "For how long a lagging connection has lagged, looked at once a second",
            0.01,
        );
        let lag_bytes = lag(
            "server_lag_bytes",
            "Bytes that the worst laggards are behind, the kernel's part included, looked at once a second",
            1024.0,
        );
        let mut quick = |name, help, first, factor, count, scale| {
            let histogram = histogram::Histogram::new(first, factor, count, scale);
            registered(&mut registry, name, help, histogram)
        };
        let delivery = quick(
            "feed_delivery_seconds",
            "From when this node had an event to when it was written to a client that keeps up; of each batch, by its oldest event",
            25,
            2,
            18,
            1e6,
        );
        let turn =
            quick("server_loop_turn_seconds", "How long the turns of the event loops take", 25, 2, 18, 1e6);
        let frame_bytes = quick("feed_frame_bytes", "Sizes of the frames encoded", 64, 2, 16, 1.0);
        macro_rules! register {
            ($($name:ident: $label:literal, $help:literal;)*) => {{
                $(let $name = Default::default(); registry.register($label, $help, Clone::clone(&$name));)*
                let websocket = autosdlc::Websocket::default();
                Self { $($name,)* lag_events, lag_seconds, lag_bytes, delivery, turn, frame_bytes, registry, websocket }
                    .with_zeros()
            }};
        }
        register! {
            connections: "server_connections", "Open connections, by what they speak";
            connections_accepted: "server_connections_accepted", "Connections accepted";
            connections_refused: "server_connections_refused", "Connections closed at once, by why";
            requests: "server_requests", "HTTP requests answered, upgrades and streams among them";
            bridged: "server_bridged", "Messages routed by POST /bridge";
            faults: "server_faults", "Input refused, by what was wrong with it";
            messages_received: "server_messages_received", "WebSocket messages received";
            subscriptions: "server_subscriptions", "Subscriptions held by clients";
            presence_channels: "presence_channels", "Channels with presence in which somebody is";
            presence_users: "presence_users", "Users that are known by name, once for each channel that they are in";
            presence_joins: "presence_joins", "Users that came into a channel";
            presence_leaves: "presence_leaves", "Users that left a channel";
            presence_refused: "presence_refused", "Clients that are not known by name where they are, because there were too many";
            feeds: "feed_feeds", "Feeds: distinct interests in one encoding, over all loops";
            events_published: "server_events_published", "Events taken by POST /publish and from WebSocket clients";
            events_matched: "feed_events_matched", "Events appended to feeds";
            encodings: "feed_encodings", "Frames encoded: at most one for each event and encoding";
            deflates: "feed_deflates", "Frames compressed: at most one for each event and feed, or event and encoding, whatever their clients";
            deflate_fresh: "feed_deflate_fresh_starts", "Compressed frames that forget what went before, for clients that joined or skipped";
            deflate_in_bytes: "feed_deflate_in_bytes", "Bytes of frames before they were compressed";
            deflate_out_bytes: "feed_deflate_out_bytes", "Bytes of frames after they were compressed";
            deflate_windows: "feed_deflate_windows", "Windows held by feeds' compressors, over all loops";
            deliveries: "feed_deliveries", "Events written to clients' sockets";
            dropped: "feed_events_dropped", "Events that clients did not get because they lagged, or went";
            conflated: "feed_events_conflated", "Events left out for a later one of the same key, as clients asked for";
            grants_ended: "server_grants_ended", "Connections closed because their token's time was up or it was revoked, by which";
            lag_closed: "server_lag_closed", "Connections closed because they lagged, as clients asked for";
            shed: "server_shed", "What was let go for memory, by what: bytes of feeds, connections and unfinished bodies that held the most, clients that took nothing";
            gaps: "feed_gaps", "Gap messages sent";
            pasts_incomplete: "server_pasts_incomplete", "Pasts in which clients were told a gap: what they asked for was forgotten, or could not be read; by what they asked with";
            snapshot_forgotten: "server_snapshot_keys_forgotten", "Keys that snapshots let go for the limit: those that changed longest ago";
            written_bytes: "server_written_bytes", "Bytes taken by clients' sockets";
            writes: "server_writes", "Write calls made on clients' sockets";
            writes_shared: "server_writes_shared", "Write calls that handed the kernel pages that other clients were given too, in place of a copy";
            write_blocked: "server_writes_blocked", "Write calls after which the socket took no more";
            ring_bytes: "bus_held_bytes", "Attributes and payloads of the events that the rings hold";
            loop_gaps: "server_loop_missed_events", "Events that a loop missed because the ring lapped it";
            turns: "server_loop_turns", "Turns of the event loops";
            tls_handshakes: "server_tls_handshakes", "TLS handshakes begun, by their dear part: a key exchange and a signature";
            signatures_checked: "auth_signatures_checked", "Signatures of tokens that were checked with a public key";
            work_put_off: "server_work_put_off", "Times that a connection waited for the next turn because this one had spent its budget of work";
            engine_following: "engine_following", "1 while the engine's log is being followed";
            engine_appending: "engine_appending", "1 while the engine's log takes events";
            engine_appended: "engine_events_appended", "Events that the engine's log took from this node";
            engine_refused: "engine_events_refused", "Events refused because the engine's log did not take them in time";
            engine_followed: "engine_events_followed", "Events read from the engine's log";
            engine_unreadable: "engine_entries_unreadable", "Entries of the engine's log that are no events";
            engine_ingested: "engine_events_ingested", "Events made of other systems' messages";
            engine_ingest_unreadable: "engine_messages_unreadable", "Messages of other systems that make no event";
            engine_losses: "engine_connections_lost", "Connections to the engine that were lost";
        }
    }
}

/// Kinds that are shown before the first of them: a rate needs a zero to begin at.
const REFUSED: [&str; 4] = ["draining", "too_many", "address", "no_descriptors"];
const ENDED: [&str; 2] = ["token_expired", "token_revoked"];
const SHED: [&str; 4] = ["feed_bytes", "connections", "bodies", "stalled"];
const FAULTS: [&str; 3] = ["timeout", "heartbeat_missed", "invalid_event"];
const PASTS: [&str; 4] = ["since", "history", "snapshot", "refill"];

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

    /// The exposition in this format.
    pub(crate) fn text(&self, format: Exposition) -> String {
        let mut text = String::new();
        // Writing to a string fails only if an encoder does; then what was written before still stands.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &self.websocket.registry);
        let _ = encode_eof(&mut text);
        match format {
            Exposition::OpenMetrics => text,
            Exposition::Prometheus => exposition::to_prometheus(&text),
        }
    }

    /// Counts one refused input.
    pub(crate) fn fault(&self, kind: &'static str) {
        self.faults.get_or_create(&Kind { kind }).inc();
    }
}
