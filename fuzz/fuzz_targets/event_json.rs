//! Parses events from any JSON. An accepted event is written as JSON that parses to an equal event.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::event(data));
