//! The cost of each feature of the library in crates and in CPU seconds of the compiler; prints the table of
//! docs/embedding.md.
//!
//! Always: `cargo tree` counts the crates. Seconds are CPU time, which depends little on the load of the machine: one
//! fresh build of the program with all features is timed, crate by crate. The library's own time is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::run::{self, Outcome};

/// Target folder of the timed build; removed before and after it.
const FOLDER: &str = "target/features";
/// Feature sets as a manifest lists them, each with its purpose.
const SETS: [(&str, &str); 14] = [
    ("", "the bus"),
    ("serde", "payloads of types of your own"),
    ("async", "subscribers as streams"),
    ("server", "WebSocket, SSE, publish, metrics, the page"),
    ("server,dialects", "clients of other systems"),
    ("server,deflate", "compression towards clients"),
    ("server,auth", "tokens, keys, tickets"),
    ("server,tls", "https and wss"),
    ("config-file", "settings from a file, the environment, flags"),
    ("server,schema", "payloads checked against JSON Schemas"),
    ("server,redis", "the log in Redis"),
    ("server,nats", "the log in NATS"),
    ("tower", "streams on the port of an axum or hyper app"),
    ("axum", "the same, and event streams that take their sockets from `axum::serve`"),
];

/// Prints the table. `crates` leaves out the seconds and builds nothing; the path of a wrapper's folder replaces the build.
pub(crate) fn table(source: Option<&str>) -> Outcome {
    let seconds = match source {
        Some("crates") => None,
        Some(folder) => Some(read(Path::new(folder))?),
        None => Some(timed()?),
    };
    println!("| `features` | for | crates | seconds |\n|---|---|---|---|");
    let all = [&SETS[..], &[("cli", "the program: all of the above but `tower` and `axum`")]].concat();
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

/// Lists the crates that a build with these features compiles, as `name version`, without the library itself.
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

/// Compiler wrapper that records the CPU time (user and kernel) of each call.
const WRAPPER: &str = "#!/bin/sh\n\
    \"$@\"; code=$?\n\
    { echo \"$CARGO_PKG_NAME $CARGO_PKG_VERSION\"; times; } >> \"$FANWIRE_RUSTC_TIMES/$$\"\n\
    exit $code\n";

/// Returns the CPU seconds of each crate in a fresh build of the program with all features.
fn timed() -> Result<BTreeMap<String, f64>, String> {
    let failed = |error: std::io::Error| format!("{FOLDER}: {error}");
    let _ = fs::remove_dir_all(FOLDER);
    let folder = std::env::current_dir().map_err(failed)?.join(FOLDER);
    let (times, wrapper) = (folder.join("times"), folder.join("rustc.sh"));
    fs::create_dir_all(&times).map_err(failed)?;
    fs::write(&wrapper, WRAPPER).map_err(failed)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    let path = |path: &Path| path.display().to_string();
    let (times_text, wrapper) = (path(&times), path(&wrapper));
    let env = [("RUSTC_WRAPPER", wrapper.as_str()), ("FANWIRE_RUSTC_TIMES", times_text.as_str())];
    let args = ["build", "--release", "--all-features", "--bin", "fanwire", "--target-dir", FOLDER];
    run::command("cargo", &args, &env, ".")?;
    let sums = read(&times);
    let _ = fs::remove_dir_all(FOLDER);
    sums
}

/// Adds up the wrapper's records by crate.
fn read(folder: &Path) -> Result<BTreeMap<String, f64>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut sums = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let text = fs::read_to_string(entry.map_err(failed)?.path()).map_err(failed)?;
        // Process ids repeat on a busy machine: a file may hold several calls, each of three lines.
        let lines: Vec<&str> = text.lines().collect();
        for (name, seconds) in lines.chunks(3).filter_map(call) {
            *sums.entry(name).or_insert(0.0) += seconds;
        }
    }
    Ok(sums)
}

/// Reads a call of the compiler: the crate, the shell's own times, then its children's, as `0m1.250s 0m0.100s`.
fn call(lines: &[&str]) -> Option<(String, f64)> {
    let [name, _, children] = lines else { return None };
    let seconds = |time: &str| {
        let (minutes, seconds) = time.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let all = children.split_whitespace().map(seconds).collect::<Option<Vec<_>>>()?;
    // A call that only asks the compiler for its version has no crate.
    (name.trim().len() > 1).then(|| ((*name).to_owned(), all.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compile_times_are_assigned_to_crates() {
        let lines = ["a 1.0.0", "0m0.000000s 0m0.000000s", "1m1.250000s 0m0.500000s"];
        assert_eq!(call(&lines), Some(("a 1.0.0".to_owned(), 61.75)));
        assert_eq!(call(&[" ", lines[1], lines[2]]), None);
        assert_eq!(call(&lines[..1]), None);
    }
}
