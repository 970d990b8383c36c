//! The clients and the publisher of a run, on one thread.
//!
//! Always: every client is counted. Received bytes are only searched for the events' marks, so the load costs less than
//! the server under load.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::super::dice::Dice;
use super::super::remote::{Link, Remote};
use super::process::Process;
use super::socket::LoadSocket;
use super::speak::{Mix, OutgoingEvent, Selection, Site, Speak, StreamSetup, Transport, invalid};
use super::unpack::Unpack;

/// Options of a load.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct LoadOptions {
    /// Number of clients
    #[arg(long, short = 'c', default_value_t = 1000)]
    pub(super) connections: usize,
    /// Transport of the clients
    #[arg(long, default_value = "ws")]
    pub(super) transport: Transport,
    /// Ask for compressed messages (WebSocket only). One client in sixteen inflates them, for the latency; the others
    /// count them
    #[arg(long)]
    pub(super) deflate: bool,
    /// Events each second
    #[arg(long, short = 'r', default_value_t = 100)]
    pub(super) rate: u64,
    /// Events published together
    #[arg(long, short = 'b', default_value_t = 1)]
    pub(super) burst: u64,
    /// Bytes of the JSON payload
    #[arg(long, default_value_t = 128)]
    pub(super) payload: usize,
    /// Number of event keys, and so of filters of each kind, spread over the clients
    #[arg(long, default_value_t = 1)]
    pub(super) filters: usize,
    /// Kinds of filters, for one client after the other: types, patterns, entities, all
    #[arg(long, value_delimiter = ',', default_value = "types")]
    pub(super) mix: Vec<Mix>,
    /// Percentage of clients that never read
    #[arg(long, default_value_t = 0)]
    pub(super) sleepers: usize,
    /// Percentage of clients that read slowly
    #[arg(long, default_value_t = 0)]
    pub(super) slow: usize,
    /// Bytes that a slow client reads each second
    #[arg(long, default_value_t = 20_000)]
    pub(super) slow_rate: usize,
    /// Instead of a rate: publish as fast as the server takes it, with this many bursts in flight
    #[arg(long, value_name = "BURSTS")]
    pub(super) window: Option<u64>,
}

impl LoadOptions {
    /// Returns the options with each number in its range.
    pub(super) fn clamped(self) -> Self {
        Self {
            rate: self.rate.max(1),
            burst: self.burst.max(1),
            window: self.window.map(|window| window.max(1)),
            filters: self.filters.max(1),
            sleepers: self.sleepers.min(100),
            slow: self.slow.min(100),
            ..self
        }
    }
}

/// Parameters of a run.
#[derive(Clone)]
pub(super) struct LoadPlan {
    pub(super) remote: Remote,
    pub(super) site: Site,
    /// Server that takes the events.
    pub(super) publish_to: Remote,
    pub(super) publish_site: Site,
    pub(super) speak: Speak,
    pub(super) options: LoadOptions,
    pub(super) time: Duration,
}

impl LoadPlan {
    fn selection(&self, number: usize) -> Selection {
        Selection {
            mix: self.options.mix[number % self.options.mix.len()],
            key: number / self.options.mix.len() % self.options.filters,
        }
    }

    fn pace(&self, number: usize) -> ReadPace {
        // The factor 37 spreads the paces evenly, also over a few clients.
        match number * 37 % 100 {
            place if place < self.options.sleepers => ReadPace::Never,
            place if place < self.options.sleepers + self.options.slow => ReadPace::Slow,
            _ => ReadPace::Awake,
        }
    }
}

/// Reading speed of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadPace {
    Awake,
    Slow,
    Never,
}

/// Result of a run.
#[derive(Debug)]
pub(super) struct LoadResult {
    pub(super) published: u64,
    /// Deliveries due to the clients that read as fast as they can.
    pub(super) expected: u64,
    /// Deliveries that those clients received.
    pub(super) delivered: u64,
    pub(super) gaps: u64,
    pub(super) missed: u64,
    /// Deliveries that slow clients received, and events that gaps reported to them as lost.
    pub(super) slow_delivered: u64,
    pub(super) slow_missed: u64,
    /// Microseconds between the time an event was due and the time it was read. Slow clients are left out.
    pub(super) latency: Histogram<u64>,
    pub(super) elapsed: Duration,
    pub(super) cpu: Option<Duration>,
}

