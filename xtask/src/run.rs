//! Runs commands, and counts the tests that they run.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) type Outcome = Result<(), String>;

/// Sums over all test runs of this command.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    pub(crate) fn ran(&self) -> bool {
        self.passed + self.failed > 0
    }

    /// Adds a line of a test runner: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn take(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in rest.split(['.', ';']) {
            if let Some((number, what)) = part.trim().split_once(' ') {
                let number = number.parse().unwrap_or(0);
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

fn prepare(program: &str, args: &[&str], env: &[(&str, &str)], dir: &str) -> Command {
    println!("\n$ {program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs a command to its end. An exit code other than 0 is an error.
pub(crate) fn command(program: &str, args: &[&str], env: &[(&str, &str)], dir: &str) -> Outcome {
    let status = prepare(program, args, env, dir).status().map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {} ended with {status}", args.join(" "))) }
}

pub(crate) fn cargo(args: &[&str]) -> Outcome {
    command("cargo", args, &[], ".")
}

/// Runs cargo of the nightly toolchain, which the fuzzers need.
pub(crate) fn nightly(args: &[&str]) -> Outcome {
    let mut all = vec!["run", "nightly", "cargo"];
    all.extend(args);
    // Cargo sets this variable to the toolchain that runs xtask.
    let clean = [("RUSTUP_TOOLCHAIN", "nightly")];
    command("rustup", &all, &clean, ".")
}

/// Runs cargo, passes its output on, and counts the tests.
pub(crate) fn tests(args: &[&str], env: &[(&str, &str)], totals: &mut Totals) -> Outcome {
    let mut child = prepare("cargo", args, env, ".")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cargo: {error}"))?;
    let failed_before = totals.failed;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| format!("reading cargo's output: {error}"))?;
            totals.take(&String::from_utf8_lossy(&line));
            let mut out = std::io::stdout().lock();
            // A closed pipe is ignored: the exit code decides.
            let _ = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
        }
    }
    let status = child.wait().map_err(|error| format!("cargo: {error}"))?;
    if status.success() && totals.failed == failed_before {
        Ok(())
    } else {
        Err(format!("cargo {} ended with {status}", args.join(" ")))
    }
}

/// Fails if a file of the project is missing.
pub(crate) fn need(path: &str) -> Outcome {
    if Path::new(path).exists() { Ok(()) } else { Err(format!("{path} is missing")) }
}
