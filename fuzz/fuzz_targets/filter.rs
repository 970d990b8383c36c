//! The text form of filters: what parses prints as something that parses to the same.
#![no_main]

use fanwire::Filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Filter>() {
        Ok(filter) => {
            let printed = filter.to_string();
            let again: Filter = printed.parse().expect("what we printed is a filter");
            assert_eq!(again, filter, "{printed}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
