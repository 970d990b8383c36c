//! Events from any JSON: what is taken is written as JSON that reads back as the same event.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::event(data));
