//! Drives a whole connection from its first byte: HTTP, publishing, WebSocket, event streams.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::session(data));
