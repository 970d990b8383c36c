//! Shared by the benchmarks of codecs: frames as clients send them.

use fanwire::internals::ws::{OpCode, header, unmask};

pub(crate) const MASK: [u8; 4] = [1, 2, 3, 4];

/// Returns a whole masked frame with a payload of `len` bytes.
pub(crate) fn masked(op: OpCode, len: usize) -> Vec<u8> {
    let mut bytes = header(op, len).to_vec();
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    let mut payload = vec![b'x'; len];
    unmask(&mut payload, MASK, 0);
    bytes.extend_from_slice(&payload);
    bytes
}
