//! The maximum memory of a server with these limits, as a sum of lines.
//!
//! Invariants:
//! - Each line is a count and a size, each bounded by a setting or by the size of a type.
//! - Memory outside the sum does not grow, neither with time nor with a slow peer.

use super::ServerConfig;
use super::conn::Ws;
use super::presence::NAME_BYTES_MAX;
use super::reactor::Conn;
use super::reactor::stream::Stream;
use super::shared::blocks::BLOCKS_BYTES_MAX;
use crate::bus::BusConfig;

/// A line of the sum of [`ServerConfig::worst_case`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLine {
    /// Name of the part.
    pub what: &'static str,
    /// Maximum number of parts of this kind.
    pub count: u64,
    /// Maximum size of each, in bytes.
    pub each: u64,
}

impl MemoryLine {
    /// Returns count times size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.each)
    }
}

/// Memory of a ring's slot: a stamp, and an event's count and symbols, in cache lines.
const SLOT_BYTES: u64 = 128;

/// Bytes of a connection outside its struct: its entry among a feed's members and in the wheel.
const PLACES_BYTES: usize = 4 + 12;

/// Bytes of a frame without the event: header, id, time, names.
const ENVELOPE_BYTES: u64 = 512;

/// Memory of a user in a channel: both names, once for all loops and once for a connection, and their entries in trees.
const MEMBER_BYTES: u64 = 4 * NAME_BYTES_MAX as u64 + 256;

impl ServerConfig {
    /// Returns the maximum size of the frames that the events of a bus keep, in all encodings, in bytes.
    pub(super) fn frame_bytes_max(&self, slots: u64, ring_bytes_max: Option<u64>) -> u64 {
        let event = self.max_body_bytes.max(self.max_message_bytes) as u64;
        let most = slots.saturating_mul(event);
        ring_bytes_max.map_or(most, |bound| bound.min(most)).saturating_add(slots * ENVELOPE_BYTES)
    }

    /// Returns the maximum memory of a server of such a bus, part by part. The ring's bound and the budget for clients are
    /// separate sums: `max_memory_bytes` bounds all memory that clients cause, whichever of their limits they fill. Code,
    /// stacks and the kernel's buffers are left out.
    #[must_use]
    pub fn worst_case(&self, bus: &BusConfig) -> Vec<MemoryLine> {
        let slots = (bus.shards * bus.capacity) as u64;
        let event = self.max_body_bytes.max(self.max_message_bytes) as u64;
        let line = |what, count, each| MemoryLine { what, count, each };
        let events = match bus.max_bytes {
            None => line("events in the rings", slots, event),
            Some(bound) => line("events in the rings", 1, bound.min(slots.saturating_mul(event))),
        };
        let frames = self.frame_bytes_max(slots, bus.max_bytes);
        let mut all = vec![
            line("slots of the rings", slots, SLOT_BYTES),
            events,
            line("the events' frames in all encodings; beyond it, loops keep frames of their own", 1, frames),
        ];
        let kept = if self.retain.rules.is_empty() { 0 } else { self.retain.max_bytes as u64 };
        if kept > 0 {
            all.push(line("kept logs", 1, kept));
            all.push(line("encoded blocks of kept logs", 1, BLOCKS_BYTES_MAX as u64));
        }
        if let Some(budget) = self.max_memory_bytes {
            let what = "held for clients: feeds, answers, replays, subscriptions, bodies, connections, what waits for an engine";
            // Kept logs and their blocks count in the budget.
            let blocks = if kept > 0 { BLOCKS_BYTES_MAX as u64 } else { 0 };
            all.push(line(what, 1, (budget as u64).saturating_sub(kept + blocks)));
            return all;
        }
        let connections = self.max_connections as u64;
        let named = (self.presence.max_channels as u64)
            .saturating_mul(self.presence.max_members as u64)
            .min(connections.saturating_mul(self.presence.max_channels_per_user as u64));
        let named = if self.presence.is_on() { named } else { 0 };
        let connection = size_of::<Conn<Stream>>() + size_of::<Ws>() + PLACES_BYTES;
        all.extend([
            line("latest events for snapshots", self.max_snapshot_keys as u64, event),
            // Each client may have a filter that no other has.
            line("held for clients: a feed each", connections, self.max_lag_bytes as u64),
            line("connections", connections, connection as u64),
            line("subscriptions", connections, self.subscription_bytes() as u64),
            line("users in channels with presence", named, MEMBER_BYTES),
            line("requests and messages that are coming in", connections, event + self.max_head_bytes as u64),
        ]);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_follows_the_limits() {
        let sum = |config: &ServerConfig, capacity| -> u64 {
            let bus = BusConfig { capacity, ..BusConfig::default() };
            config.worst_case(&bus).iter().map(MemoryLine::bytes).sum()
        };
        let small = ServerConfig {
            max_connections: 1000,
            max_body_bytes: 64 * 1024,
            max_subscriptions: 10,
            max_memory_bytes: Some(64 << 20),
            ..ServerConfig::default()
        };
        assert!(sum(&small, 64) < 128 << 20, "{}", sum(&small, 64));
        assert!(sum(&small, 128) > sum(&small, 64));
        let unbounded = ServerConfig { max_memory_bytes: None, ..small.clone() };
        assert!(sum(&unbounded, 64) > sum(&small, 64));
        // With the defaults the sum fits a usual machine: the ring, its frames, and the clients' budget.
        let usual = sum(&ServerConfig::default(), BusConfig::default().capacity);
        assert!((3 << 30..4 << 30).contains(&usual), "{usual}");
    }
}
