//! Drives a loop with two clients by a stream of operations: received bytes, full sockets, time, events,
//! disconnects.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::conversation(data));
