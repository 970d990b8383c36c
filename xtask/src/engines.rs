//! The engine contract over a long time: the table of faults, then random sequences of faults; or an upgrade from an older
//! version.
//!
//! The test binary `engine_contract` does the work; this command passes it the time and the seed.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::run::{self, Outcome, Totals};

/// Runs the table once and random sequences for some minutes (10), or upgrades from the binary at a path.
pub(crate) fn run(args: &[String], totals: &mut Totals) -> Outcome {
    let mut minutes = "10".to_owned();
    let mut seed = None;
    let mut old = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seed" => seed = args.next().cloned(),
            "--old" => old = args.next().cloned(),
            number if number.parse::<u64>().is_ok() => number.clone_into(&mut minutes),
            _ => return Err("engines takes a number of minutes, --seed N, or --old PATH".to_owned()),
        }
    }
    let test = |filter: &[&str], env: &[(&str, &str)], totals: &mut Totals| {
        let threads = ["--nocapture", "--test-threads", "4"];
        let args =
            [&["test", "--all-features", "--test", "engine_contract", "--"], filter, &threads].concat();
        run::tests(&args, env, totals)
    };
    if let Some(old) = old {
        let old = std::fs::canonicalize(&old).map_err(|error| format!("{old}: {error}"))?;
        return test(&["upgrades"], &[("FANWIRE_OLD", &old.to_string_lossy())], totals);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = seed.unwrap_or_else(|| now.to_string());
    println!("seed {seed}: `cargo xtask engines {minutes} --seed {seed}` repeats this run");
    test(&["--skip", "random"], &[], totals)?;
    test(&["random"], &[("FANWIRE_ENGINES_MINUTES", &minutes), ("FANWIRE_ENGINES_SEED", &seed)], totals)
}
