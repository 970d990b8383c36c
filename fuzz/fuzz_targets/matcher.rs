//! Compares the matcher with the definition: filters are inserted and removed, events are matched, and at the
//! end nothing is left.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzz_matcher(data));
