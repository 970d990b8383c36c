//! `cargo xtask`: every maintenance task of the project as a command.
//!
//! Always: a step that can't run fails; no step is skipped silently.

mod api;
mod autobahn;
#[path = "../../src/fuzzing/cases.rs"]
mod cases;
mod engines;
mod features;
mod house;
mod imports;
mod instructions;
mod mutants;
mod pages;
mod prose;
mod run;
mod setup;
mod soak;
mod source;
mod tidy;

use std::process::ExitCode;

use run::{Outcome, Totals, cargo, nightly};

const HELP: &str = "\
cargo xtask COMMAND

While you work:
  quick [NAME]  rustfmt, the house rules, clippy and the unit tests except the slowest: under a minute once compiled;
                with NAME, only the unit tests with NAME in their path
  tidy          the house rules: layers, circles, unsafe, heads, sizes, words, sentences, dependencies
  house [COUNT] counts of how readable the code is, beside their aims; with a name, every place of that count
  lint          rustfmt, clippy with and without features, rustdoc; warnings are errors

Tests:
  test          installs the programs that the tests need, after listing them, then runs all tests;
                `test --no-setup` installs nothing
  setup         only the first half of `test`
  sim [RUNS]    the server over a simulated network, for RUNS seeds (3000): alone, with several shards, as nodes that share
                a log; `sim --seed N` repeats one, step by step
  referee       500 clients of all speeds that reload at random read 50 runs of 5,000 tokens: each has the exact text
  loom [NAME]   the model checker over the lock-free parts
  mutants [TXT] breaks the source in each way that loom-tests/README.md lists, and checks that a model fails
  asan          the bus's stress test, values and ends under AddressSanitizer (nightly)
  fuzz [SECS]   every fuzz target for SECS seconds (30)
  autobahn      all cases of the WebSocket suite, with and without compression; `autobahn fast`: a part of them
  engines [MIN] the engine contract: each fault against Redis, NATS and files, then random sequences of faults for
                MIN minutes (10); `--seed N` repeats them; `--old PATH` upgrades from that older binary instead
  soak [MIN]    the server for MIN minutes (30) on an engine that is killed now and then; accounts for every event,
                and samples memory and descriptors; `--docs` writes the report to docs/

Measures and checks:
  bench [NAME]  the benchmarks
  instructions  counts the instructions of small operations under callgrind and compares them with
                benches/instructions.txt; `instructions keep` writes that file
  features      the cost of each feature in a fresh build; `features crates` counts crates only
  api           compares the public API with public-api.txt and checks its foreign types; `api keep` writes it
  deny          licenses, sources and bans of all dependencies (deny.toml); `deny advisories`: known vulnerabilities
  ci [PART]     everything that CI runs, in its order, or one part: lint, tidy, test, referee, release, sim, loom, mutants,
                asan, autobahn, instructions, deny (with api), fuzz
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut totals = Totals::default();
    let rest = args.get(1).map(String::as_str);
    let outcome = match args.first().map(String::as_str) {
        Some("quick") => quick(rest, &mut totals),
        Some("test") => test(rest, &mut totals),
        Some("setup") => setup::install(),
        Some("tidy") => tidy::check(),
        Some("house") => house::report(rest),
        Some("lint") => lint(),
        Some("loom") => loom(rest, &mut totals),
        Some("asan") => asan(&mut totals),
        Some("mutants") => mutants::check(rest),
        Some("autobahn") => autobahn::check(rest == Some("fast")),
        Some("sim") => sim(&args[1..], &mut totals),
        Some("referee") => referee(&mut totals),
        Some("fuzz") => fuzz(rest),
        Some("bench") => bench(rest),
        Some("instructions") => instructions::check(rest),
        Some("features") => features::table(rest),
        Some("soak") => soak::run(&args[1..]),
        Some("engines") => engines::run(&args[1..], &mut totals),
        Some("api") => api::check(rest),
        Some("deny") => deny(rest),
        Some("ci") => ci(rest, &mut totals),
        Some(other) if !matches!(other, "help" | "--help" | "-h") => {
            Err(format!("no such command: {other}\n\n{HELP}"))
        }
        _ => {
            println!("{HELP}");
            Ok(())
        }
    };
    if totals.ran() {
        println!("\n{totals}");
    }
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Unit tests that take most of the time: random input in bulk, and waits for real deadlines. `quick` leaves them out.
const SLOW_TESTS: [&str; 20] = [
    "a_memo_that_cannot_help_is_bypassed_and_comes_back",
    "a_panic_in_any_of_the_engines_threads_stops_the_server",
    "an_event_is_deflated_once_whatever_the_number_of_members",
    "another_implementation_reads_every_block_at_once",
    "conditions_share_one_walk_and_are_found_by_the_values_of_the_event",
    "cuts_change_nothing",
    "every_members_bytes_can_be_read",
    "it_is_bounded_whatever_comes",
    "long_patterns_match_as_short_ones",
    "no_event_is_matched_for_a_client_that_may_not_see_it",
    "overlapping_sets_that_change_get_their_events_or_exact_gaps",
    "over_several_shards_the_union_of_all_connections_of_a_client_is_exact",
    "planted_faults_are_found",
    "streams_that_come_and_go_for_ever_leave_no_memory",
    "the_store_behaves_as_a_naive_model",
    "the_matcher_agrees_with_every_filter",
    "the_totals_balance_under_every_policy",
    "the_promises_hold_over_any_network",
    "whatever_is_cut_or_damaged_it_opens_and_gives_no_id_twice",
    "answers_do_not_depend_on_how_the_input_is_split",
];

