//! Options and parameters of a load.

use std::sync::Arc;
use std::time::Duration;

use super::super::remote::Remote;
use super::keys::{KeyLists, KeyOptions};
use super::mark::MarkForm;
use super::publish::{PublishBy, PublishWay};
use super::speak::{Site, Speak, Transport};

/// Options of a load.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct LoadOptions {
    /// Number of clients
    #[arg(long, short = 'c', default_value_t = 1000)]
    pub(super) connections: usize,
    /// Transport of the clients
    #[arg(long, default_value = "ws")]
    pub(super) transport: Transport,
    /// Ask for compressed messages (WebSocket only). One client in sixteen inflates them, for the latency; the others
    /// count them
    #[arg(long)]
    pub(super) deflate: bool,
    /// Events each second
    #[arg(long, short = 'r', default_value_t = 100)]
    pub(super) rate: u64,
    /// Events published together
    #[arg(long, short = 'b', default_value_t = 1)]
    pub(super) burst: u64,
    /// Way to publish, for --speak fanwire, lean and plain; the others have one way each
    #[arg(long, value_name = "WAY", default_value = "post")]
    pub(super) publish: PublishBy,
    /// Bytes of the JSON payload
    #[arg(long, default_value_t = 128)]
    pub(super) payload: usize,
    #[command(flatten)]
    pub(super) keys: KeyOptions,
    /// Percentage of clients that never read
    #[arg(long, default_value_t = 0)]
    pub(super) sleepers: usize,
    /// Percentage of clients that read slowly
    #[arg(long, default_value_t = 0)]
    pub(super) slow: usize,
    /// Bytes that a slow client reads each second
    #[arg(long, default_value_t = 20_000)]
    pub(super) slow_rate: usize,
    /// Instead of a rate: publish as fast as the server takes it, with this many bursts in flight
    #[arg(long, value_name = "BURSTS")]
    pub(super) window: Option<u64>,
}

impl LoadOptions {
    /// Returns the options with each number limited to its range.
    pub(super) fn clamped(self) -> Self {
        Self {
            rate: self.rate.max(1),
            burst: self.burst.max(1),
            window: self.window.map(|window| window.max(1)),
            keys: self.keys.clamped(),
            sleepers: self.sleepers.min(100),
            slow: self.slow.min(100),
            ..self
        }
    }

    /// Returns the form of the marks in payloads.
    pub(super) fn mark_form(&self) -> MarkForm {
        if self.keys.differ() { MarkForm::DueAndKey } else { MarkForm::Due }
    }
}

/// Parameters of a run.
#[derive(Clone)]
pub(super) struct LoadPlan {
    pub(super) remote: Remote,
    pub(super) site: Site,
    /// Server that takes the events.
    pub(super) publish_to: Remote,
    pub(super) publish_site: Site,
    pub(super) speak: Speak,
    pub(super) options: LoadOptions,
    pub(super) lists: Arc<KeyLists>,
    pub(super) time: Duration,
}

impl LoadPlan {
    /// Returns the publisher's protocol.
    pub(super) fn way(&self) -> PublishWay {
        let options = &self.options;
        PublishWay { speak: self.speak, by: options.publish, differ: options.keys.differ() }
    }

    /// Returns how a client reads.
    pub(super) fn pace(&self, number: usize) -> ReadPace {
        // The factor 37 spreads the paces evenly, also over a few clients.
        match number * 37 % 100 {
            place if place < self.options.sleepers => ReadPace::Never,
            place if place < self.options.sleepers + self.options.slow => ReadPace::Slow,
            _ => ReadPace::Awake,
        }
    }

    /// Returns the numbers of the clients that read as fast as they can.
    pub(super) fn awake(&self) -> impl Iterator<Item = usize> {
        (0..self.options.connections).filter(|number| self.pace(*number) == ReadPace::Awake)
    }
}

/// Reading speed of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPace {
    Awake,
    Slow,
    Never,
}
