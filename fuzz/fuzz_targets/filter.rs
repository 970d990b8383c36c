//! Parses the text form of filters. A parsed filter prints as a text that parses to an equal filter.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fanwire::internals::fuzzing::filter(data));
