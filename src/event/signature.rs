//! Hashes of an event's attributes, by which a matcher decides most comparisons without looking at a string.
//!
//! Always: 0 means absent; equal values have equal hashes within one process.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::quality::FixedState;

use super::attribute::Attribute;

/// One 32-bit hash for each [`Attribute`], by its index; 0 if the event has no value.
///
/// Equal hashes are a hint: compare the strings before relying on it. The seed is drawn once for each process, so an
/// outsider can't choose values that collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Signature(pub(crate) [u32; Attribute::COUNT]);

fn state() -> &'static FixedState {
    static STATE: OnceLock<FixedState> = OnceLock::new();
    STATE.get_or_init(|| FixedState::with_seed(seed()))
}

#[cfg(not(test))]
fn seed() -> u64 {
    std::hash::RandomState::new().hash_one(0u8)
}

/// The hash chooses an event's shard, and a simulated run must be the same each time.
#[cfg(test)]
fn seed() -> u64 {
    7
}

/// Returns the hash of an attribute's value; 0 only for the empty (absent) value.
#[must_use]
pub fn value_hash(value: &str) -> u32 {
    if value.is_empty() {
        return 0;
    }
    let hash = state().hash_one(value.as_bytes());
    ((hash ^ (hash >> 32)) as u32).max(1)
}
