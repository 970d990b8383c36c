//! The clients and the publisher of a run, on one thread. Imports its siblings.
//!
//! Always: every client is counted for itself; what is read is only searched for the events' marks, so the load
//! costs less than what it loads.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::super::dice::Dice;
use super::super::remote::{Link, Remote};
use super::process::Process;
use super::speak::{Mix, Publication, Site, Speak, Wish, invalid};
use super::unpack::Unpack;
use super::wire::Wire;

/// How the clients of a run listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Transport {
    Ws,
    Sse,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ws { "ws" } else { "sse" })
    }
}

/// What to do.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) remote: Remote,
    pub(super) site: Site,
    /// Where to publish.
    pub(super) publish_to: Remote,
    pub(super) publish_site: Site,
    pub(super) speak: Speak,
    pub(super) connections: usize,
    pub(super) transport: Transport,
    /// Clients ask for compressed messages.
    pub(super) deflate: bool,
    pub(super) rate: u64,
    pub(super) burst: u64,
    /// Publish as fast as it is taken, with at most so many bursts under way.
    pub(super) window: Option<u64>,
    pub(super) payload: usize,
    pub(super) filters: usize,
    pub(super) mix: Vec<Mix>,
    pub(super) sleepers: usize,
    pub(super) slow: usize,
    /// Bytes a second that a slow client reads.
    pub(super) slow_rate: usize,
    pub(super) time: Duration,
}

impl Plan {
    fn wish(&self, number: usize) -> Wish {
        Wish { mix: self.mix[number % self.mix.len()], key: number / self.mix.len() % self.filters }
    }

    fn pace(&self, number: usize) -> Pace {
        // 37 spreads them over few clients too.
        match number * 37 % 100 {
            place if place < self.sleepers => Pace::Never,
            place if place < self.sleepers + self.slow => Pace::Slow,
            _ => Pace::Awake,
        }
    }
}

/// How a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Awake,
    Slow,
    Never,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) published: u64,
    /// What those clients are owed that read as fast as they can.
    pub(super) expected: u64,
    /// What they got.
    pub(super) delivered: u64,
    pub(super) gaps: u64,
    pub(super) missed: u64,
    /// What slow clients got, and were told that they lost.
    pub(super) slow_delivered: u64,
    pub(super) slow_missed: u64,
    /// Microseconds from when an event was due to when it was read; of slow clients not.
    pub(super) latency: Histogram<u64>,
    pub(super) elapsed: Duration,
    pub(super) cpu: Option<Duration>,
}

/// Stands in every payload, before the time in nanoseconds at which the event was due, 16 digits.
const MARK: &[u8] = b"\"due\":";
const DIGITS: usize = 16;
const GAP: &[u8] = b"\"missed\":";
const GAP_DIGITS: usize = 12;

struct Client {
    socket: Wire,
    pace: Pace,
    /// The end of what was read, where a mark may be cut.
    tail: Vec<u8>,
    /// Where its messages are compressed.
    unpack: Option<Unpack>,
}

/// Of so many clients with compressed messages one reads them.
const READS_ONE_IN: usize = 16;

/// Connected clients and a publisher.
pub(super) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    /// Those that read slowly, in a time that comes to each of them.
    slow: Vec<usize>,
    publisher: Wire,
    outbox: VecDeque<u8>,
    /// Answers that the publisher has not got.
    unanswered: u64,
    clock: Instant,
    buffer: Vec<u8>,
    /// What was compressed.
    text: Vec<u8>,
    /// Of clients that read as they can, and of slow ones.
    counts: [Count; 2],
    latency: Histogram<u64>,
    /// The same since the last progress.
    recent: Histogram<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    delivered: u64,
    gaps: u64,
    missed: u64,
}

impl Count {
    /// Events of which a client knows what became.
    fn known(&self) -> u64 {
        self.delivered + self.missed
    }
}

const PUBLISHER: Token = Token(usize::MAX);

/// Between two reads of slow clients.
const SLOW_TURN: Duration = Duration::from_millis(50);

/// How long the server may take for each step until a client is subscribed.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

