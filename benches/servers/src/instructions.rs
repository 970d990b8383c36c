//! User-space instructions of a server for each delivery, counted by valgrind because the machine may have no counters
//! for them.
//!
//! A load runs twice, for a short and a long time: the difference has neither start nor connects in it. Its rate is four
//! bursts a second, or 200 single events, because valgrind makes a server about fifty times slower.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::loads::{LOADS, Load};
use crate::peers::{self, Ground, Peer};

const SHORT: &str = "1";
const LONG: &str = "6";

/// Returns the load's options at a rate that a server under valgrind keeps up with.
fn slower(load: &Load, seconds: &str) -> Vec<String> {
    let mut args: Vec<String> = load.args.split(' ').map(str::to_owned).collect();
    let value = |args: &[String], name: &str| args.iter().position(|arg| arg == name).map(|at| at + 1);
    let burst: u64 = value(&args, "-b").and_then(|at| args[at].parse().ok()).unwrap_or(1);
    let rate = if burst == 1 { 200 } else { burst * 4 };
    for (name, to) in [("-r", rate.to_string()), ("-s", seconds.to_owned())] {
        if let Some(at) = value(&args, name) {
            args[at] = to;
        }
    }
    args
}

/// Runs the load once. Returns the server's instructions and the deliveries.
fn run(load: &Load, peer: &Peer, seconds: &str, port: u16) -> Result<(f64, f64), String> {
    let folder = std::env::temp_dir().join(format!("fanwire-instructions-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let out = folder.join("callgrind.out");
    let under = ["valgrind", "--tool=callgrind", &format!("--callgrind-out-file={}", out.display())];
    let under = under.map(str::to_owned);
    let running = peer.start(&Ground { port, folder: folder.clone() }, &under)?;
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(peers::fanwire()).args(["bench", "--json", "--url", &running.url]);
    command.args(["--speak", peer.speak]).args(peer.more).args(slower(load, seconds));
    if let Some(address) = &running.publish_to {
        command.args(["--publish-to", address]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().map_err(|e| e.to_string())?;
    // Time for the server to process all disconnects, so that both runs contain their cost.
    std::thread::sleep(Duration::from_secs(3));
    running.end()?;
    let text = fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    // The folder is not needed any more.
    let _ = fs::remove_dir_all(&folder);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned());
    }
    let result: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
    let total = total.ok_or("valgrind wrote no total")?;
    Ok((total, result["delivered"].as_f64().unwrap_or(0.0)))
}

/// Prints each contestant's instructions for each delivery.
pub fn count(names: &[String]) -> Result<(), String> {
    let only = names.iter().position(|name| name == "--only").and_then(|at| names.get(at + 1));
    let mut port = 10_000 + (std::process::id() as u16 % 200) * 50;
    for load in LOADS.iter().filter(|load| names.iter().any(|name| name == load.name)) {
        for peer in load.peers.iter().filter(|peer| load.takes(peer)) {
            if !peer.is_wanted(only.map(String::as_str)) {
                continue;
            }
            port += 4;
            let both = run(load, peer, SHORT, port)
                .and_then(|short| run(load, peer, LONG, port + 2).map(|long| (short, long)));
            match both {
                Ok((short, long)) => {
                    let each = (long.0 - short.0) / (long.1 - short.1);
                    println!("{:22} {:28} {each:9.0} instructions a delivery", load.name, peer.name);
                }
                Err(error) => println!("{:22} {:28} {error}", load.name, peer.name),
            }
        }
    }
    Ok(())
}
