//! `fanwire verify`: a referee for any running server. Imports its siblings only.
//!
//! It publishes numbered events, reads them with clients that cut their own connections, and keeps books of what each
//! was owed. Always: it ends in bounded time; it takes nobody's word, the server's answers included; a fault is told
//! with the event, the reader and the connection.

mod ledger;
mod reader;
mod report;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use self::ledger::{Account, Ids};
use self::reader::{Over, Reader, rest_until};
use self::report::Report;
use super::CliError;
use super::dice::Dice;
use super::remote::{Access, Remote};
use super::target::{Target, error_text};

/// Options of `fanwire verify`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
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
    /// Publish for so many seconds; the readers then get 15 more to catch up
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Readers by WebSocket
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=500))]
    ws: u32,
    /// Readers by Server-Sent Events
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=500))]
    sse: u32,
    /// Events a second in each lane (a lane is an order of its own; readers are spread over them)
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Lanes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: u32,
    /// MiB to publish to a reader that is too slow, so that it must be told of a gap; 0 for no such reader
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(0..=4096))]
    slow: u32,
    /// Seed of the cuts; a random one if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The readers' patience once all is published.
const SETTLE: Duration = Duration::from_secs(15);
/// For all readers to be there at first.
const GATHER: Duration = Duration::from_secs(15);
/// Between two batches.
const BATCH: Duration = Duration::from_millis(20);
/// What is read.
const EVENT_TYPE: &str = "fanwire.verify.event";
/// What nobody asked for, in the same streams.
const NOISE_TYPE: &str = "fanwire.verify.noise";
/// One of so many events is noise beside.
const NOISE_EVERY: u64 = 8;
const PAD_BYTES: usize = 64;
const SLOW_PAD_BYTES: usize = 16 * 1024;
/// Different reasons kept for lost connections.
const NOTES_MAX: usize = 5;

/// What the threads of a run share.
struct Run {
    /// Tells this run's events from another's.
    name: String,
    start: Instant,
    /// The lane whose reader is slow.
    slow_lane: Option<usize>,
    progress: Mutex<Progress>,
    /// Why the server will have no reader.
    refusal: Mutex<Option<String>>,
    /// Why connections were lost.
    notes: Mutex<Vec<String>>,
    ids: Ids,
}

/// How far a run is.
struct Progress {
    /// Readers that are there.
    ready: usize,
    is_published: bool,
    /// When readers give up.
    deadline: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    /// The stream that is a lane: its events have one order.
    fn stream(&self, lane: usize) -> String {
        format!("{}-{lane}", self.name)
    }

    fn pad_bytes(&self, lane: usize) -> usize {
        if self.slow_lane == Some(lane) { SLOW_PAD_BYTES } else { PAD_BYTES }
    }

    fn time_left(&self) -> Duration {
        lock(&self.progress).deadline.saturating_duration_since(Instant::now())
    }

    fn is_past_deadline(&self) -> bool {
        self.time_left().is_zero()
    }

    fn is_published(&self) -> bool {
        lock(&self.progress).is_published
    }

    fn ready_count(&self) -> usize {
        lock(&self.progress).ready
    }

    fn ready(&self) {
        lock(&self.progress).ready += 1;
    }

    fn refuse(&self, why: &str) {
        lock(&self.refusal).get_or_insert_with(|| why.to_owned());
    }

    fn note(&self, why: &str) {
        let mut notes = lock(&self.notes);
        if notes.len() < NOTES_MAX && !notes.iter().any(|note| note == why) {
            notes.push(why.to_owned());
        }
    }
}