/// Runs the checks of an inner loop: those that find most faults in under a minute.
///
/// With `name`, only the unit tests with that text in their path run, the slow ones among them.
fn quick(name: Option<&str>, totals: &mut Totals) -> Outcome {
    let start = std::time::Instant::now();
    cargo(&["fmt", "--all", "--check"])?;
    // The house rules and clippy each take seconds on one core, so they run in parallel.
    std::thread::scope(|scope| {
        let rules = scope.spawn(tidy::check);
        let lints = cargo(&["clippy", "--all-features", "--", "-D", "warnings"]);
        rules.join().unwrap_or_else(|_| Err("tidy panicked".to_owned())).and(lints)
    })?;
    let mut args = vec!["test", "--all-features", "--lib"];
    match name {
        Some(name) => args.push(name),
        None => {
            args.push("--");
            args.extend(SLOW_TESTS.iter().flat_map(|name| ["--skip", name]));
        }
    }
    run::tests(&args, &[], totals)?;
    println!("quick: {} s", start.elapsed().as_secs());
    Ok(())
}

fn test(option: Option<&str>, totals: &mut Totals) -> Outcome {
    match option {
        None => setup::install()?,
        Some("--no-setup") => {}
        Some(other) => return Err(format!("test takes --no-setup or nothing, not {other}")),
    }
    run::tests(&["test", "--workspace", "--all-features", "--no-fail-fast"], &[], totals)?;
    run::tests(&["test", "--no-default-features", "--lib"], &[], totals)
}

fn lint() -> Outcome {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"])?;
    cargo(&["clippy", "--no-default-features", "--lib", "--", "-D", "warnings"])?;
    // With the unit tests: they do not compile if they use a helper that only the server has, although the library
    // does.
    cargo(&["clippy", "--no-default-features", "--lib", "--profile", "test", "--", "-D", "warnings"])?;
    for features in ["server", "server,dialects", "tower"] {
        cargo(&["clippy", "--no-default-features", "--features", features, "--lib", "--", "-D", "warnings"])?;
    }
    run::command("cargo", &["doc", "--no-deps", "--all-features"], &[("RUSTDOCFLAGS", "-D warnings")], ".")
}

fn loom(name: Option<&str>, totals: &mut Totals) -> Outcome {
    run::need("loom-tests/Cargo.toml")?;
    let env = [("RUSTFLAGS", "--cfg loom"), ("LOOM_MAX_PREEMPTIONS", "2")];
    let mut args = vec!["test", "--release", "--manifest-path", "loom-tests/Cargo.toml"];
    args.extend(name);
    run::tests(&args, &env, totals)
}

