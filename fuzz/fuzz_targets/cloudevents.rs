//! Published CloudEvents, structured or binary; the first byte chooses.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::cloud_event(data));
