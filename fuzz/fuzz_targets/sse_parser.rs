//! Server-sent events: any bytes parse the same wherever they are cut, and what is encoded reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::sse_parser(data));