fn connect_client(plan: &Plan, number: usize) -> io::Result<Link> {
    // The kernel would take megabytes for a client that does not read: nobody would be slow.
    let receive_buffer = (plan.pace(number) != Pace::Awake).then_some(4096);
    let mut link = plan.remote.connect(receive_buffer)?;
    link.tcp().set_nodelay(true)?;
    link.tcp().set_read_timeout(Some(SUBSCRIBE_TIMEOUT))?;
    plan.speak.subscribe(&mut link, plan, &plan.wish(number), number)?;
    Ok(link)
}

/// Clients that are being connected at once: a server that looks around some times a second only would
/// otherwise take minutes.
const CONNECTING: usize = 64;

/// Connects the clients of these numbers, in their order. Blocks.
fn connect_clients(plan: &Plan, numbers: Range<usize>) -> io::Result<Vec<Link>> {
    let share = numbers.len().div_ceil(CONNECTING).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = (numbers.clone().step_by(share))
            .map(|first| {
                let part = first..(first + share).min(numbers.end);
                scope.spawn(move || {
                    part.map(|number| connect_client(plan, number)).collect::<io::Result<Vec<_>>>()
                })
            })
            .collect();
        let mut all = Vec::with_capacity(numbers.len());
        for part in parts {
            all.extend(part.join().map_err(|_| invalid("a thread that connects clients panicked"))??);
        }
        Ok(all)
    })
}

/// Connects `total` clients, each subscribed, as many at a time as the plan has, and lets them go again. Blocks.
pub(super) fn churn(plan: &Plan, total: usize) -> io::Result<()> {
    let mut number = 0;
    while number < total {
        let group = plan.connections.clamp(1, total - number);
        let clients = connect_clients(plan, number..number + group)?;
        // Half of them say nothing when they go.
        for client in clients.iter().step_by(2) {
            SockRef::from(client.tcp()).set_linger(Some(Duration::ZERO))?;
        }
        number += group;
    }
    Ok(())
}

