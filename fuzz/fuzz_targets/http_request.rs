//! An HTTP head and body from any bytes: no panic, and no other outcome where the reads are cut elsewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::http_request(data));
