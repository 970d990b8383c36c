//! `fanwire bench`: a load of many clients and one publisher, and what it cost the server.
//!
//! Imports public items only. Always: times are counted from when an event was due, not from when it was sent,
//! so a publisher that is held up hides nothing (no coordinated omission).

mod load;
mod process;
mod report;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::CliError;
use load::{Load, Plan, Transport};
use process::Process;

/// The options of `fanwire bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server to load; without it, one is started for the run, on a free port
    #[arg(long, env = "FANWIRE_URL")]
    url: Option<String>,
    /// The server's process, whose CPU time and memory are read; known where the run starts it
    #[arg(long)]
    pid: Option<u32>,
    /// Clients
    #[arg(long, short = 'c', default_value_t = 1000)]
    connections: usize,
    /// How the clients listen
    #[arg(long, default_value = "ws")]
    transport: Transport,
    /// Events a second
    #[arg(long, short = 'r', default_value_t = 100)]
    rate: u64,
    /// Events published together
    #[arg(long, short = 'b', default_value_t = 1)]
    burst: u64,
    /// Bytes of the JSON payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Different filters, spread over the clients; each event matches one of them
    #[arg(long, default_value_t = 1)]
    filters: usize,
    /// Of each hundred clients, how many never read
    #[arg(long, default_value_t = 0)]
    sleepers: usize,
    /// Seconds that are measured
    #[arg(long, short = 's', default_value_t = 5.0)]
    seconds: f64,
    /// Loops of the server that the run starts
    #[arg(long, default_value_t = 1)]
    loops: usize,
    /// Pin the server to the first core and the load to the second
    #[arg(long)]
    pin: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// A server started for the run; ends with it.
struct Own(Child);

impl Drop for Own {
    fn drop(&mut self) {
        // It may have ended by itself; and there is nobody left to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_server(loops: usize) -> Result<(Own, String), CliError> {
    let exe = std::env::current_exe().map_err(CliError::new)?;
    let mut child = Command::new(exe)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--loops", &loops.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| CliError::new(format!("starting a server: {e}")))?;
    let stdout = child.stdout.take().ok_or_else(|| CliError::new("starting a server: no output"))?;
    let own = Own(child);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map_err(CliError::new)?;
    let url = line.trim().strip_prefix("listening on ").unwrap_or_default().to_owned();
    if url.is_empty() {
        return Err(CliError::new("the server that the run started did not say where it listens"));
    }
    Ok((own, url))
}

fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

/// Runs the load and prints what came of it.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    if args.pin {
        pin(0);
    }
    let (own, url) = match &args.url {
        Some(url) => (None, url.clone()),
        None => start_server(args.loops).map(|(own, url)| (Some(own), url))?,
    };
    if args.pin {
        pin(1);
    }
    let process = args.pid.or(own.as_ref().map(|own| own.0.id())).map(Process::new);
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let plan = Plan {
        address,
        connections: args.connections,
        transport: args.transport,
        rate: args.rate.max(1),
        burst: args.burst.max(1),
        payload: args.payload,
        filters: args.filters.max(1),
        sleepers: args.sleepers.min(100),
        time: Duration::from_secs_f64(args.seconds),
    };
    eprintln!("connecting {} clients to {url}", plan.connections);
    let before = process.as_ref().and_then(Process::resident_bytes);
    let mut load = Load::connect(&plan).map_err(|e| CliError::new(format!("connecting: {e}")))?;
    let after = process.as_ref().and_then(Process::resident_bytes);
    eprintln!("publishing {} events/s in bursts of {} for {} s", plan.rate, plan.burst, args.seconds);
    let outcome = load.run(&plan, process.as_ref()).map_err(|e| CliError::new(format!("the run: {e}")))?;
    let report = report::Report::new(&plan, &outcome, before.zip(after));
    if args.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}