impl Load {
    /// Connects and subscribes every client. Blocks.
    pub(super) fn connect(plan: &Plan) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(plan.connections);
        let mut slow = Vec::new();
        for (number, link) in connect_clients(plan, 0..plan.connections)?.into_iter().enumerate() {
            let mut socket = Wire::new(link)?;
            let pace = plan.pace(number);
            match pace {
                Pace::Awake => poll.registry().register(socket.tcp(), Token(number), Interest::READABLE)?,
                Pace::Slow => slow.push(number),
                Pace::Never => {}
            }
            let unpack = plan.deflate.then(|| Unpack::new(number % READS_ONE_IN == 0));
            clients.push(Client { socket, pace, tail: Vec::new(), unpack });
        }
        let publisher = plan.publish_to.connect(None)?;
        publisher.tcp().set_nodelay(true)?;
        let mut publisher = Wire::new(publisher)?;
        poll.registry().register(publisher.tcp(), PUBLISHER, Interest::READABLE | Interest::WRITABLE)?;
        let latency = Histogram::new_with_bounds(1, 600_000_000, 3).map_err(|e| invalid(e.to_string()))?;
        Ok(Self {
            poll,
            clients,
            slow,
            publisher,
            outbox: plan.speak.hello().into(),
            unanswered: 0,
            clock: Instant::now(),
            buffer: vec![0; 1 << 20],
            text: Vec::new(),
            counts: [Count::default(); 2],
            recent: latency.clone(),
            latency,
        })
    }

    /// Forgets what was counted.
    pub(super) fn forget(&mut self) {
        self.counts = [Count::default(); 2];
        self.latency.reset();
        self.recent.reset();
    }

    fn nanos(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Publishes by the plan, and reads until everything came or two seconds bring nothing. Blocks.
    pub(super) fn run(&mut self, plan: &Plan, process: Option<&Process>) -> io::Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        // By key: how many clients that read as they can want it.
        let mut wanting = vec![0; plan.filters];
        for number in (0..plan.connections).filter(|number| plan.pace(*number) == Pace::Awake) {
            let wish = plan.wish(number);
            match wish.mix {
                Mix::All => wanting.iter_mut().for_each(|count| *count += 1),
                _ => wanting[wish.key] += 1,
            }
        }
        let cpu_before = process.and_then(Process::cpu);
        let start = self.nanos();
        let end = start + plan.time.as_nanos() as u64;
        let interval = 1_000_000_000 * plan.burst / plan.rate;
        let (mut due, mut published, mut expected) = (start, 0u64, 0u64);
        let mut last_came = Instant::now();
        let mut finished = start;
        let mut progress = Progress::new(start);
        let mut slow_turn = Instant::now();
        let pad = plan.payload.saturating_sub(MARK.len() + DIGITS + 12);
        let mut dice = Dice(1);
        let entity = plan.mix.contains(&Mix::Entities);
        let mut burst = Vec::with_capacity(plan.burst as usize);
        let mut out = Vec::new();
        loop {
            loop {
                let now = self.nanos();
                let is_time = match plan.window {
                    // As fast as it is taken: an event is due when there is room for it.
                    Some(window) => {
                        due = now;
                        let owed = expected.saturating_sub(self.counts[0].known());
                        let each = wanting[0].max(1) * plan.burst;
                        self.is_sent() && self.unanswered < window && owed <= (window - 1) * each
                    }
                    None => due <= now,
                };
                if !is_time || due >= end {
                    break;
                }
                burst.clear();
                for _ in 0..plan.burst {
                    let key = published as usize % plan.filters;
                    // A number may not begin with a zero.
                    let pad = words(pad, &mut dice);
                    let payload =
                        format!("{{\"due\":{:016},\"pad\":\"{pad}\"}}", 1_000_000_000_000_000 + due);
                    burst.push(Publication { key, entity, payload });
                    published += 1;
                    expected += wanting[key];
                }
                out.clear();
                self.unanswered += plan.speak.publish(&burst, &plan.publish_site, &mut out);
                self.outbox.extend(&out);
                if plan.window.is_none() {
                    due += interval;
                }
                self.publish()?;
            }
            self.publish()?;
            let over = due >= end || self.nanos() >= end;
            let timeout = match plan.window {
                None if !over => Duration::from_nanos(due.saturating_sub(self.nanos())),
                _ => Duration::from_millis(10),
            };
            let timeout = if self.slow.is_empty() { timeout } else { timeout.min(SLOW_TURN) };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let before = (self.counts[0].known(), self.unanswered);
            for event in &events {
                match event.token() {
                    PUBLISHER => self.publisher_ready(plan.speak)?,
                    Token(number) => self.read(number, usize::MAX)?,
                }
            }
            if slow_turn.elapsed() >= SLOW_TURN {
                let share = (plan.slow_rate as f64 * slow_turn.elapsed().as_secs_f64()) as usize;
                slow_turn = Instant::now();
                for number in std::mem::take(&mut self.slow) {
                    self.read(number, share.max(1))?;
                    self.slow.push(number);
                }
            }
            if (self.counts[0].known(), self.unanswered) != before {
                last_came = Instant::now();
                finished = self.nanos();
            }
            progress.show(self, published);
            let all = self.counts[0].known() >= expected && self.unanswered == 0;
            if over && self.is_sent() && (all || last_came.elapsed() > Duration::from_secs(2)) {
                break;
            }
        }
        let cpu = cpu_before
            .zip(process.and_then(Process::cpu))
            .map(|(before, after)| after.saturating_sub(before));
        let [Count { delivered, gaps, missed }, slow] = self.counts;
        Ok(Outcome {
            published,
            expected,
            delivered,
            gaps,
            missed,
            slow_delivered: slow.delivered,
            slow_missed: slow.missed,
            latency: self.latency.clone(),
            elapsed: Duration::from_nanos(
                if plan.window.is_some() { finished } else { finished.max(end) } - start,
            ),
            cpu,
        })
    }

    /// Whether the kernel has all that was published.
    fn is_sent(&self) -> bool {
        self.outbox.is_empty() && !self.publisher.wants_write()
    }

    fn publish(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            match self.publisher.write(front) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.publisher.push()
    }

    fn publisher_ready(&mut self, speak: Speak) -> io::Result<()> {
        loop {
            match self.publisher.read(&mut self.buffer) {
                Ok(0) => return Err(invalid("the server closed the publisher's connection")),
                Ok(read) if speak.refuses(&self.buffer[..read]) => {
                    return Err(invalid(String::from_utf8_lossy(&self.buffer[..read.min(1000)])));
                }
                // One that is cut in two is missed, and made up for by the next silence.
                Ok(read) => {
                    let answers =
                        memchr::memmem::find_iter(&self.buffer[..read], b"HTTP/1.1 2").count() as u64;
                    self.unanswered = self.unanswered.saturating_sub(answers);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.publish()
    }

    /// Reads at most `most` bytes of a client, or all.
    fn read(&mut self, number: usize, mut most: usize) -> io::Result<()> {
        while most > 0 {
            let client = &mut self.clients[number];
            let kept = client.tail.len();
            self.buffer[..kept].copy_from_slice(&client.tail);
            let room = kept + most.min(self.buffer.len() - kept);
            match client.socket.read(&mut self.buffer[kept..room]) {
                Ok(0) => return Err(invalid("the server closed a client's connection")),
                Ok(read) => {
                    most -= read;
                    if let Some(unpack) = &mut client.unpack {
                        let mut text = std::mem::take(&mut self.text);
                        text.clear();
                        let unread = unpack.take(&self.buffer[..read], &mut text)?;
                        self.counts[usize::from(client.pace != Pace::Awake)].delivered += unread;
                        self.count(number, &text);
                        self.text = text;
                        continue;
                    }
                    let buffer = std::mem::take(&mut self.buffer);
                    let bytes = &buffer[..kept + read];
                    let done = self.count(number, bytes);
                    let keep = (bytes.len() - done).min(MARK.len() + DIGITS - 1);
                    let tail = &mut self.clients[number].tail;
                    tail.clear();
                    tail.extend_from_slice(&bytes[bytes.len() - keep..]);
                    self.buffer = buffer;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counts the marks in what a client read; answers where the last of them ends.
    fn count(&mut self, number: usize, bytes: &[u8]) -> usize {
        let now = self.nanos();
        let len = bytes.len();
        let is_slow = self.clients[number].pace != Pace::Awake;
        let count = &mut self.counts[usize::from(is_slow)];
        let mut done = 0;
        for at in memchr::memmem::find_iter(bytes, MARK) {
            let digits = at + MARK.len()..at + MARK.len() + DIGITS;
            let Some(digits) = bytes.get(digits.clone()).map(|d| (d, digits.end)) else { break };
            // The first digit only keeps a zero away.
            let due = digits.0[1..].iter().fold(0, |n, d| n * 10 + u64::from(d.wrapping_sub(b'0')));
            if !is_slow {
                let micros = (now.saturating_sub(due) / 1000).max(1);
                self.latency.saturating_record(micros);
                self.recent.saturating_record(micros);
            }
            count.delivered += 1;
            done = digits.1;
        }
        for at in memchr::memmem::find_iter(&bytes[..len.saturating_sub(GAP_DIGITS)], GAP) {
            let digits = bytes[at + GAP.len()..].iter().take_while(|d| d.is_ascii_digit());
            count.missed += digits.fold(0, |n, d| n * 10 + u64::from(d - b'0'));
            count.gaps += 1;
            done = done.max(at + GAP.len());
        }
        done
    }
}

/// So many bytes of text that compresses as text does: words of a small vocabulary, by chance.
fn words(len: usize, dice: &mut Dice) -> String {
    const WORDS: [&str; 32] = [
        "agent", "task", "reading", "the", "sources", "sixteen", "of", "them", "started", "done", "failed",
        "at", "price", "bid", "ask", "volume", "node", "entered", "left", "review", "a", "file", "in",
        "branch", "tests", "passed", "with", "two", "warnings", "and", "waiting", "for",
    ];
    let mut text = String::with_capacity(len + 8);
    while text.len() < len {
        text.push_str(dice.pick(&WORDS));
        text.push(' ');
    }
    text.truncate(len);
    text
}

/// A line a second of how it goes.
struct Progress {
    start: u64,
    last: u64,
    published: u64,
    delivered: u64,
}

impl Progress {
    fn new(start: u64) -> Self {
        Self { start, last: start, published: 0, delivered: 0 }
    }

    fn show(&mut self, load: &mut Load, published: u64) {
        let now = load.nanos();
        if now - self.last < 1_000_000_000 {
            return;
        }
        let seconds = (now - self.last) as f64 / 1e9;
        let delivered = load.counts[0].delivered;
        eprintln!(
            "{:4.0} s  published {:.0}/s  delivered {:.0}/s  p99 {:.2} ms",
            (now - self.start) as f64 / 1e9,
            (published - self.published) as f64 / seconds,
            (delivered - self.delivered) as f64 / seconds,
            load.recent.value_at_quantile(0.99) as f64 / 1000.0,
        );
        load.recent.reset();
        (self.last, self.published, self.delivered) = (now, published, delivered);
    }
}
