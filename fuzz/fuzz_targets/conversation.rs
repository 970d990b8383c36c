//! A loop with two clients, from a stream of operations: bytes that come, room that ends, time, events, ends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::conversation(data));