/// The text that a numbered event carries: the same for the same number, so that a change is seen.
fn pad(n: u64, bytes: usize) -> String {
    let word = format!("{:016x}.", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word.chars().cycle().take(bytes).collect()
}

/// Runs, reports, and fails where a promise was broken.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    if args.ws + args.sse == 0 && args.slow == 0 {
        return Err(CliError { code: 2, ..CliError::new("there is no reader: --ws, --sse or --slow") });
    }
    let remote = Remote::new(args.url.clone(), &args.access)?;
    let seed = args.seed.unwrap_or_else(|| {
        use std::hash::{BuildHasher as _, RandomState};
        RandomState::new().hash_one(Instant::now()) & 0xffff_ffff
    });
    let lanes = args.lanes as usize;
    let start = Instant::now();
    let run = Arc::new(Run {
        name: format!("verify-{seed:x}-{}", std::process::id()),
        start,
        slow_lane: (args.slow > 0).then_some(lanes),
        progress: Mutex::new(Progress {
            ready: 0,
            is_published: false,
            deadline: start + GATHER + Duration::from_secs(args.seconds) + SETTLE,
        }),
        refusal: Mutex::new(None),
        notes: Mutex::new(Vec::new()),
        ids: Ids::default(),
    });
    let mut dice = Dice(seed);
    let mut threads = Vec::new();
    for (over, count, name) in [(Over::WebSocket, args.ws, "ws"), (Over::Sse, args.sse, "sse")] {
        for number in 0..count as usize {
            let account = Account::new(format!("{name}-{}", number + 1), number % lanes);
            let dice = Dice(dice.roll());
            let reader = Reader::new(remote.clone(), Arc::clone(&run), over, account, dice);
            threads.push(std::thread::spawn(move || reader.read()));
        }
    }
    if let Some(lane) = run.slow_lane {
        let account = Account::new("slow".into(), lane);
        let mut reader =
            Reader::new(remote.clone(), Arc::clone(&run), Over::WebSocket, account, Dice(dice.roll()));
        reader.is_slow = true;
        threads.push(std::thread::spawn(move || reader.read()));
    }
    gather(&run, threads.len())?;
    let mut publisher = Publisher::new(&remote, &run, args);
    let published = publisher.publish();
    {
        let mut progress = lock(&run.progress);
        progress.is_published = true;
        progress.deadline = Instant::now() + SETTLE;
    }
    published?;

    let mut readers = Vec::new();
    for thread in threads {
        let mut reader = thread.join().map_err(|_| CliError::new("a reader's thread failed"))?;
        let lane = &publisher.lanes[reader.account.lane()];
        reader.account.close(lane.last, &lane.unsure);
        readers.push(reader);
    }
    let report = Report::new(args, seed, &run, &publisher, &readers);
    report.print(args.json);
    match report.faults() {
        0 => Ok(()),
        1 => Err(CliError::new("1 fault")),
        faults => Err(CliError::new(format!("{faults} faults"))),
    }
}

