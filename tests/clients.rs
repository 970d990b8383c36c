//! The server as other people's clients meet it: Node's, Python's, curl, and a browser.
//!
//! The clients are the scripts in `tests/clients/`; `cargo xtask setup` installs what they need.

mod support;

use support::script::{Script, Stage};

/// Runs a script against a server with these options; it must show so many things.
fn script(name: &str, options: &[&str], checks: usize) {
    let mut stage = Stage::new(options);
    Script::start(name, &[&stage.url()]).finish(&mut stage, checks);
}

#[test]
fn node_ws_speaks_the_native_protocol() {
    script("ws_native.mjs", &[], 19);
}

#[test]
fn node_ws_meets_the_letter_of_websocket() {
    script("ws_frames.mjs", &[], 12);
}
