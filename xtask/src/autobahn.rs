//! The Autobahn suite against `examples/echo.rs`, with and without compression.
//!
//! Always: every case counts; a case that failed, was not strict, or did not run is an error. The suite needs Python 2.7
//! (its newer release does not start); without one this command fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::run::{self, Outcome, cargo};

const DIR: &str = "target/autobahn";
const REQUIREMENTS: &str = "tests/autobahn/requirements.txt";
const SUMMARY: &str = "tests/autobahn/summary.md";

/// Number of cases in the suite.
const CASES: usize = 517;

/// The last release of virtualenv that makes an environment for Python 2.7.
const VIRTUALENV: &str = "virtualenv<20.22";

/// Cases that CI runs: all protocol cases, and the first of each long series (limits, masses of compressed messages of
/// growing sizes).
fn fast_cases() -> Vec<String> {
    let mut cases: Vec<String> =
        ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"].map(str::to_owned).into();
    cases.extend(["9.1.1", "9.2.1", "9.3.1", "9.4.1", "9.7.1", "9.8.1"].map(str::to_owned));
    for series in
        ["12.1", "12.2", "12.3", "12.4", "12.5", "13.1", "13.2", "13.3", "13.4", "13.5", "13.6", "13.7"]
    {
        cases.extend([1, 3, 5].map(|case| format!("{series}.{case}")));
    }
    cases
}

/// Runs all cases and writes the summary, or runs only the fast cases.
pub(crate) fn check(fast: bool) -> Outcome {
    let wstest = install()?;
    // Only the features that the example needs, because engines and the program take long to compile.
    let features = ["--no-default-features", "--features", "deflate"];
    cargo(&[&["build", "--release", "--example", "echo"], &features[..]].concat())?;
    let cases = if fast { fast_cases() } else { vec!["*".to_owned()] };
    let mut summary = SUMMARY_HEAD.to_owned();
    let mut faults = Vec::new();
    for (agent, options) in [("plain", &[][..]), ("deflate", &["--deflate"][..])] {
        let results = {
            let echo = Echo::start(options)?;
            run_suite(&wstest, agent, &echo.url, &cases)?
        };
        if !fast && results.len() != CASES {
            faults.push(format!("{agent}: {} cases were run, not {CASES}", results.len()));
        }
        faults.extend(faults_of(agent, &results));
        report(agent, &results, &mut summary);
    }
    if !faults.is_empty() {
        return Err(format!("autobahn found {}:\n{}", faults.len(), faults.join("\n")));
    }
    if !fast {
        std::fs::write(SUMMARY, summary).map_err(|error| format!("{SUMMARY}: {error}"))?;
    }
    Ok(())
}

const SUMMARY_HEAD: &str = "\
# The Autobahn suite

`cargo xtask autobahn` writes this page: all cases of release 0.8.2 against `examples/echo.rs`, the server's connection code with a
session that echoes each message. *Without offer* counts compression cases while the server has compression off.
";

/// Result of a case, and of its connection's close.
struct Case {
    behavior: String,
    close: String,
}

fn is_compression(case: &str) -> bool {
    case.starts_with("12.") || case.starts_with("13.")
}

fn faults_of(agent: &str, results: &BTreeMap<String, Case>) -> Vec<String> {
    (results.iter())
        .filter(|(case, result)| {
            let unimplemented =
                agent == "plain" && is_compression(case) && result.behavior == "UNIMPLEMENTED";
            let is_good = |word: &str| matches!(word, "OK" | "INFORMATIONAL");
            !(is_good(&result.behavior) || unimplemented) || !is_good(&result.close)
        })
        .map(|(case, result)| format!("{agent} {case}: {}, closing {}", result.behavior, result.close))
        .collect()
}

/// Prints the number of cases by result, and appends the table.
fn report(agent: &str, results: &BTreeMap<String, Case>, summary: &mut String) {
    let mut sections: BTreeMap<u32, BTreeMap<&str, usize>> = BTreeMap::new();
    for (case, result) in results {
        let section = case.split('.').next().and_then(|section| section.parse().ok()).unwrap_or(0);
        *sections.entry(section).or_default().entry(&result.behavior).or_default() += 1;
    }
    // Writing to a String does not fail.
    let _ = write!(
        summary,
        "\n## {}\n\n| section | passed | informational | without offer | not strict | failed |\n|---|---|---|---|---|---|\n",
        if agent == "plain" { "Without compression" } else { "With `--deflate`" }
    );
    let words = ["OK", "INFORMATIONAL", "UNIMPLEMENTED", "NON-STRICT", "FAILED"];
    let mut sums = [0; 5];
    for (section, counts) in &sections {
        let row = words.map(|word| counts.get(word).copied().unwrap_or(0));
        for (sum, count) in sums.iter_mut().zip(row) {
            *sum += count;
        }
        let _ = writeln!(summary, "| {section} | {} |", row.map(|count| count.to_string()).join(" | "));
    }
    let _ = writeln!(summary, "| all | {} |", sums.map(|count| count.to_string()).join(" | "));
    println!("autobahn, {agent}: {} cases, {}", results.len(), {
        let shown: Vec<String> = words.iter().zip(sums).map(|(word, sum)| format!("{sum} {word}")).collect();
        shown.join(", ")
    });
}