/// Waits until every reader is there.
fn gather(run: &Run, readers: usize) -> Result<(), CliError> {
    let end = run.start + GATHER;
    while run.ready_count() < readers {
        if let Some(why) = lock(&run.refusal).take() {
            return Err(CliError::new(format!("the server will have no reader: {why}")).hint(
                "With authentication, the token must be allowed to see and publish fanwire.verify.**",
            ));
        }
        if Instant::now() >= end {
            let (there, notes) = (run.ready_count(), lock(&run.notes).join("; "));
            let notes = if notes.is_empty() { String::new() } else { format!(": {notes}") };
            return Err(CliError::new(format!("{there} of {readers} readers could connect{notes}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// How far a lane is published.
#[derive(Debug, Default)]
struct Lane {
    /// The last number that was sent.
    last: u64,
    /// Numbers whose publish had no clear answer.
    unsure: BTreeSet<u64>,
    is_over: bool,
}

struct Publisher<'a> {
    remote: &'a Remote,
    run: &'a Run,
    rate: u64,
    slow_events: u64,
    seconds: u64,
    lanes: Vec<Lane>,
    /// Events that nobody was to get.
    noise: u64,
    /// Publishes without a clear answer.
    failed: u64,
    /// Times that the server said to wait.
    throttled: u64,
    took: Duration,
}

impl<'a> Publisher<'a> {
    fn new(remote: &'a Remote, run: &'a Run, args: &Args) -> Self {
        let lanes = args.lanes as usize + usize::from(run.slow_lane.is_some());
        let slow_events = u64::from(args.slow) * 1024 * 1024 / SLOW_PAD_BYTES as u64;
        Self {
            remote,
            run,
            rate: args.rate.into(),
            slow_events,
            seconds: args.seconds,
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            noise: 0,
            failed: 0,
            throttled: 0,
            took: Duration::ZERO,
        }
    }

    /// Publishes at an even rate for the time of the run, and a last event in each lane.
    fn publish(&mut self) -> Result<(), CliError> {
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let mut next = start;
        while Instant::now() < end {
            let elapsed = start.elapsed().as_secs_f64();
            for lane in 0..self.lanes.len() {
                let due = if self.run.slow_lane == Some(lane) {
                    // All within the first two thirds, so that there is time to read what is kept.
                    let share = (elapsed * 1.5 / self.seconds as f64).min(1.0);
                    (share * self.slow_events as f64) as u64
                } else {
                    (elapsed * self.rate as f64) as u64
                };
                // A server that is behind is not run over: what is too much at once comes later, or not.
                let due = due.min(self.lanes[lane].last + 200);
                self.send(lane, due, false)?;
            }
            next += BATCH;
            rest_until(next);
        }
        self.took = start.elapsed();
        // The end of each lane, until it is known to be there.
        for lane in 0..self.lanes.len() {
            let end = Instant::now() + SETTLE;
            while !self.lanes[lane].is_over && Instant::now() < end {
                let last = self.lanes[lane].last + 1;
                if !self.send(lane, last, true)? {
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            if !self.lanes[lane].is_over {
                return Err(CliError::new("the server took no events any more")
                    .hint(lock(&self.run.notes).join("; ")));
            }
        }
        Ok(())
    }

    /// Publishes a lane's events up to this number, in one batch; whether they are in for sure.
    fn send(&mut self, lane: usize, up_to: u64, is_last: bool) -> Result<bool, CliError> {
        let first = self.lanes[lane].last + 1;
        if first > up_to {
            return Ok(true);
        }
        let (stream, size) = (self.run.stream(lane), self.run.pad_bytes(lane));
        let mut body = String::new();
        for n in first..=up_to {
            let mut payload = json!({"n": n, "pad": pad(n, size)});
            if is_last && n == up_to {
                payload["last"] = json!(true);
            }
            let event = json!({"type": EVENT_TYPE, "source": "fanwire-verify", "stream_id": stream, "payload": payload});
            // Writing to a string cannot fail.
            let _ = writeln!(body, "{event}");
            if n % NOISE_EVERY == 0 {
                self.noise += 1;
                let noise = json!({"type": NOISE_TYPE, "source": "fanwire-verify", "stream_id": stream, "payload": {"n": n}});
                let _ = writeln!(body, "{noise}");
            }
        }
        loop {
            let sent = self.remote.post("/publish").content_type("application/x-ndjson").send(&body);
            let answer = sent.and_then(|mut answer| {
                let wait =
                    answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                Ok((answer.status().as_u16(), wait, answer.body_mut().read_to_string()?))
            });
            match answer {
                Ok((200, ..)) => {
                    self.lanes[lane].last = up_to;
                    self.lanes[lane].is_over |= is_last;
                    return Ok(true);
                }
                Ok((429, wait, _)) => {
                    self.throttled += 1;
                    let wait = Duration::from_secs(wait.unwrap_or(1));
                    if wait > SETTLE {
                        return Err(CliError::new(format!(
                            "the server takes no publish for {} s",
                            wait.as_secs()
                        )));
                    }
                    std::thread::sleep(wait);
                }
                Ok((status @ 400..500, _, body)) => {
                    return Err(CliError::new(format!(
                        "publishing was refused: {} (status {status})",
                        error_text(&body)
                    ))
                    .hint(
                        "With authentication, the token must be allowed to see and publish fanwire.verify.**",
                    ));
                }
                unclear => {
                    // It may be in, or not: readers owe nothing for these.
                    self.failed += 1;
                    self.run.note(&match unclear {
                        Ok((status, _, body)) => format!("publish: {} (status {status})", error_text(&body)),
                        Err(error) => format!("publish: {error}"),
                    });
                    self.lanes[lane].unsure.extend(first..=up_to);
                    self.lanes[lane].last = up_to;
                    return Ok(false);
                }
            }
        }
    }
}
