//! Verifies tokens: any bytes, and claims of every form signed with the server's own key.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::token(data));