/// Runs the stress test with AddressSanitizer, which detects a use after free that models and plain runs can miss.
fn asan(totals: &mut Totals) -> Outcome {
    let env = [
        ("RUSTFLAGS", "-Zsanitizer=address"),
        ("RUSTUP_TOOLCHAIN", "nightly"),
        ("CARGO_TARGET_DIR", "target/asan"),
    ];
    let target = "x86_64-unknown-linux-gnu";
    run::tests(
        &[
            "test",
            "--release",
            "--no-default-features",
            "--test",
            "bus_stress",
            "--test",
            "bus_values",
            "--test",
            "bus_close",
            "--target",
            target,
        ],
        &env,
        totals,
    )
}

/// Tests of the simulated network that take seeds: one server, several shards, and nodes that share a log.
const SIMULATED: [&str; 3] = [
    "sim::the_promises_hold_over_any_network",
    "sim::union::over_several_shards_the_union_of_all_connections_of_a_client_is_exact",
    "sim::nodes::kept_logs_of_nodes_that_share_a_log_are_exact_or_tell",
];

/// Runs many seeds of the simulated network, or one of them with every step printed.
fn sim(args: &[String], totals: &mut Totals) -> Outcome {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (seed, runs, trace) = match args.as_slice() {
        ["--seed", seed] => (*seed, "1", Some(("FANWIRE_SIM_TRACE", "1"))),
        [] => ("1", "3000", None),
        [runs] => ("1", *runs, None),
        _ => return Err("sim takes a number of seeds, or --seed N".to_owned()),
    };
    if runs.parse::<u64>().is_err() {
        return Err(format!("sim takes a number of seeds, not {runs}"));
    }
    let mut env = vec![("FANWIRE_SIM_SEED", seed), ("FANWIRE_SIM_RUNS", runs)];
    env.extend(trace);
    for test in SIMULATED {
        run::tests(&["test", "--release", "--lib", test, "--", "--nocapture"], &env, totals)?;
    }
    Ok(())
}

/// Runs the referee of kept runs in its long form: 500 clients of all speeds over 50 runs of 5,000 tokens.
fn referee(totals: &mut Totals) -> Outcome {
    let env = [("FANWIRE_BROWSERS", "500"), ("FANWIRE_TOKENS", "5000")];
    let test = "browsers_of_all_speeds_end_with_the_exact_text";
    run::tests(&["test", "--workspace", "--all-features", "--test", "concat", test], &env, totals)
}

fn fuzz(seconds: Option<&str>) -> Outcome {
    run::need("fuzz/Cargo.toml")?;
    let seconds: u64 =
        seconds.unwrap_or("30").parse().map_err(|_| "fuzz takes a number of seconds".to_owned())?;
    setup::cargo_tool("cargo-fuzz", "fuzz")?;
    let mut targets: Vec<String> = std::fs::read_dir("fuzz/fuzz_targets")
        .map_err(|error| format!("fuzz/fuzz_targets: {error}"))?
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    targets.sort();
    for target in &targets {
        let limit = format!("-max_total_time={seconds}");
        let corpus = format!("fuzz/corpus/{target}");
        // Regressions come first; the fuzzer starts from them.
        seed(target, &corpus)?;
        let mut args = vec!["fuzz", "run", target.as_str(), corpus.as_str(), "--", limit.as_str()];
        let words = format!("-dict=fuzz/dict/{target}.dict");
        if std::path::Path::new(&words["-dict=".len()..]).is_file() {
            args.push(&words);
        }
        args.extend(["-max_len=4096", "-timeout=10", "-verbosity=0", "-print_final_stats=1"]);
        nightly(&args)?;
    }
    println!("fuzzed {} targets for {seconds} s each", targets.len());
    Ok(())
}

