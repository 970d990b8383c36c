//! The six metrics of AutoSDLC's document, under its names, so that its dashboards continue to work.
//!
//! Invariants:
//! - Labels come from short lists, whatever clients send.
//! - Only clients of this dialect are counted. Fanwire's own metrics also count them.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Size {
    r#type: &'static str,
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Resource {
    resource: &'static str,
}

/// Buckets of the document, in bytes.
const BUCKETS: [f64; 6] = [100.0, 500.0, 1000.0, 5000.0, 10_000.0, 50_000.0];

/// The metrics of the document.
pub(super) struct Counters {
    registry: Registry,
    connections: Counter,
    active: Gauge,
    received: Family<Type, Counter>,
    sent: Family<Type, Counter>,
    sizes: Family<Size, Histogram, fn() -> Histogram>,
    subscriptions: Family<Resource, Gauge>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}

impl Default for Counters {
    fn default() -> Self {
        let mut registry = Registry::default();
        macro_rules! register {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                registry.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        let connections = register!("websocket_connections", "AutoSDLC clients that connected");
        let active = register!("websocket_active_connections", "AutoSDLC clients that are connected");
        let received = register!("websocket_messages_received", "Messages received from AutoSDLC clients");
        let sent =
            register!("websocket_messages_sent", "Messages for AutoSDLC clients, once for each client");
        let subscriptions = register!("websocket_active_subscriptions", "Subscriptions of AutoSDLC clients");
        let sizes = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register(
            "websocket_message_size_bytes",
            "Sizes of AutoSDLC messages; an event counts once for all clients, by the size of its data",
            sizes.clone(),
        );
        Self { registry, connections, active, received, sent, sizes, subscriptions }
    }
}

impl Counters {
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn opened(&self) {
        self.connections.inc();
        self.active.inc();
    }

    pub(super) fn left(&self) {
        self.active.dec();
    }

    /// Counts a client's message.
    pub(super) fn received(&self, kind: &'static str, bytes: usize) {
        self.received.get_or_create(&Type { r#type: kind }).inc();
        self.sizes.get_or_create(&Size { r#type: kind, direction: "in" }).observe(bytes as f64);
    }

    /// Counts a message to this many clients.
    pub(super) fn sent(&self, kind: &'static str, bytes: usize, clients: usize) {
        self.sent.get_or_create(&Type { r#type: kind }).inc_by(clients as u64);
        self.sizes.get_or_create(&Size { r#type: kind, direction: "out" }).observe(bytes as f64);
    }

    /// Counts a subscription that began (1) or ended (-1).
    pub(super) fn subscribed(&self, resource: &'static str, more: i64) {
        self.subscriptions.get_or_create(&Resource { resource }).inc_by(more);
    }
}