/// A running echo server.
struct Echo {
    child: Child,
    url: String,
}

impl Echo {
    fn start(options: &[&str]) -> Result<Self, String> {
        let mut child = Command::new("target/release/examples/echo")
            .arg("127.0.0.1:0")
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("target/release/examples/echo: {error}"))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("echo: {error}"))?;
        }
        let url = line.trim().strip_prefix("listening on ").map(str::to_owned);
        let url = url.ok_or_else(|| format!("echo said {line:?}, not where it listens"))?;
        Ok(Self { child, url })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // If it has ended already, the suite's report shows that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_suite(
    wstest: &Path,
    agent: &str,
    url: &str,
    cases: &[String],
) -> Result<BTreeMap<String, Case>, String> {
    let reports = format!("{DIR}/reports-{agent}");
    // Reports of an earlier run, if there are any.
    let _ = std::fs::remove_dir_all(&reports);
    let spec = format!("{DIR}/{agent}.json");
    let list: Vec<String> = cases.iter().map(|case| format!("\"{case}\"")).collect();
    let text = format!(
        r#"{{"outdir":"{reports}","servers":[{{"agent":"{agent}","url":"{url}"}}],"cases":[{}],"exclude-cases":[],"exclude-agent-cases":{{}}}}"#,
        list.join(",")
    );
    std::fs::write(&spec, text).map_err(|error| format!("{spec}: {error}"))?;
    let log = format!("{DIR}/{agent}.log");
    let out = std::fs::File::create(&log).map_err(|error| format!("{log}: {error}"))?;
    let errors = out.try_clone().map_err(|error| format!("{log}: {error}"))?;
    println!("\n$ {} -m fuzzingclient -s {spec} > {log}", wstest.display());
    let status = Command::new(wstest)
        .args(["-m", "fuzzingclient", "-s", &spec])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .status()
        .map_err(|error| format!("{}: {error}", wstest.display()))?;
    if !status.success() {
        return Err(format!("wstest ended with {status}: see {log}"));
    }
    let index = format!("{reports}/index.json");
    let text = std::fs::read_to_string(&index).map_err(|error| format!("{index}: {error}; see {log}"))?;
    read_index(&text).ok_or_else(|| format!("{index} is not an index of the suite"))
}

/// Reads the suite's index: an object of agents, each an object of cases, each an object with one field per line.
fn read_index(text: &str) -> Option<BTreeMap<String, Case>> {
    let mut cases = BTreeMap::new();
    let mut name = None;
    let mut behavior = None;
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(": ") else { continue };
        let (key, value) = (key.trim_matches('"'), value.trim_end_matches(',').trim_matches('"'));
        match key {
            "behavior" => behavior = Some(value.to_owned()),
            "behaviorClose" => {
                let case = Case { behavior: behavior.take()?, close: value.to_owned() };
                cases.insert(name.take()?, case);
            }
            case if value == "{" => name = Some(case.to_owned()),
            _ => {}
        }
    }
    (!cases.is_empty()).then_some(cases)
}

/// Finds Python 2.7 on the path or among pyenv's versions.
fn python() -> Result<PathBuf, String> {
    let mut candidates = vec![PathBuf::from("python2.7")];
    let home = std::env::var("HOME").unwrap_or_default();
    for root in [std::env::var("PYENV_ROOT").unwrap_or_default(), format!("{home}/.pyenv")] {
        for version in std::fs::read_dir(format!("{root}/versions")).into_iter().flatten().flatten() {
            if version.file_name().to_string_lossy().starts_with("2.7") {
                candidates.push(version.path().join("bin/python2.7"));
            }
        }
    }
    let answers = |python: &PathBuf| {
        Command::new(python).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    candidates.into_iter().find(answers).ok_or_else(|| {
        "the Autobahn suite needs Python 2.7, and neither the path nor pyenv has one: run `pyenv install 2.7.18`"
            .to_owned()
    })
}

/// Installs the suite in an environment of its own and returns its program.
fn install() -> Result<PathBuf, String> {
    run::need(REQUIREMENTS)?;
    let wstest = Path::new(DIR).join("env/bin/wstest");
    let installed = format!("{DIR}/requirements.txt");
    let read = |path: &str| std::fs::read(path).ok();
    if wstest.exists() && read(REQUIREMENTS) == read(&installed) {
        return Ok(wstest);
    }
    let python = python()?;
    let python = python.to_string_lossy();
    std::fs::create_dir_all(DIR).map_err(|error| format!("{DIR}: {error}"))?;
    let tool = format!("{DIR}/virtualenv");
    let quiet = ["--quiet", "--disable-pip-version-check"];
    let mut args = vec!["-m", "pip", "install", "--upgrade", "--target", &tool, VIRTUALENV];
    args.extend(quiet);
    run::command(&python, &args, &[], ".")?;
    let env = format!("{DIR}/env");
    run::command(&python, &["-m", "virtualenv", "--quiet", "--clear", &env], &[("PYTHONPATH", &tool)], ".")?;
    let mut args = vec!["-m", "pip", "install", "--no-deps", "-r", REQUIREMENTS];
    args.extend(quiet);
    run::command(&format!("{env}/bin/python"), &args, &[], ".")?;
    std::fs::copy(REQUIREMENTS, &installed).map_err(|error| format!("{installed}: {error}"))?;
    Ok(wstest)
}
