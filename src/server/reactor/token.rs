//! Tokens: names of connections within a loop.

/// A connection's slot in its loop with the slot's generation. A token that outlives its connection reaches no other one.
pub(crate) type Token = u64;

pub(super) fn token_of(slot: usize, generation: u32) -> Token {
    u64::from(generation) << 32 | slot as u64
}
