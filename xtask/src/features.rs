//! What each feature of the library costs who builds it: crates, and seconds of one core. The table in docs/embedding.md.
//!
//! Always: crates are counted by `cargo tree`, seconds are those of one fresh build with all features, shared out by
//! crate; the library's own are not among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::run::{Outcome, cargo};

/// Where the build is that is timed; thrown away before and after it.
const FOLDER: &str = "target/features";
/// Feature sets, as a library's user writes them, and what they are for.
const SETS: [(&str, &str); 10] = [
    ("", "the bus"),
    ("async", "subscribers as streams"),
    ("server", "WebSocket, SSE, publish, metrics, the page"),
    ("server,deflate", "compression towards clients"),
    ("server,auth", "tokens, keys, tickets"),
    ("server,tls", "https and wss"),
    ("config-file", "settings from a file, the environment, flags"),
    ("server,schema", "payloads checked against JSON Schemas"),
    ("server,redis", "the log in Redis"),
    ("server,nats", "the log in NATS"),
];

/// Prints the table. `crates`: without the seconds, and without a build; a file of `cargo build --timings` stands for one.
pub(crate) fn table(source: Option<&str>) -> Outcome {
    let seconds = match source {
        Some("crates") => None,
        Some(path) => Some(read(path)?),
        None => Some(timed()?),
    };
    println!("| `features` | for | crates | seconds |\n|---|---|---|---|");
    let all = [&SETS[..], &[("cli", "the program: all of the above")]].concat();
    for (features, what) in all {
        let crates = crates(features)?;
        let time = seconds.as_ref().map_or("-".to_owned(), |seconds| {
            let sum: f64 = crates.iter().filter_map(|name| seconds.get(name)).sum();
            format!("{sum:.0}")
        });
        let shown = features.split(',').filter(|name| !name.is_empty()).map(|name| format!("`{name}`"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let shown = if shown.is_empty() { "none".to_owned() } else { shown };
        println!("| {shown} | {what} | {} | {time} |", crates.len());
    }
    Ok(())
}

/// The crates that a build with these features compiles, as `name version`; not the library itself.
fn crates(features: &str) -> Result<BTreeSet<String>, String> {
    let args =
        ["tree", "--package", "fanwire", "-e", "normal,build", "--prefix", "none", "--no-default-features"];
    let output = Command::new("cargo").args(args).args(["--features", features]).output();
    let output = output.map_err(|error| format!("cargo tree: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let name = |line: &str| {
        let mut words = line.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?.strip_prefix('v')?))
    };
    Ok(text.lines().skip(1).filter_map(name).filter(|name| !name.starts_with("fanwire ")).collect())
}

/// Seconds that each crate took in a fresh build of the program.
fn timed() -> Result<BTreeMap<String, f64>, String> {
    let _ = fs::remove_dir_all(FOLDER);
    cargo(&["build", "--release", "--timings", "--bin", "fanwire", "--target-dir", FOLDER])?;
    let seconds = read(&format!("{FOLDER}/cargo-timings/cargo-timing.html"));
    let _ = fs::remove_dir_all(FOLDER);
    seconds
}

fn read(path: &str) -> Result<BTreeMap<String, f64>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    units(&text).ok_or_else(|| format!("{path}: no UNIT_DATA in it that can be read"))
}

/// The sums by crate of what `cargo build --timings` writes.
fn units(html: &str) -> Option<BTreeMap<String, f64>> {
    let (_, rest) = html.split_once("UNIT_DATA = ")?;
    let (data, _) = rest.split_once("];")?;
    let units: Vec<Value> = serde_json::from_str(&format!("{data}]")).ok()?;
    let mut sums = BTreeMap::new();
    for unit in units {
        let name = format!("{} {}", unit["name"].as_str()?, unit["version"].as_str()?);
        *sums.entry(name).or_insert(0.0) += unit["duration"].as_f64()?;
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_a_crates_units_are_added() {
        let html = "x\nconst UNIT_DATA = [{\"i\":0,\"name\":\"a\",\"version\":\"1.0.0\",\"duration\":0.5},\n\
                    {\"i\":1,\"name\":\"a\",\"version\":\"1.0.0\",\"duration\":1.25}];\nconst y";
        assert_eq!(
            units(html).expect("read").into_iter().collect::<Vec<_>>(),
            [("a 1.0.0".to_owned(), 1.75)]
        );
    }
}
