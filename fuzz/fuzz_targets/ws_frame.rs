//! WebSocket frames from any bytes: the same messages and the same fault wherever the reads are cut, and the same as
//! tungstenite finds.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::ws_frame(data));
