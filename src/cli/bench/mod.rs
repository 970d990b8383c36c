//! `fanwire bench`: puts a load of many clients and one publisher on a server, and measures its cost.
//!
//! Always: latency counts from the time an event was due, not from the time it was sent, so a delayed publisher hides
//! nothing (no coordinated omission).

mod keys;
mod load;
mod mark;
mod plan;
mod process;
mod publish;
mod report;
mod schedule;
mod socket;
mod speak;
mod unpack;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use self::keys::KeyLists;
use self::load::Load;
use self::plan::{LoadOptions, LoadPlan};
use self::process::Process;
use self::report::{BenchReport, Memory};
use self::speak::{Site, Speak, Transport};
use super::error::CliError;
use super::remote::{Access, Remote};
use super::target::Target;
use super::trust;

/// Options of `fanwire bench`.
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    /// Server to load; without it, the run starts one on a free port
    #[arg(long, env = "FANWIRE_URL", hide_env_values = true)]
    url: Option<Target>,
    #[command(flatten)]
    access: Access,
    /// Protocol of the server: fanwire's, or another product's for comparison
    #[arg(long, default_value = "fanwire")]
    speak: Speak,
    /// HOST:PORT to publish to, if it is not the clients'
    #[arg(long, value_name = "ADDR:PORT")]
    publish_to: Option<Target>,
    /// Process id of the server, to read its CPU time and memory; not needed if the run starts the server
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    load: LoadOptions,
    /// Instead of a load: connect and disconnect this many clients, --connections at a time
    #[arg(long, value_name = "N")]
    churn: Option<usize>,
    /// Seconds to measure
    #[arg(long, short = 's', default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the same load before the measurement, not counted
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    warm_up: f64,
    /// Number of loops of the server that the run starts
    #[arg(long, default_value_t = 1)]
    loops: usize,
    /// Pin the server to the first core and the load to the second
    #[arg(long)]
    pin: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A server process started for the run. It is killed on drop.
struct OwnServer(Child);

impl Drop for OwnServer {
    fn drop(&mut self) {
        // The server may have ended by itself, and an error could not be reported.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_server(loops: usize) -> Result<(OwnServer, Target), CliError> {
    let exe = std::env::current_exe().map_err(CliError::new)?;
    let mut child = Command::new(exe)
        .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "warn", "--loops", &loops.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| CliError::new(format!("cannot start a server for the run: {e}")))?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| CliError::new("cannot start a server for the run: it has no output"))?;
    let own = OwnServer(child);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).map_err(CliError::new)?;
    let url = line.trim().strip_prefix("listening on ").and_then(|url| url.parse().ok());
    let url =
        url.ok_or_else(|| CliError::new("the server that the run started did not print its address"))?;
    Ok((own, url))
}

fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

/// Runs the load and prints the result.
pub(super) fn run(args: BenchArgs) -> Result<(), CliError> {
    if args.load.deflate && args.load.transport == Transport::Sse {
        return Err(CliError::new("--deflate works with --transport ws only"));
    }
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
    let (churn, warm_up, json) = (args.churn, args.warm_up, args.json);
    let plan = plan(args, url)?;
    plan.way().check().map_err(CliError::new)?;
    let connecting = |error: std::io::Error| {
        trust::refusal(&error, &plan.remote.url)
            .unwrap_or_else(|| CliError::new(format!("cannot connect: {error}")))
    };
    let resident = || process.as_ref().and_then(Process::resident_bytes);
    if let Some(total) = churn {
        load::churn(&plan, plan.options.connections).map_err(connecting)?;
        let before = settled(resident);
        eprintln!("connecting and disconnecting {total} clients, {} at a time", plan.options.connections);
        load::churn(&plan, total).map_err(connecting)?;
        println!("{}", report::churn(&plan, total, before.zip(settled(resident)), json));
        return Ok(());
    }
    // The first clients make the server load code and tables that all others share.
    let options = LoadOptions { connections: WARM_CLIENTS, ..plan.options.clone() };
    let warm = LoadPlan { options, ..plan.clone() };
    load::churn(&warm, WARM_CLIENTS).map_err(connecting)?;
    eprintln!("connecting {} clients to {}", plan.options.connections, plan.remote.url);
    let before = settled(resident);
    let mut load = Load::connect(&plan).map_err(connecting)?;
    let after = settled(resident);
    let (burst, seconds) = (plan.options.burst, plan.time.as_secs_f64());
    match plan.options.window {
        Some(window) => eprintln!("publishing bursts of {burst}, {window} at once, for {seconds} s"),
        None => eprintln!("publishing {} events/s in bursts of {burst} for {seconds} s", plan.options.rate),
    }
    if warm_up > 0.0 {
        let warm = LoadPlan { time: Duration::from_secs_f64(warm_up), ..plan.clone() };
        load.run(&warm, None).map_err(|e| CliError::new(format!("the warm-up failed: {e}")))?;
        load.forget();
    }
    let ready = resident();
    let result =
        load.run(&plan, process.as_ref()).map_err(|e| CliError::new(format!("the run failed: {e}")))?;
    let memory = Memory { idle: before.zip(after), loaded: ready.zip(resident()) };
    let report = BenchReport::new(&plan, &result, memory);
    if json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Converts the options to the parameters of a run. Reads credentials and authorities.
fn plan(args: BenchArgs, url: Target) -> Result<LoadPlan, CliError> {
    let remote = Remote::new(url, &args.access)?;
    let publish_to = match args.publish_to {
        Some(other) => Remote::new(other, &args.access)?,
        None => remote.clone(),
    };
    let options = args.load.clamped();
    let lists = KeyLists::new(&options.keys, options.connections.max(WARM_CLIENTS));
    Ok(LoadPlan {
        site: Site::new(&remote),
        publish_site: Site::new(&publish_to),
        remote,
        publish_to,
        speak: args.speak,
        options,
        lists: Arc::new(lists),
        time: Duration::from_secs_f64(args.seconds),
    })
}

/// Number of clients that connect once before anything is measured.
const WARM_CLIENTS: usize = 10;

/// Returns the server's memory after a pause in which it can free what departed clients held.
fn settled(resident: impl Fn() -> Option<u64>) -> Option<u64> {
    std::thread::sleep(Duration::from_millis(300));
    resident()
}
