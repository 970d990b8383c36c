//! `fanwire bench`: a load of many clients and one publisher, and what it cost the server.
//!
//! Imports public items only. Always: times are counted from when an event was due, not from when it was sent,
//! so a publisher that is held up hides nothing (no coordinated omission).

mod load;
mod process;
mod report;
mod speak;
mod unpack;
mod wire;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::CliError;
use super::remote::{Access, Remote};
use super::target::Target;
use load::{Load, Plan, Transport};
use process::Process;
use speak::{Mix, Site, Speak};

/// The options of `fanwire bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The server to load; without it, one is started for the run, on a free port
    #[arg(long, env = "FANWIRE_URL", hide_env_values = true)]
    url: Option<Target>,
    #[command(flatten)]
    access: Access,
    /// What the server speaks: ours, or another that is measured beside it
    #[arg(long, default_value = "fanwire")]
    speak: Speak,
    /// HOST:PORT to publish to, where it is another than the clients'
    #[arg(long, value_name = "ADDR:PORT")]
    publish_to: Option<Target>,
    /// The server's process, whose CPU time and memory are read; known where the run starts it
    #[arg(long)]
    pid: Option<u32>,
    /// Clients
    #[arg(long, short = 'c', default_value_t = 1000)]
    connections: usize,
    /// How the clients listen
    #[arg(long, default_value = "ws")]
    transport: Transport,
    /// Clients ask for compressed messages (WebSocket only). One in sixteen reads what is in them, for the times; the
    /// others count them
    #[arg(long)]
    deflate: bool,
    /// Events a second
    #[arg(long, short = 'r', default_value_t = 100)]
    rate: u64,
    /// Events published together
    #[arg(long, short = 'b', default_value_t = 1)]
    burst: u64,
    /// Bytes of the JSON payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Keys of events, and so filters of each kind, spread over the clients
    #[arg(long, default_value_t = 1)]
    filters: usize,
    /// How clients tell what they want, one after the other: types, patterns, entities, all
    #[arg(long, value_delimiter = ',', default_value = "types")]
    mix: Vec<Mix>,
    /// Of each hundred clients, how many never read
    #[arg(long, default_value_t = 0)]
    sleepers: usize,
    /// Of each hundred clients, how many read slowly
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// Bytes a second that a slow client reads
    #[arg(long, default_value_t = 20_000)]
    slow_rate: usize,
    /// Instead of a rate: as fast as it is taken, with so many bursts under way
    #[arg(long, value_name = "BURSTS")]
    window: Option<u64>,
    /// Instead of a load: connect and disconnect so many clients, --connections at a time
    #[arg(long, value_name = "N")]
    churn: Option<usize>,
    /// Seconds that are measured
    #[arg(long, short = 's', default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the same load before that, which are not counted
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    warm_up: f64,
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

fn start_server(loops: usize) -> Result<(Own, Target), CliError> {
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
    let url = line.trim().strip_prefix("listening on ").and_then(|url| url.parse().ok());
    let url =
        url.ok_or_else(|| CliError::new("the server that the run started did not say where it listens"))?;
    Ok((own, url))
}

fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

/// Runs the load and prints what came of it.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    if args.deflate && args.transport == Transport::Sse {
        return Err(CliError::new("--deflate is for --transport ws"));
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
    let remote = Remote::new(url.clone(), &args.access)?;
    let publish_to = match args.publish_to {
        Some(other) => Remote::new(other, &args.access)?,
        None => remote.clone(),
    };
    let plan = Plan {
        site: Site::new(&remote),
        publish_site: Site::new(&publish_to),
        remote,
        publish_to,
        speak: args.speak,
        deflate: args.deflate,
        connections: args.connections,
        transport: args.transport,
        rate: args.rate.max(1),
        burst: args.burst.max(1),
        window: args.window.map(|window| window.max(1)),
        payload: args.payload,
        filters: args.filters.max(1),
        mix: args.mix,
        sleepers: args.sleepers.min(100),
        slow: args.slow.min(100),
        slow_rate: args.slow_rate,
        time: Duration::from_secs_f64(args.seconds),
    };
    let connecting = |error: std::io::Error| {
        super::trust::refusal(&error, &url).unwrap_or_else(|| CliError::new(format!("connecting: {error}")))
    };
    // The first clients make a server touch code and tables that all others share.
    let warm = Plan { connections: WARM_CLIENTS, ..plan.clone() };
    let resident = || process.as_ref().and_then(Process::resident_bytes);
    if let Some(total) = args.churn {
        load::churn(&plan, plan.connections).map_err(connecting)?;
        let before = settled(resident);
        eprintln!("connecting and disconnecting {total} clients, {} at a time", plan.connections);
        load::churn(&plan, total).map_err(connecting)?;
        println!("{}", report::churn(&plan, total, before.zip(settled(resident)), args.json));
        return Ok(());
    }
    load::churn(&warm, WARM_CLIENTS).map_err(connecting)?;
    eprintln!("connecting {} clients to {url}", plan.connections);
    let before = settled(resident);
    let mut load = Load::connect(&plan).map_err(connecting)?;
    let after = settled(resident);
    match plan.window {
        Some(window) => {
            eprintln!("publishing bursts of {}, {window} at once, for {} s", plan.burst, args.seconds);
        }
        None => {
            eprintln!("publishing {} events/s in bursts of {} for {} s", plan.rate, plan.burst, args.seconds);
        }
    }
    if args.warm_up > 0.0 {
        let warm = Plan { time: Duration::from_secs_f64(args.warm_up), ..plan.clone() };
        load.run(&warm, None).map_err(|e| CliError::new(format!("the warm-up: {e}")))?;
        load.forget();
    }
    let ready = resident();
    let outcome = load.run(&plan, process.as_ref()).map_err(|e| CliError::new(format!("the run: {e}")))?;
    let memory = report::Memory { idle: before.zip(after), loaded: ready.zip(resident()) };
    let report = report::Report::new(&plan, &outcome, memory);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(())
}

const WARM_CLIENTS: usize = 10;

/// A server's memory when it has had time to let go of what is gone.
fn settled(resident: impl Fn() -> Option<u64>) -> Option<u64> {
    std::thread::sleep(Duration::from_millis(300));
    resident()
}
