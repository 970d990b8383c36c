//! Counts the instructions of small operations under callgrind and compares them with the kept counts.
//!
//! Always: an operation that exceeds its kept count by more than the tolerance fails. On another kind of machine the
//! tolerance is wide, because libraries choose their code by the processor's features.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use crate::run::Outcome;
use crate::setup;

const KEPT: &str = "benches/instructions.txt";
/// Folder for callgrind's profiles, one per turn.
const PROFILES: &str = "target/instructions";
const HEAD: &str = "\
# Instructions that each operation of benches/instructions.rs takes, by `cargo xtask instructions`, which fails where one
# takes 10 % more (and 10 more). `cargo xtask instructions keep` writes this file: say in the commit why it had to change.
";
/// Number of operations in the shorter run. The longer run has twice as many; the difference excludes start and end.
const TIMES: u64 = 2000;
/// Number of measurements of an operation with randomly seeded hash tables; the median counts. The two runs of a
/// measurement fill tables with different seeds, so their difference varies by up to a tenth of a match.
const MEASUREMENTS_BY_CHANCE: usize = 5;
/// Number of turns of each kind; the most expensive one counts.
const TIMES_OF_TURNS: u64 = 8;
/// Function that runs one turn per call, as callgrind names it.
const TURN: &str = "fanwire::server::harness::OneClient::counted_turn";
/// Instruction limit of one turn of a loop, independent of the kept count: about 2 ms.
const TURN_MAX: u64 = 6_000_000;
/// Instruction limit of a turn for a client without a token: about 0.1 ms.
const STRANGER_TURN_MAX: u64 = 300_000;
/// Maximum cost of a change to one of 1,000 subscriptions, as a multiple of the cost with a single subscription.
const CHANGE_RATIO_MAX: u64 = 2;
/// Tolerance in percent. Changes in unrelated code can change what the compiler inlines.
const PERCENT: u64 = 10;
/// Minimum tolerance in instructions: small operations change by a few instructions with each compiler.
const LEAST: u64 = 10;
/// Tolerance in percent for operations with randomly seeded hash tables.
const PERCENT_BY_CHANCE: u64 = 25;
/// Tolerance in percent on another kind of machine.
const PERCENT_ELSEWHERE: u64 = 50;
/// Setting that keeps the C library from choosing its copy functions by the processor.
const PLAIN_COPIES: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX512F,-AVX512VL,-AVX512BW,-ERMS,-FSRM");

/// Counted instructions by operation, and the kind of machine.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    machine: String,
    operations: Vec<(String, u64)>,
}

impl Counts {
    fn parse(text: &str) -> Result<Self, String> {
        let mut counts = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            match line.split_once(' ') {
                Some(("machine", machine)) => counts.machine = machine.to_owned(),
                Some((name, count)) => {
                    let count = count.trim().parse().map_err(|_| format!("{KEPT}: no count in {line:?}"))?;
                    counts.operations.push((name.to_owned(), count));
                }
                None => return Err(format!("{KEPT}: not a line of it: {line:?}")),
            }
        }
        Ok(counts)
    }

    fn print(&self) -> String {
        let mut text = format!("{HEAD}machine {}\n", self.machine);
        for (name, count) in &self.operations {
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }

    /// Lists the operations that exceed the kept counts or their limits.
    fn faults(&self, kept: &Self) -> Vec<String> {
        let percent = |name: &str| match name.starts_with("match") {
            _ if self.machine != kept.machine => PERCENT_ELSEWHERE,
            _ if name.starts_with("turn-") => PERCENT_BY_CHANCE,
            true => PERCENT_BY_CHANCE,
            false => PERCENT,
        };
        let mut faults = Vec::new();
        let of =
            |wanted: &str| self.operations.iter().find(|(name, _)| name == wanted).map(|(_, count)| *count);
        if let (Some(first), Some(last)) = (of("change-1-of-1"), of("change-1-of-1000"))
            && last > CHANGE_RATIO_MAX * first
        {
            faults.push(format!(
                "changing one of 1,000 subscriptions takes {last} instructions, changing the only one {first}"
            ));
        }
        for (name, count) in &self.operations {
            let most = if name.starts_with("turn-stranger-") { STRANGER_TURN_MAX } else { TURN_MAX };
            if name.starts_with("turn-") && *count > most {
                faults.push(format!("{name} takes {count} instructions; the limit of a turn is {most}"));
            }
            // An operation that fills a turn has the turn's limit, so it needs no kept count.
            let is_limited = name.starts_with("turn-") || name.starts_with("change-");
            if is_limited && !kept.operations.iter().any(|(known, _)| known == name) {
                continue;
            }
            let Some((_, kept)) = kept.operations.iter().find(|(known, _)| known == name) else {
                faults.push(format!("{name} is new: {count}; run `cargo xtask instructions keep`"));
                continue;
            };
            let most = kept + (kept * percent(name) / 100).max(LEAST);
            if *count > most {
                faults.push(format!(
                    "{name} takes {count} instructions; the limit is {most} (kept count: {kept})"
                ));
            }
        }
        for (name, _) in &kept.operations {
            if !self.operations.iter().any(|(known, _)| known == name) {
                faults.push(format!(
                    "{name} is kept, but there is no such operation; run `cargo xtask instructions keep`"
                ));
            }
        }
        faults
    }
}