/// Mark in every payload before the time at which the event was due, in nanoseconds and 16 digits.
const MARK: &[u8] = b"\"due\":";
const DIGITS: usize = 16;
const GAP: &[u8] = b"\"missed\":";
const GAP_DIGITS: usize = 12;

struct LoadClient {
    socket: LoadSocket,
    pace: ReadPace,
    /// End of the bytes read so far: it may hold the start of a mark.
    tail: Vec<u8>,
    /// Decoder of compressed messages.
    unpack: Option<Unpack>,
}

/// Number of clients with compressed messages for each one that inflates them.
const READS_ONE_IN: usize = 16;

/// Connected clients and a publisher.
pub(super) struct Load {
    poll: Poll,
    clients: Vec<LoadClient>,
    /// Slow clients, in the order of their next turn.
    slow: Vec<usize>,
    publisher: LoadSocket,
    outbox: VecDeque<u8>,
    /// Answers that the publisher still waits for.
    unanswered: u64,
    clock: Instant,
    buffer: Vec<u8>,
    /// Inflated text of the messages just read.
    text: Vec<u8>,
    /// Counts of the clients that read as fast as they can, and of slow clients.
    counts: [DeliveryCount; 2],
    latency: Histogram<u64>,
    /// Latency since the last progress line.
    recent: Histogram<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct DeliveryCount {
    delivered: u64,
    gaps: u64,
    missed: u64,
}

impl DeliveryCount {
    /// Returns the number of events that clients received or know to be lost.
    fn known(&self) -> u64 {
        self.delivered + self.missed
    }
}

const PUBLISHER: Token = Token(usize::MAX);

/// Time between two reads of slow clients.
const SLOW_TURN: Duration = Duration::from_millis(50);

/// Time limit for each step until a client is subscribed.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

fn connect_client(plan: &LoadPlan, number: usize) -> io::Result<Link> {
    // By default the kernel buffers megabytes for a client that does not read, and no client would be slow.
    let receive_buffer = (plan.pace(number) != ReadPace::Awake).then_some(4096);
    let mut link = plan.remote.connect(receive_buffer)?;
    link.tcp().set_nodelay(true)?;
    link.tcp().set_read_timeout(Some(SUBSCRIBE_TIMEOUT))?;
    let opening =
        StreamSetup { site: &plan.site, transport: plan.options.transport, deflate: plan.options.deflate };
    plan.speak.subscribe(&mut link, opening, &plan.selection(number), number)?;
    Ok(link)
}

/// Number of clients that connect at the same time. One by one, a server that accepts only a few times a second would take
/// minutes.
const CONNECTING: usize = 64;

/// Connects the clients with these numbers, and returns them in order. Blocks.
fn connect_clients(plan: &LoadPlan, numbers: Range<usize>) -> io::Result<Vec<Link>> {
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

/// Connects and subscribes `total` clients in groups of the plan's size, and disconnects each group. Blocks.
pub(super) fn churn(plan: &LoadPlan, total: usize) -> io::Result<()> {
    let mut number = 0;
    while number < total {
        let group = plan.options.connections.clamp(1, total - number);
        let clients = connect_clients(plan, number..number + group)?;
        // Half of the clients disconnect by a reset.
        for client in clients.iter().step_by(2) {
            SockRef::from(client.tcp()).set_linger(Some(Duration::ZERO))?;
        }
        number += group;
    }
    Ok(())
}

impl Load {
    /// Connects and subscribes every client. Blocks.
    pub(super) fn connect(plan: &LoadPlan) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut clients = Vec::with_capacity(plan.options.connections);
        let mut slow = Vec::new();
        for (number, link) in connect_clients(plan, 0..plan.options.connections)?.into_iter().enumerate() {
            let mut socket = LoadSocket::new(link)?;
            let pace = plan.pace(number);
            match pace {
                ReadPace::Awake => {
                    poll.registry().register(socket.tcp(), Token(number), Interest::READABLE)?;
                }
                ReadPace::Slow => slow.push(number),
                ReadPace::Never => {}
            }
            let unpack = plan.options.deflate.then(|| Unpack::new(number % READS_ONE_IN == 0));
            clients.push(LoadClient { socket, pace, tail: Vec::new(), unpack });
        }
        let publisher = plan.publish_to.connect(None)?;
        publisher.tcp().set_nodelay(true)?;
        let mut publisher = LoadSocket::new(publisher)?;
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
            counts: [DeliveryCount::default(); 2],
            recent: latency.clone(),
            latency,
        })
    }

    /// Resets all counts.
    pub(super) fn forget(&mut self) {
        self.counts = [DeliveryCount::default(); 2];
        self.latency.reset();
        self.recent.reset();
    }

    fn nanos(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Publishes by the plan, and reads until everything due has come or nothing has come for two seconds. Blocks.
    pub(super) fn run(&mut self, plan: &LoadPlan, process: Option<&Process>) -> io::Result<LoadResult> {
        let mut events = Events::with_capacity(1024);
        let cpu_before = process.and_then(Process::cpu);
        let start = self.nanos();
        let mut schedule = Schedule::new(plan, start);
        let (mut last_came, mut finished) = (Instant::now(), start);
        let mut progress = LoadProgress::new(start);
        let mut slow_turn = Instant::now();
        let mut out = Vec::new();
        loop {
            while schedule.is_due(self) {
                out.clear();
                self.unanswered += plan.speak.publish(schedule.next_burst(), &plan.publish_site, &mut out);
                self.outbox.extend(&out);
                self.publish()?;
            }
            self.publish()?;
            let over = schedule.due >= schedule.end || self.nanos() >= schedule.end;
            let timeout = match plan.options.window {
                None if !over => Duration::from_nanos(schedule.due.saturating_sub(self.nanos())),
                _ => Duration::from_millis(10),
            };
            let before = (self.counts[0].known(), self.unanswered);
            self.wait(plan.speak, &mut events, timeout)?;
            if slow_turn.elapsed() >= SLOW_TURN {
                let share = (plan.options.slow_rate as f64 * slow_turn.elapsed().as_secs_f64()) as usize;
                slow_turn = Instant::now();
                self.read_slow(share.max(1))?;
            }
            if (self.counts[0].known(), self.unanswered) != before {
                last_came = Instant::now();
                finished = self.nanos();
            }
            progress.show(self, schedule.published);
            let all = self.counts[0].known() >= schedule.expected && self.unanswered == 0;
            if over && self.is_sent() && (all || last_came.elapsed() > Duration::from_secs(2)) {
                break;
            }
        }
        let cpu = cpu_before
            .zip(process.and_then(Process::cpu))
            .map(|(before, after)| after.saturating_sub(before));
        let [DeliveryCount { delivered, gaps, missed }, slow] = self.counts;
        let finished = if plan.options.window.is_some() { finished } else { finished.max(schedule.end) };
        Ok(LoadResult {
            published: schedule.published,
            expected: schedule.expected,
            delivered,
            gaps,
            missed,
            slow_delivered: slow.delivered,
            slow_missed: slow.missed,
            latency: self.latency.clone(),
            elapsed: Duration::from_nanos(finished - start),
            cpu,
        })
    }

    /// Waits until sockets are ready, for `timeout` at most, and serves them.
    fn wait(&mut self, speak: Speak, events: &mut Events, timeout: Duration) -> io::Result<()> {
        let timeout = if self.slow.is_empty() { timeout } else { timeout.min(SLOW_TURN) };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &*events {
            match event.token() {
                PUBLISHER => self.publisher_ready(speak)?,
                Token(number) => self.read(number, usize::MAX)?,
            }
        }
        Ok(())
    }

    /// Reads at most `share` bytes of every slow client.
    fn read_slow(&mut self, share: usize) -> io::Result<()> {
        for number in std::mem::take(&mut self.slow) {
            self.read(number, share)?;
            self.slow.push(number);
        }
        Ok(())
    }

    /// Returns whether the kernel has taken everything that was published.
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
                // An answer that is cut in two is missed. The next silence makes up for it.
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

    /// Reads at most `most` bytes of a client.
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
                        self.counts[usize::from(client.pace != ReadPace::Awake)].delivered += unread;
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

    /// Counts the marks in a client's bytes. Returns the end of the last mark.
    fn count(&mut self, number: usize, bytes: &[u8]) -> usize {
        let now = self.nanos();
        let len = bytes.len();
        let is_slow = self.clients[number].pace != ReadPace::Awake;
        let count = &mut self.counts[usize::from(is_slow)];
        let mut done = 0;
        for at in memchr::memmem::find_iter(bytes, MARK) {
            let digits = at + MARK.len()..at + MARK.len() + DIGITS;
            let Some(digits) = bytes.get(digits.clone()).map(|d| (d, digits.end)) else { break };
            // The first digit is always 1: a JSON number cannot begin with a zero.
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

/// The publisher's side of a run: when the next burst is due, and what has been published.
struct Schedule<'a> {
    plan: &'a LoadPlan,
    end: u64,
    /// Time between two bursts, in nanoseconds.
    interval: u64,
    /// Time of the next burst, in nanoseconds.
    due: u64,
    published: u64,
    /// Deliveries due to the clients that read as fast as they can.
    expected: u64,
    /// By key: number of clients that read as fast as they can and want its events.
    wanting: Vec<u64>,
    dice: Dice,
    burst: Vec<OutgoingEvent>,
}

impl<'a> Schedule<'a> {
    fn new(plan: &'a LoadPlan, start: u64) -> Self {
        let mut wanting = vec![0; plan.options.filters];
        for number in (0..plan.options.connections).filter(|number| plan.pace(*number) == ReadPace::Awake) {
            let selection = plan.selection(number);
            match selection.mix {
                Mix::All => wanting.iter_mut().for_each(|count| *count += 1),
                _ => wanting[selection.key] += 1,
            }
        }
        Self {
            plan,
            end: start + plan.time.as_nanos() as u64,
            interval: 1_000_000_000 * plan.options.burst / plan.options.rate,
            due: start,
            published: 0,
            expected: 0,
            wanting,
            dice: Dice(1),
            burst: Vec::with_capacity(plan.options.burst as usize),
        }
    }

    /// Returns whether a burst is to be published now.
    fn is_due(&mut self, load: &Load) -> bool {
        let now = load.nanos();
        let is_time = match self.plan.options.window {
            // As fast as the server takes it: an event is due when the window has room.
            Some(window) => {
                self.due = now;
                let pending = self.expected.saturating_sub(load.counts[0].known());
                let each = self.wanting[0].max(1) * self.plan.options.burst;
                load.is_sent() && load.unanswered < window && pending <= (window - 1) * each
            }
            None => self.due <= now,
        };
        is_time && self.due < self.end
    }

    /// Makes the events of the burst that is due, and moves on to the next one.
    fn next_burst(&mut self) -> &[OutgoingEvent] {
        let pad_bytes = self.plan.options.payload.saturating_sub(MARK.len() + DIGITS + 12);
        let entity = self.plan.options.mix.contains(&Mix::Entities);
        self.burst.clear();
        for _ in 0..self.plan.options.burst {
            let key = self.published as usize % self.plan.options.filters;
            let pad = words(pad_bytes, &mut self.dice);
            // The leading 1 keeps all 16 digits: a JSON number cannot begin with a zero.
            let payload = format!("{{\"due\":{:016},\"pad\":\"{pad}\"}}", 1_000_000_000_000_000 + self.due);
            self.burst.push(OutgoingEvent { key, entity, payload });
            self.published += 1;
            self.expected += self.wanting[key];
        }
        if self.plan.options.window.is_none() {
            self.due += self.interval;
        }
        &self.burst
    }
}

/// Returns `len` bytes of text that compresses like text: random words of a small vocabulary.
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

/// Prints a line of progress each second.
struct LoadProgress {
    start: u64,
    last: u64,
    published: u64,
    delivered: u64,
}

impl LoadProgress {
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
