//! The publisher's side of a run: the time of the next burst, the events published so far, and the number of their
//! receivers.

use super::super::dice::Dice;
use super::keys::Mix;
use super::mark::{ClientCount, Mark};
use super::plan::LoadPlan;
use super::publish::OutgoingEvent;

/// Schedule of a run, with the deliveries that are due.
pub(super) struct Schedule<'a> {
    plan: &'a LoadPlan,
    /// End of the run, in nanoseconds.
    pub(super) end: u64,
    /// Time between two bursts, in nanoseconds.
    interval: u64,
    /// Time of the next burst, in nanoseconds.
    pub(super) due: u64,
    pub(super) published: u64,
    /// Deliveries due to the clients that read as fast as they can.
    pub(super) expected: u64,
    /// By key: number of clients that read as fast as they can and want its events.
    wanting: Vec<u64>,
    /// By key: those clients' numbers. Empty where all clients get the same events.
    members: Vec<Vec<u32>>,
    /// By client: the events due to it. Empty where all clients get the same events.
    pub(super) counts: Vec<ClientCount>,
    words: Dice,
    keys: Dice,
    burst: Vec<OutgoingEvent>,
}

/// State of the deliveries at one moment. It decides whether the window has room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Nanoseconds since the load's start.
    pub(super) now: u64,
    /// Deliveries that have arrived, or that gaps reported as lost.
    pub(super) known: u64,
    /// Number of answers that the publisher still waits for.
    pub(super) unanswered: u64,
    /// Whether the kernel has accepted everything that was published.
    pub(super) is_sent: bool,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(plan: &'a LoadPlan, start: u64) -> Self {
        let keys = plan.options.keys.count();
        let differ = plan.options.keys.differ();
        let mut wanting = vec![0; keys];
        let mut members = vec![Vec::new(); if differ { keys } else { 0 }];
        for number in plan.awake() {
            let selection = plan.lists.of(number);
            let all: Vec<u32> =
                if selection.mix == Mix::All { (0..keys as u32).collect() } else { selection.keys.to_vec() };
            for key in all {
                wanting[key as usize] += 1;
                if differ {
                    members[key as usize].push(number as u32);
                }
            }
        }
        let clients = if differ { plan.options.connections } else { 0 };
        Self {
            plan,
            end: start + plan.time.as_nanos() as u64,
            interval: 1_000_000_000 * plan.options.burst / plan.options.rate,
            due: start,
            published: 0,
            expected: 0,
            wanting,
            members,
            counts: vec![ClientCount::default(); clients],
            words: Dice(1),
            keys: Dice(2),
            burst: Vec::with_capacity(plan.options.burst as usize),
        }
    }

    /// Returns whether a burst is to be published now.
    pub(super) fn is_due(&mut self, moment: Moment) -> bool {
        let is_time = match self.plan.options.window {
            // Publishing as fast as the server accepts: an event is due when the window has room.
            Some(window) => {
                self.due = moment.now;
                let pending = self.expected.saturating_sub(moment.known);
                let mean = self.wanting.iter().sum::<u64>() / self.wanting.len() as u64;
                let room = (window - 1) * mean.max(1) * self.plan.options.burst;
                moment.is_sent && moment.unanswered < window && pending <= room
            }
            None => self.due <= moment.now,
        };
        is_time && self.due < self.end
    }

    /// Creates the events of the burst that is due, and schedules the next one.
    pub(super) fn next_burst(&mut self) -> &[OutgoingEvent] {
        let options = &self.plan.options;
        let form = options.mark_form();
        let pad_bytes = options.payload.saturating_sub(form.len() + 12);
        let (entity, channel) =
            (options.keys.mix.contains(&Mix::Entities), options.keys.mix.contains(&Mix::Channels));
        self.burst.clear();
        for _ in 0..options.burst {
            let key = match options.keys.watch {
                Some(_) => self.keys.below(options.keys.keys as u64),
                None => self.published % options.keys.filters as u64,
            };
            let mark = Mark { due: self.due, key: key as u32 };
            let mut payload = String::with_capacity(options.payload);
            payload.push('{');
            form.write(mark, &mut payload);
            payload.push_str(",\"pad\":\"");
            words(pad_bytes, &mut self.words, &mut payload);
            payload.push_str("\"}");
            self.burst.push(OutgoingEvent { key: mark.key, entity, channel, payload });
            self.published += 1;
            self.expected += self.wanting[key as usize];
            for number in self.members.get(key as usize).into_iter().flatten() {
                self.counts[*number as usize].add(mark);
            }
        }
        if options.window.is_none() {
            self.due += self.interval;
        }
        &self.burst
    }
}

/// Appends `len` bytes that compress like natural text: random words of a small vocabulary.
fn words(len: usize, dice: &mut Dice, text: &mut String) {
    const WORDS: [&str; 32] = [
        "agent", "task", "reading", "the", "sources", "sixteen", "of", "them", "started", "done", "failed",
        "at", "price", "bid", "ask", "volume", "node", "entered", "left", "review", "a", "file", "in",
        "branch", "tests", "passed", "with", "two", "warnings", "and", "waiting", "for",
    ];
    let end = text.len() + len;
    while text.len() < end {
        text.push_str(dice.pick(&WORDS));
        text.push(' ');
    }
    text.truncate(end);
}
