//! An event's attributes as eight small hashes, so that most questions of a matcher end without looking at
//! a string. Imports nothing of ours. Always: 0 means absent, equal values have equal hashes in one process.

use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::quality::FixedState;

use super::attribute::Attribute;

/// One 32-bit hash for each [`Attribute`], by its index; 0 where the event has no value.
///
/// Equal hashes are a hint: compare the strings before relying on it. The seed is drawn once for each
/// process, so nobody outside can choose values that collide.
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

/// Which shard an event goes to hangs on it, and a simulated run is to go the same way each time.
#[cfg(test)]
fn seed() -> u64 {
    7
}

/// The hash of one attribute's value; 0 only for the empty (absent) one.
pub fn value_hash(value: &str) -> u32 {
    if value.is_empty() {
        return 0;
    }
    let hash = state().hash_one(value.as_bytes());
    ((hash ^ (hash >> 32)) as u32).max(1)
}
