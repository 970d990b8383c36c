//! Parses WebSocket frames from any bytes: messages and faults do not depend on where the reads are cut, and
//! agree with tungstenite.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::ws_frame(data));
