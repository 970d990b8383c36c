//! Names of connections within a loop.

/// A connection's number in its loop, and which life of that number: a token that outlives its connection
/// reaches nobody.
pub(crate) type Token = u64;

pub(super) fn token_of(slot: usize, generation: u32) -> Token {
    u64::from(generation) << 32 | slot as u64
}
