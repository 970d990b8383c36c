//! The clients and the publisher of a run, on one thread.
//!
//! Always: the deliveries of every client are counted. Received bytes are only searched for the events' marks, so the
//! load costs less CPU time than the server.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use super::super::remote::Link;
use super::keys::KeyLists;
use super::mark::{self, ClientCount, Mark, MarkForm};
use super::plan::{LoadPlan, ReadPace};
use super::process::{Process, Ticks};
use super::publish::{Answers, PublishWay};
use super::schedule::{Moment, Schedule};
use super::socket::LoadSocket;
use super::speak::{StreamSetup, invalid};
use super::unpack::Unpack;

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
    /// Share of the server's CPU time that its own code took; the rest is the kernel's.
    pub(super) user_share: Option<f64>,
    /// Result of the check of each client's deliveries. `None` if all clients get the same events.
    pub(super) checked: Option<Checked>,
}

/// Result of the comparison of each client's deliveries with its list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Deliveries of keys that the client had not subscribed to.
    pub(super) unwanted: u64,
    /// Clients that did not get exactly the events of their keys, or gaps for the missing ones.
    pub(super) wrong_clients: u64,
}

const GAP: &[u8] = b"\"missed\":";
const GAP_DIGITS: usize = 12;

struct LoadClient {
    socket: LoadSocket,
    pace: ReadPace,
    /// Last bytes read so far: they may hold the start of a mark.
    tail: Vec<u8>,
    /// Decoder of compressed messages.
    unpack: Option<Unpack>,
    /// Events that the client received, and events that gaps reported as lost.
    count: ClientCount,
    missed: u64,
}

/// One in this many clients with compressed messages inflates them.
const READS_ONE_IN: usize = 16;

/// Connected clients and a publisher.
pub(super) struct Load {
    poll: Poll,
    clients: Vec<LoadClient>,
    /// Slow clients, in the order of their next turn.
    slow: Vec<usize>,
    publisher: LoadPublisher,
    clock: Instant,
    buffer: Vec<u8>,
    /// Inflated text of the messages just read.
    text: Vec<u8>,
    /// Counts of the clients that read as fast as they can, and of slow clients.
    counts: [DeliveryCount; 2],
    latency: LatencyRecord,
    form: MarkForm,
    lists: Arc<KeyLists>,
    /// Deliveries of keys that the client had not subscribed to.
    unwanted: u64,
}

/// The publisher's connection.
struct LoadPublisher {
    socket: LoadSocket,
    way: PublishWay,
    /// Bytes that the socket has not accepted.
    outbox: VecDeque<u8>,
    answers: Answers,
    /// Number of answers that it still waits for.
    unanswered: u64,
}

impl LoadPublisher {
    /// Connects the publisher. Blocks.
    fn connect(plan: &LoadPlan) -> io::Result<Self> {
        let mut link = plan.publish_to.connect(None)?;
        link.tcp().set_nodelay(true)?;
        link.tcp().set_read_timeout(Some(SUBSCRIBE_TIMEOUT))?;
        let way = plan.way();
        way.open(&mut link, &plan.publish_site)?;
        let (socket, answers) = (LoadSocket::new(link)?, way.answers());
        Ok(Self { socket, way, outbox: VecDeque::new(), answers, unanswered: 0 })
    }

    /// Returns whether the kernel has accepted everything that was published.
    fn is_sent(&self) -> bool {
        self.outbox.is_empty() && !self.socket.wants_write()
    }

    /// Writes as much as the socket accepts.
    fn push(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let (front, _) = self.outbox.as_slices();
            match self.socket.write(front) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.socket.push()
    }