/// Copies a target's regressions into its corpus.
fn seed(target: &str, corpus: &str) -> Outcome {
    let failed = |place: &str, error: std::io::Error| format!("{place}: {error}");
    std::fs::create_dir_all(corpus).map_err(|error| failed(corpus, error))?;
    let known = format!("fuzz/regressions/{target}.txt");
    if !std::path::Path::new(&known).is_file() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&known).map_err(|error| failed(&known, error))?;
    let cases =
        cases::read(&text).map_err(|line| format!("{known}: this line belongs to no case: {line}"))?;
    for (nth, case) in cases.iter().enumerate() {
        let place = format!("{corpus}/regression-{nth}");
        std::fs::write(&place, &case.bytes).map_err(|error| format!("{place} ({}): {error}", case.what))?;
    }
    Ok(())
}

fn deny(what: Option<&str>) -> Outcome {
    setup::cargo_tool("cargo-deny", "deny")?;
    match what {
        Some(what) => cargo(&["deny", "check", what]),
        // Advisories need the network, which CI may not have.
        None => cargo(&["deny", "check", "bans", "licenses", "sources"]),
    }
}

fn bench(name: Option<&str>) -> Outcome {
    match name {
        Some(name) => cargo(&["bench", "--bench", name]),
        None => cargo(&["bench"]),
    }
}

/// Profile of benchmarks that must compile, not be fast.
const QUICK_BENCHES: [(&str, &str); 2] =
    [("CARGO_PROFILE_BENCH_LTO", "off"), ("CARGO_PROFILE_BENCH_CODEGEN_UNITS", "16")];

/// A part of CI: its name and its check.
type Part = (&'static str, fn(&mut Totals) -> Outcome);

/// Everything that CI runs, in its order. `.github/workflows/ci.yml` runs the same parts in parallel.
const CI: [Part; 13] = [
    ("lint", |_| lint()),
    ("tidy", |_| tidy::check()),
    ("test", |totals| test(None, totals)),
    ("referee", referee),
    ("release", release),
    ("sim", |totals| sim(&["3000".to_owned()], totals)),
    ("loom", |totals| loom(None, totals)),
    ("mutants", |_| mutants::check(None)),
    ("asan", asan),
    ("autobahn", |_| autobahn::check(true)),
    ("instructions", |_| instructions::check(None)),
    ("deny", |_| deny(None).and_then(|()| api::check(None))),
    ("fuzz", |_| fuzz(Some("20"))),
];

/// Runs all parts of CI, or the one with this name.
fn ci(part: Option<&str>, totals: &mut Totals) -> Outcome {
    let named = CI.iter().filter(|(name, _)| part.is_none_or(|part| part == *name));
    let mut parts = named.peekable();
    if parts.peek().is_none() {
        let names: Vec<_> = CI.iter().map(|(name, _)| *name).collect();
        return Err(format!("no such part of CI; there are {}", names.join(", ")));
    }
    parts.try_for_each(|(_, check)| check(totals))
}

/// Checks that need a release build and have no other command.
fn release(totals: &mut Totals) -> Outcome {
    // This test opens and closes ten million streams, too many for a debug build.
    run::tests(&["test", "--release", "--lib", "streams_that_come_and_go"], &[], totals)?;
    // Only checks that the benchmarks compile.
    run::command("cargo", &["bench", "--no-run"], &QUICK_BENCHES, ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_tests_exist() {
        let mut code = String::new();
        for file in house::files(&["../src"]) {
            code += &std::fs::read_to_string(file).expect("a source file");
        }
        for name in SLOW_TESTS {
            assert!(code.contains(&format!("fn {name}(")), "{name} is no test any more: use its new name");
        }
    }

    #[test]
    fn the_hosted_ci_runs_each_part() {
        let workflow = include_str!("../../.github/workflows/ci.yml");
        let jobs: Vec<_> = workflow
            .lines()
            .filter_map(|line| line.trim().strip_prefix("part: ["))
            .flat_map(|parts| parts.trim_end_matches(']').split(", "))
            .collect();
        let mut wanted: Vec<_> = CI.iter().map(|(name, _)| *name).collect();
        let mut found = jobs.clone();
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }
}
