//! AutoSDLC's names for what its clients do: its dashboards go on as they are.
//!
//! Imports nothing of ours. Always: labels come from short lists, whatever clients say; these count the clients of
//! that dialect, and every one of them is among Fanwire's own counters too.

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

/// The document's buckets, in bytes.
const BUCKETS: [f64; 6] = [100.0, 500.0, 1000.0, 5000.0, 10_000.0, 50_000.0];

/// The document's six metrics.
pub(crate) struct Websocket {
    pub(super) registry: Registry,
    connections: Counter,
    active: Gauge,
    received: Family<Type, Counter>,
    sent: Family<Type, Counter>,
    sizes: Family<Size, Histogram, fn() -> Histogram>,
    subscriptions: Family<Resource, Gauge>,
}

impl fmt::Debug for Websocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Websocket")
    }
}

impl Default for Websocket {
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
            "Sizes of AutoSDLC messages; of an event its data, once, however many clients get it",
            sizes.clone(),
        );
        Self { registry, connections, active, received, sent, sizes, subscriptions }
    }
}

impl Websocket {
    pub(crate) fn opened(&self) {
        self.connections.inc();
        self.active.inc();
    }

    pub(crate) fn left(&self) {
        self.active.dec();
    }

    /// A client's message.
    pub(crate) fn received(&self, kind: &'static str, bytes: usize) {
        self.received.get_or_create(&Type { r#type: kind }).inc();
        self.sizes.get_or_create(&Size { r#type: kind, direction: "in" }).observe(bytes as f64);
    }

    /// A message for so many clients.
    pub(crate) fn sent(&self, kind: &'static str, bytes: usize, clients: usize) {
        self.sent.get_or_create(&Type { r#type: kind }).inc_by(clients as u64);
        self.sizes.get_or_create(&Size { r#type: kind, direction: "out" }).observe(bytes as f64);
    }

    /// One subscription more, or one less.
    pub(crate) fn subscribed(&self, resource: &'static str, more: i64) {
        self.subscriptions.get_or_create(&Resource { resource }).inc_by(more);
    }
}
