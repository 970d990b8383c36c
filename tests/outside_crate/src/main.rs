//! Runs pieces of code of docs/embedding.md and docs/migrating.md: `outside-crate TEXT` runs the one that contains the
//! text, and `outside-crate` runs all that need no port and end by themselves. Prints each piece before it runs.

use std::process::ExitCode;

mod pieces {
    #![allow(dead_code, unused, reason = "pieces are as the pages have them")]

    use std::process::{ExitCode, Termination as _};

    include!(concat!(env!("OUT_DIR"), "/pieces.rs"));
}

/// Returns the address that a piece's server listens on, instead of the page's.
fn listen() -> &'static str {
    std::env::var("LISTEN").expect("the test sets it").leak()
}

fn main() -> ExitCode {
    let text = std::env::args().nth(1);
    let is_wanted = |piece: &str| match &text {
        Some(text) => piece.contains(text.as_str()),
        None => !piece.contains("\"127.0.0.1:3000\""),
    };
    let wanted: Vec<_> = pieces::PIECES.iter().filter(|(piece, _)| is_wanted(piece)).collect();
    assert!(wanted.len() == 1 || text.is_none(), "{} pieces contain {text:?}", wanted.len());
    for (piece, run) in wanted {
        println!("{piece}\n");
        let ended = run();
        if format!("{ended:?}") != format!("{:?}", ExitCode::SUCCESS) {
            return ended;
        }
    }
    ExitCode::SUCCESS
}
