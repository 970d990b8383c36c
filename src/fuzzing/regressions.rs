//! Past findings of the fuzzers as ordinary tests: `fuzz/regressions/TARGET.txt`.
//!
//! Always: each file has its target, and each case has a comment.

use std::fs;
use std::path::Path;

use super::*;

type Target = (&'static str, fn(&[u8]));

const TARGETS: &[Target] = &[
    ("cloudevents", cloud_event),
    ("control_message", control_message),
    ("conversation", conversation),
    ("dialect", dialect),
    ("event_json", event),
    ("filter", filter),
    ("http_request", http_request),
    ("session", session),
    ("sse_parser", sse_parser),
    #[cfg(feature = "auth")]
    ("token", token),
    ("ws_frame", ws_frame),
];

#[test]
fn past_findings_do_not_return() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions");
    let mut ran = 0;
    for entry in fs::read_dir(&folder).expect("it is in the repository") {
        let path = entry.expect("it can be read").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let text = fs::read_to_string(&path).expect("text");
        let Some((_, run)) = TARGETS.iter().find(|(target, _)| *target == name) else {
            assert!(name == "token", "{name} is no target");
            continue;
        };
        for case in cases::read(&text).unwrap_or_else(|line| panic!("{name}: not a line of a case: {line}")) {
            assert!(!case.what.is_empty(), "{name}: a case that does not say what it is");
            eprintln!("{name}: {}", case.what);
            run(&case.bytes);
            ran += 1;
        }
    }
    assert!(ran >= 10, "only {ran} cases were found");
}

#[test]
fn a_case_is_its_comment_and_its_bytes() {
    let text = "# No case, but a head.\n\n# What it is,\n# on two lines.\n\"a\\x00\\r\\n\"\n\"\\\"\\\\b \"\n\n# Another.\n\"\"\n";
    let read = cases::read(text).expect("cases");
    assert_eq!(read.len(), 2);
    assert_eq!(read[0].what, "What it is, on two lines.");
    assert_eq!(read[0].bytes, b"a\0\r\n\"\\b ");
    assert_eq!(read[1].bytes, b"");
    assert!(cases::read("# x\n\"\\q\"").is_err() && cases::read("# x\n\"a\"\nb").is_err());
}