pub(crate) fn check(what: Option<&str>) -> Outcome {
    if !cfg!(target_arch = "x86_64") {
        println!(
            "instructions: counts are kept for x86-64 only; this is another machine, nothing is compared"
        );
        return Ok(());
    }
    setup::program("valgrind", "valgrind")?;
    let program = build()?;
    let counts = count(&program)?;
    match what {
        Some("keep") => fs::write(KEPT, counts.print()).map_err(|error| format!("{KEPT}: {error}")),
        Some(other) => Err(format!("instructions takes nothing or `keep`, not {other}")),
        None => {
            let text = fs::read_to_string(KEPT).map_err(|error| format!("{KEPT}: {error}"))?;
            let kept = Counts::parse(&text)?;
            if kept.machine != counts.machine {
                println!("kept on {}, and this is {}", kept.machine, counts.machine);
            }
            let faults = counts.faults(&kept);
            if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
        }
    }
}

/// Compiles the operations with CI's benchmark profile and returns the program's path.
fn build() -> Result<String, String> {
    let args = ["bench", "--no-run", "--bench", "instructions", "--message-format", "json"];
    println!("\n$ cargo {}", args.join(" "));
    let output = (Command::new("cargo").args(args).envs(crate::QUICK_BENCHES).stderr(Stdio::inherit()))
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let place = text.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        rest.split_once('"').map(|(place, _)| place).filter(|place| place.contains("instructions"))
    });
    place.map(str::to_owned).ok_or_else(|| format!("cargo bench ended with {}", output.status))
}

fn count(program: &str) -> Result<Counts, String> {
    let mut counts = Counts { machine: output_of(program, &["machine"])?, operations: Vec::new() };
    let names = output_of(program, &[])?;
    println!("{:<34} instructions", "operation");
    for name in names.lines() {
        let each = if name.starts_with("turn-") {
            most_expensive_turn(program, name)?
        } else {
            let measurements = if name.starts_with("match") { MEASUREMENTS_BY_CHANCE } else { 1 };
            let mut counts = (0..measurements)
                .map(|_| one_operation(program, name))
                .collect::<Result<Vec<u64>, String>>()?;
            counts.sort_unstable();
            counts[measurements / 2]
        };
        println!("{name:<34} {each:>6}");
        counts.operations.push((name.to_owned(), each));
    }
    Ok(counts)
}

/// Returns the instructions of one operation: the difference of a longer and a shorter run.
fn one_operation(program: &str, name: &str) -> Result<u64, String> {
    let (fewer, more) = (instructions(program, name, TIMES)?, instructions(program, name, 2 * TIMES)?);
    Ok(more.saturating_sub(fewer) / TIMES)
}

/// Returns the program's output on valgrind's emulated processor.
fn output_of(program: &str, args: &[&str]) -> Result<String, String> {
    let output = (Command::new("valgrind").args(["--tool=none", "-q", program]).args(args))
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{program} ended with {}", output.status)) }
}