    /// Reads the answers that have arrived.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(invalid("the server closed the publisher's connection")),
                Ok(read) => {
                    let answers = self.answers.take(&buffer[..read])?;
                    self.unanswered = self.unanswered.saturating_sub(answers);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Latency of the whole run, and since the last progress line.
struct LatencyRecord {
    all: Histogram<u64>,
    recent: Histogram<u64>,
}

impl LatencyRecord {
    fn new() -> io::Result<Self> {
        let all = Histogram::new_with_bounds(1, 600_000_000, 3).map_err(|e| invalid(e.to_string()))?;
        Ok(Self { recent: all.clone(), all })
    }

    fn record(&mut self, micros: u64) {
        self.all.saturating_record(micros);
        self.recent.saturating_record(micros);
    }
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
    plan.speak.subscribe(&mut link, opening, &plan.lists.of(number), number)?;
    Ok(link)
}

/// Number of clients that connect at the same time. If they connected one by one, a server that accepts only a few
/// times a second would take minutes.
const CONNECTING: usize = 64;

/// Connects the clients with these numbers, and returns their connections in order. Blocks.
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
        // Half of the clients disconnect with a reset.
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
            let (tail, count) = (Vec::new(), ClientCount::default());
            clients.push(LoadClient { socket, pace, tail, unpack, count, missed: 0 });
        }
        let mut publisher = LoadPublisher::connect(plan)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(publisher.socket.tcp(), PUBLISHER, interest)?;
        Ok(Self {
            poll,
            clients,
            slow,
            publisher,
            clock: Instant::now(),
            buffer: vec![0; 1 << 20],
            text: Vec::new(),
            counts: [DeliveryCount::default(); 2],
            latency: LatencyRecord::new()?,
            form: plan.options.mark_form(),
            lists: Arc::clone(&plan.lists),
            unwanted: 0,
        })
    }

    /// Resets all counts.
    pub(super) fn forget(&mut self) {
        self.counts = [DeliveryCount::default(); 2];
        self.latency.all.reset();
        self.latency.recent.reset();
        self.unwanted = 0;
        for client in &mut self.clients {
            (client.count, client.missed) = (ClientCount::default(), 0);
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.nanos(),
            known: self.counts[0].known(),
            unanswered: self.publisher.unanswered,
            is_sent: self.publisher.is_sent(),
        }
    }

    /// Compares each client's deliveries with those that were due to it.
    fn check(&self, plan: &LoadPlan, due: &[ClientCount]) -> Option<Checked> {
        if self.form == MarkForm::Due {
            return None;
        }
        let is_wrong = |number: &usize| {
            let LoadClient { count, missed, unpack, .. } = &self.clients[*number];
            let counted_only = unpack.as_ref().is_some_and(|unpack| !unpack.reads());
            let is_known = count.events + missed == due[*number].events;
            !is_known || (*missed == 0 && !counted_only && count.sum != due[*number].sum)
        };
        let wrong_clients = plan.awake().filter(is_wrong).count() as u64;
        Some(Checked { unwanted: self.unwanted, wrong_clients })
    }

    fn nanos(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Publishes by the plan, and reads until everything due has arrived, or until nothing has arrived for two seconds.
    /// Blocks.
    pub(super) fn run(&mut self, plan: &LoadPlan, process: Option<&Process>) -> io::Result<LoadResult> {
        let mut events = Events::with_capacity(1024);
        let cpu_before = process.and_then(Process::cpu);
        let ticks_before = process.and_then(Process::ticks);
        let start = self.nanos();
        let mut schedule = Schedule::new(plan, start);
        let (mut last_came, mut finished) = (Instant::now(), start);
        let mut progress = LoadProgress::new(start);
        let mut slow_turn = Instant::now();
        let mut out = Vec::new();
        loop {
            while schedule.is_due(self.moment()) {
                out.clear();
                let publisher = &mut self.publisher;
                publisher.unanswered +=
                    publisher.way.write(schedule.next_burst(), &plan.publish_site, &mut out);
                publisher.outbox.extend(&out);
                publisher.push()?;
            }
            self.publisher.push()?;
            let over = schedule.due >= schedule.end || self.nanos() >= schedule.end;
            let timeout = match plan.options.window {
                None if !over => Duration::from_nanos(schedule.due.saturating_sub(self.nanos())),
                _ => Duration::from_millis(10),
            };
            let before = (self.counts[0].known(), self.publisher.unanswered);
            self.wait(&mut events, timeout)?;
            if slow_turn.elapsed() >= SLOW_TURN {
                let share = (plan.options.slow_rate as f64 * slow_turn.elapsed().as_secs_f64()) as usize;
                slow_turn = Instant::now();
                self.read_slow(share.max(1))?;
            }
            if (self.counts[0].known(), self.publisher.unanswered) != before {
                last_came = Instant::now();
                finished = self.nanos();
            }
            progress.show(self, schedule.published);
            let all = self.counts[0].known() >= schedule.expected && self.publisher.unanswered == 0;
            if over && self.publisher.is_sent() && (all || last_came.elapsed() > Duration::from_secs(2)) {
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
            latency: self.latency.all.clone(),
            elapsed: Duration::from_nanos(finished - start),
            cpu,
            user_share: ticks_before.zip(process.and_then(Process::ticks)).and_then(Ticks::user_share),
            checked: self.check(plan, &schedule.counts),
        })
    }

    /// Waits until sockets are ready, for `timeout` at most, and reads and writes them.
    fn wait(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        let timeout = if self.slow.is_empty() { timeout } else { timeout.min(SLOW_TURN) };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &*events {
            match event.token() {
                PUBLISHER => {
                    self.publisher.read(&mut self.buffer)?;
                    self.publisher.push()?;
                }
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
                        client.count.events += unread;
                        self.count(number, &text);
                        self.text = text;
                        continue;
                    }
                    let buffer = std::mem::take(&mut self.buffer);
                    let bytes = &buffer[..kept + read];
                    let done = self.count(number, bytes);
                    let keep = (bytes.len() - done).min(self.form.len() - 1);
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
        let mut done = 0;
        for at in memchr::memmem::find_iter(bytes, mark::START) {
            let Some(mark) = self.form.read(&bytes[at..]) else { break };
            if !is_slow {
                self.latency.record((now.saturating_sub(mark.due) / 1000).max(1));
            }
            self.counts[usize::from(is_slow)].delivered += 1;
            if self.form == MarkForm::DueAndKey {
                self.account(number, mark);
            }
            done = at + self.form.len();
        }
        for at in memchr::memmem::find_iter(&bytes[..len.saturating_sub(GAP_DIGITS)], GAP) {
            let digits = bytes[at + GAP.len()..].iter().take_while(|d| d.is_ascii_digit());
            let missed = digits.fold(0, |n, d| n * 10 + u64::from(d - b'0'));
            self.clients[number].missed += missed;
            let count = &mut self.counts[usize::from(is_slow)];
            count.missed += missed;
            count.gaps += 1;
            done = done.max(at + GAP.len());
        }
        done
    }

    /// Checks a client's delivery against its keys.
    fn account(&mut self, number: usize, mark: Mark) {
        self.clients[number].count.add(mark);
        if !self.lists.of(number).wants(mark.key) {
            self.unwanted += 1;
        }
    }
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
            load.latency.recent.value_at_quantile(0.99) as f64 / 1000.0,
        );
        load.latency.recent.reset();
        (self.last, self.published, self.delivered) = (now, published, delivered);
    }
}
