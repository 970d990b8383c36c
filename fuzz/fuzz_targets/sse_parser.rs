//! Parses server-sent events: the result does not depend on where the bytes are cut, and encoded events parse
//! back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::sse_parser(data));
