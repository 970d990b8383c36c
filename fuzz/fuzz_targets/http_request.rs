//! Parses an HTTP head and body from any bytes: no panic, and the result does not depend on where the reads are
//! cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::http_request(data));
