//! `fanwire verify`: checks the promises of a running server.
//!
//! The command publishes numbered events, reads them with clients that cut their own connections, and records which events each
//! client must get. Always: it ends in bounded time. It trusts only its own counts, not the server's answers. A
//! violation is reported with its event, reader and connection.

mod ledger;
mod publisher;
mod reader;
mod report;
mod run;
mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::ledger::Account;
use self::publisher::LanePublisher;
use self::reader::{Over, VerifyReader};
use self::report::{PublisherCounts, VerifyReport};
use self::run::{GATHER, RIGHTS_HINT, VerifyOnLag, VerifyRun, lock};
use self::watch::{WatchKeys, WatchSet};
use super::dice::Dice;
use super::error::CliError;
use super::remote::{Access, Remote};
use super::target::Target;

/// Options of `fanwire verify`.
#[derive(clap::Args, Debug)]
pub(super) struct VerifyArgs {
    /// The server
    #[arg(
        value_name = "URL",
        env = "FANWIRE_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8765"
    )]
    url: Target,
    #[command(flatten)]
    access: Access,
    /// Seconds to publish; the readers then get 15 more to catch up
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Number of readers by WebSocket
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=500))]
    ws: u32,
    /// Number of readers by Server-Sent Events
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=500))]
    sse: u32,
    /// Events each second in each lane (a lane has its own order; readers are spread over the lanes)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Number of lanes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: u32,
    /// MiB to publish to a reader that is too slow, so that it must get a gap; 0 for no such reader
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=4096))]
    slow: u32,
    /// Watch lists: each reader gets this many of --topics, chosen at random, and changes its list while it runs; by
    /// WebSocket in place, by Server-Sent Events when it reconnects
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=200))]
    watch: Option<u32>,
    /// Number of topics in each lane for --watch
    #[arg(long = "topics", value_name = "T", default_value_t = 100, requires = "watch", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    keys: u32,
    /// Lag policy of the readers; with concat, a merged event must have the text of each event in it
    #[arg(long, value_name = "POLICY")]
    on_lag: Option<VerifyOnLag>,
    /// Seed of the random cuts [default: a random one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the check, prints the report, and fails if a promise was broken.
pub(super) fn run(args: &VerifyArgs) -> Result<(), CliError> {
    if args.ws + args.sse == 0 && args.slow == 0 {
        return Err(CliError { code: 2, ..CliError::new("no reader: give --ws, --sse or --slow") });
    }
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let seed = args.seed.unwrap_or_else(|| {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(Instant::now()) & 0xffff_ffff
    });
    let lanes = args.lanes as usize;
    let slow_lane = (args.slow > 0).then_some(lanes);
    let keys = args.watch.map(|_| WatchKeys { seed, keys: args.keys as usize });
    let run = Arc::new(VerifyRun::new(seed, slow_lane, keys, args.on_lag, args.seconds));
    let mut dice = Dice(seed);
    let mut threads = Vec::new();
    for (over, count, name) in [(Over::WebSocket, args.ws, "ws"), (Over::Sse, args.sse, "sse")] {
        for number in 0..count as usize {
            let mut account = Account::new(format!("{name}-{}", number + 1), number % lanes);
            let mut dice = Dice(dice.roll());
            if let Some((keys, watch)) = keys.zip(args.watch) {
                let count = watch.min(args.keys) as usize;
                account.watch = Some(WatchSet::new(keys, account.lane(), count, &mut dice));
            }
            let reader = VerifyReader::new(remote.clone(), Arc::clone(&run), over, account, dice);
            threads.push(std::thread::spawn(move || reader.read()));
        }
    }
    if let Some(lane) = run.slow_lane {
        let account = Account::new("slow".into(), lane);
        let mut reader =
            VerifyReader::new(remote.clone(), Arc::clone(&run), Over::WebSocket, account, Dice(dice.roll()));
        reader.is_slow = true;
        threads.push(std::thread::spawn(move || reader.read()));
    }
    gather(&run, threads.len())?;
    let mut publisher = LanePublisher::new(&remote, &run, lanes, args.rate, args.slow, args.seconds);
    let published = publisher.publish();
    run.published();
    published?;

    let mut readers = Vec::new();
    for thread in threads {
        let mut reader = thread.join().map_err(|_| CliError::new("a reader's thread panicked"))?;
        let lane = &publisher.lanes[reader.account.lane()];
        reader.account.close(lane.last, &lane.unsure);
        readers.push(reader);
    }
    let published = PublisherCounts {
        lanes: publisher.lanes.len(),
        events: publisher.lanes.iter().map(|lane| lane.last).sum(),
        noise: publisher.noise,
        unsure: publisher.lanes.iter().map(|lane| lane.unsure.len() as u64).sum(),
        throttled: publisher.throttled,
    };
    let report = VerifyReport::new(args.url.to_string(), seed, &run, published, &readers);
    report.print(args.json);
    match report.faults() {
        0 => Ok(()),
        1 => Err(CliError::new("1 fault")),
        faults => Err(CliError::new(format!("{faults} faults"))),
    }
}

/// Waits until every reader has connected.
fn gather(run: &VerifyRun, readers: usize) -> Result<(), CliError> {
    let end = run.start + GATHER;
    while run.ready_count() < readers {
        if let Some(why) = lock(&run.refusal).take() {
            return Err(CliError::new(format!("the server refuses the readers: {why}")).hint(RIGHTS_HINT));
        }
        if Instant::now() >= end {
            let (there, notes) = (run.ready_count(), lock(&run.notes).join("; "));
            let notes = if notes.is_empty() { String::new() } else { format!(": {notes}") };
            return Err(CliError::new(format!("only {there} of {readers} readers could connect{notes}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
