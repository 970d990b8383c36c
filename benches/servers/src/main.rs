//! Servers compared on the same work: `fanwire-servers run LOAD…` measures and keeps the results,
//! `fanwire-servers report` makes tables of the medians and the plots. README.md has the rest.

mod instructions;
mod loads;
mod peers;
mod plot;
mod report;
mod summary;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use loads::{LOADS, Load};
use peers::{Ground, Peer};
use serde_json::{Value, json};

/// Returns the file of the results. `FANWIRE_RESULTS` names another one.
fn results() -> PathBuf {
    let other = std::env::var_os("FANWIRE_RESULTS").map(PathBuf::from);
    other.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("results.jsonl"))
}

fn run(load: &Load, peer: &Peer, round: usize) -> Result<Value, String> {
    let folder = std::env::temp_dir().join(format!("fanwire-servers-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // A new port each time, because a port that was just closed may not be free yet.
    let port = 20_000 + (std::process::id() as u16 % 200) * 50 + (round as u16 * 2) % 50;
    let ground = Ground { port, folder: folder.clone() };
    let running = peer.start(&ground, &[])?;
    let mut command = Command::new("taskset");
    if peer.tls {
        command.env("FANWIRE_CA_FILE", ground.certificate("ca.pem"));
    }
    command.args(["-c", "1"]).arg(peers::fanwire()).args(["bench", "--json", "--url", &running.url]);
    command.args(["--pid", &running.pid().to_string(), "--speak", peer.speak]);
    command.args(peer.more).args(load.args.split(' '));
    if !load.name.contains("idle") {
        // Warm-up: just-in-time compilers, growing tables and filling sockets of sleepers are not measured.
        command.args(["--warm-up", if load.name.contains("sleep") { "4" } else { "1" }]);
    }
    if let Some(address) = &running.publish_to {
        command.args(["--publish-to", address]);
    }
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("fanwire bench: {error}"))?;
    drop(running);
    // The folder is not needed any more.
    let _ = fs::remove_dir_all(&folder);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", peer.name, errors.lines().last().unwrap_or_default()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{}: {error}", peer.name))
}

fn measure(names: &[String]) -> Result<(), String> {
    let value = |option: &str| {
        names.iter().position(|name| name == option).and_then(|at| names.get(at + 1)).map(String::as_str)
    };
    let rounds: usize = value("--rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let only = value("--only");
    let loads = LOADS.iter().filter(|load| names.iter().any(|name| name == load.name));
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(results())
        .map_err(|error| format!("{}: {error}", results().display()))?;
    let mut at = 0;
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for load in loads {
        // Contestants take turns, so that a change of the machine's speed affects all of them.
        for round in 0..rounds {
            for peer in load.peers {
                if !peer.is_wanted(only) || !load.takes(peer) {
                    continue;
                }
                at += 1;
                match run(load, peer, at) {
                    Ok(result) => {
                        let number = |name: &str| result[name].as_f64().unwrap_or(f64::NAN);
                        eprintln!(
                            "{:22} {:28} {:8.3} us  p50 {:6.2} p99 {:6.2} ms  {:9.0}/s  {:7.0} B  lost {}{}",
                            load.name,
                            peer.name,
                            number("server_cpu_us_per_delivery"),
                            result["latency_us"]["p50"].as_f64().unwrap_or(f64::NAN) / 1000.0,
                            result["latency_us"]["p99"].as_f64().unwrap_or(f64::NAN) / 1000.0,
                            if number("delivered") > 0.0 {
                                number("deliveries_per_second")
                            } else {
                                number("published_per_second")
                            },
                            number("server_bytes_per_connection"),
                            number("expected") - number("delivered"),
                            match (result["unwanted"].as_u64(), result["wrong_clients"].as_u64()) {
                                (None | Some(0), None | Some(0)) => String::new(),
                                (unwanted, wrong) => format!(
                                    ", {} unwanted, {} clients wrong",
                                    unwanted.unwrap_or(0),
                                    wrong.unwrap_or(0)
                                ),
                            }
                        );
                        let round = format!("{started}-{round}");
                        let line =
                            json!({ "load": load.name, "peer": peer.name, "round": round, "result": result });
                        writeln!(file, "{line}").map_err(|error| error.to_string())?;
                    }
                    Err(error) => eprintln!("{:22} {error}", load.name),
                }
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("run") => measure(&args[1..]),
        Some("instructions") => instructions::count(&args[1..]),
        Some("report") => report::write(&results()),
        _ => {
            println!(
                "fanwire-servers run LOAD… [--rounds N] [--only PEER;…] | instructions LOAD… [--only PEER;…] | report\n\nloads:"
            );
            for load in LOADS {
                println!("  {:22} {}", load.name, load.title);
            }
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
