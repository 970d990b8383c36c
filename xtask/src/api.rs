//! The public API as a kept listing, `public-api.txt`, and the foreign types that it may name.
//!
//! Always: a change of the public API shows as a change of that file, so that a reviewer sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use crate::run::Outcome;
use crate::setup;

const KEPT: &str = "public-api.txt";

/// Target folder of the nightly compiler, which builds the listing.
const TARGET: &str = "target/public-api";

/// Foreign crates in signatures, each with the reason for it. An embedder has to use a compatible version.
const FOREIGN: &[(&str, &str)] = &[
    ("axum", "`tower`'s listener is one of `axum::serve`"),
    ("bytemuck", "plain values that a bus carries are `Pod`"),
    ("bytes", "the data of a body of `tower`"),
    ("futures_core", "a subscriber is a `Stream`"),
    ("http", "requests and responses of `tower`"),
    ("http_body", "the body of a response of `tower`"),
    ("serde_core", "settings and grants are read and written by serde"),
    ("serde_json", "the error of a message that is no JSON"),
    ("tokio", "sockets and listeners of `tower`"),
    ("tower_service", "`tower` is a service for routers"),
];

/// Crates of Rust itself, and this one.
const OWN: &[&str] = &["alloc", "core", "fanwire", "std"];

/// Compares the API with the kept listing, or writes the listing (`keep`).
pub(crate) fn check(what: Option<&str>) -> Outcome {
    setup::cargo_tool("cargo-public-api", "public-api")?;
    let listing = listing()?;
    let mut faults = foreign_faults(&listing);
    match what {
        Some("keep") => fs::write(KEPT, &listing).map_err(|error| format!("{KEPT}: {error}"))?,
        Some(other) => return Err(format!("api takes nothing or `keep`, not {other}")),
        None => {
            let kept = fs::read_to_string(KEPT).map_err(|error| format!("{KEPT}: {error}"))?;
            let changes = changes(&kept, &listing);
            if !changes.is_empty() {
                faults.push(format!(
                    "the public API changed: if that is intended, run `cargo xtask api keep` and say it in CHANGELOG.md\n{}",
                    changes.join("\n")
                ));
            }
        }
    }
    if faults.is_empty() {
        println!("api: {} lines", listing.lines().count());
        Ok(())
    } else {
        Err(faults.join("\n"))
    }
}

/// Lists the public items of the library with all features, one a line, without derived and automatic traits.
fn listing() -> Result<String, String> {
    let args = ["public-api", "--package", "fanwire", "--all-features", "-sss", "--target-dir", TARGET];
    println!("\n$ cargo {}", args.join(" "));
    let output = Command::new("cargo")
        .args(args)
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo public-api ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("cargo public-api: {error}"))
}

/// Lists the removed lines (`-`) and the added ones (`+`).
fn changes(kept: &str, now: &str) -> Vec<String> {
    let (kept, now): (BTreeSet<&str>, BTreeSet<&str>) = (kept.lines().collect(), now.lines().collect());
    let gone = kept.difference(&now).map(|line| format!("-{line}"));
    gone.chain(now.difference(&kept).map(|line| format!("+{line}"))).collect()
}

/// Reports crates in signatures that [`FOREIGN`] does not list, and rows of it that no signature needs.
fn foreign_faults(listing: &str) -> Vec<String> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for line in listing.lines() {
        for name in crates_in(line) {
            found.entry(name).or_insert(line);
        }
    }
    let mut faults = Vec::new();
    for (name, line) in &found {
        if !OWN.contains(name) && !FOREIGN.iter().any(|(known, _)| known == name) {
            faults.push(format!(
                "a signature names a type of {name}: hide it behind a type of ours, or add {name} to FOREIGN in \
                 xtask/src/api.rs with its reason\n  {line}"
            ));
        }
    }
    for (name, _) in FOREIGN.iter().filter(|(name, _)| !found.contains_key(name)) {
        faults.push(format!("no signature names {name}: remove it from FOREIGN in xtask/src/api.rs"));
    }
    faults
}

/// Returns the crates that the paths of a line begin with.
fn crates_in(line: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices("::").filter_map(move |(at, _)| {
        let start = line[..at].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let name = &line[start..at];
        let begins = !line[..start].ends_with(':') && name.starts_with(|c: char| c.is_ascii_lowercase());
        begins.then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crates_of_a_line_are_the_beginnings_of_its_paths() {
        let line =
            "pub fn fanwire::A<T>::f(&self, <T as mio::Token>::Id) -> core::result::Result<Self::X, a_b::C>";
        assert_eq!(crates_in(line).collect::<Vec<_>>(), ["fanwire", "mio", "core", "a_b"]);
    }

    #[test]
    fn changes_are_lines_that_went_and_came() {
        assert_eq!(changes("a\nb\n", "b\nc\n"), ["-a", "+c"]);
    }
}