fn instructions(program: &str, name: &str, times: u64) -> Result<u64, String> {
    let args = ["--tool=callgrind", "--callgrind-out-file=/dev/null", program, name];
    let output = (Command::new("valgrind").args(args).arg(times.to_string()))
        .env(PLAIN_COPIES.0, PLAIN_COPIES.1)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected =
        text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    match collected.and_then(|count| count.parse().ok()) {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("{name} under callgrind ended with {}: {text}", output.status)),
    }
}

/// Returns the instructions of the most expensive call of [`TURN`]. Callgrind writes a profile after each call.
fn most_expensive_turn(program: &str, name: &str) -> Result<u64, String> {
    let _ = fs::remove_dir_all(PROFILES);
    fs::create_dir_all(PROFILES).map_err(|error| format!("{PROFILES}: {error}"))?;
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["--tool=callgrind", "--dump-line=no"]);
    callgrind.arg(format!("--callgrind-out-file={PROFILES}/turn"));
    callgrind.args([format!("--zero-before={TURN}"), format!("--dump-after={TURN}")]);
    callgrind.args([program, name]).arg(TIMES_OF_TURNS.to_string()).env(PLAIN_COPIES.0, PLAIN_COPIES.1);
    let output = callgrind.output().map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{name} under callgrind ended with {}: {text}", output.status));
    }
    let mut turns = Vec::new();
    for file in fs::read_dir(PROFILES).map_err(|error| format!("{PROFILES}: {error}"))? {
        let path = file.map_err(|error| format!("{PROFILES}: {error}"))?.path();
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        turns.extend(turn_in(&text));
    }
    if (turns.len() as u64) < TIMES_OF_TURNS {
        return Err(format!("{name}: callgrind saw {} turns, of {TIMES_OF_TURNS}", turns.len()));
    }
    Ok(turns.into_iter().max().unwrap_or_default())
}

/// Returns the count of a turn's profile, or `None` for the profile of the program's end.
fn turn_in(profile: &str) -> Option<u64> {
    profile.lines().find(|line| line.starts_with("desc: Trigger:") && line.contains("counted_turn"))?;
    profile.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turns_profile_has_its_count() {
        let turn = "desc: Trigger: --dump-after=a::counted_turn\nevents: Ir\nfn=(1)\n0 5\ntotals: 123\n";
        assert_eq!(turn_in(turn), Some(123));
        assert_eq!(turn_in("desc: Trigger: Program termination\ntotals: 123\n"), None);
    }

    fn counts(machine: &str, operations: &[(&str, u64)]) -> Counts {
        let operations = operations.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { machine: machine.to_owned(), operations }
    }

    #[test]
    fn higher_counts_are_reported_and_lower_ones_are_not() {
        let kept = counts("x86_64 avx2", &[("small", 20), ("large", 1000)]);
        let faults =
            |small, large| counts("x86_64 avx2", &[("small", small), ("large", large)]).faults(&kept);
        assert_eq!(faults(30, 1100), Vec::<String>::new());
        assert_eq!(faults(1, 1), Vec::<String>::new());
        assert_eq!(faults(31, 1100).len(), 1);
        assert!(faults(20, 1101)[0].starts_with("large takes 1101"));
    }

    #[test]
    fn another_machine_may_differ_by_more() {
        let kept = counts("x86_64 avx2", &[("large", 1000)]);
        assert!(counts("x86_64", &[("large", 1500)]).faults(&kept).is_empty());
        assert_eq!(counts("x86_64", &[("large", 1501)]).faults(&kept).len(), 1);
    }

    #[test]
    fn new_and_removed_operations_are_reported() {
        let kept = counts("x86_64", &[("gone", 1)]);
        assert_eq!(counts("x86_64", &[("new", 1)]).faults(&kept).len(), 2);
    }

    #[test]
    fn kept_counts_read_back() {
        let kept = counts("x86_64 avx2 sse4.2", &[("a", 1), ("b", 200)]);
        assert_eq!(Counts::parse(&kept.print()), Ok(kept));
    }
}
