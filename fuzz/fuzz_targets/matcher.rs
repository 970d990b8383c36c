//! The matcher beside the definition: filters come and go, events are matched, what is left at the end is nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzz_matcher(data));
