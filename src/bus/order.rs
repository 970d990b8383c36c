//! One order over all shards, the same for every loop of a bus: so that "everything up to this event" means
//! the same to all of them, and an event's frame, which says so, can be shared.
//!
//! Imports `event`. Always:
//! - the order is made run by run, by whichever loop comes to its end first; every other loop reads the same runs;
//! - a shard's own order stays as it is;
//! - an event's position is made of its run's start alone, so all loops make the same one.
//!
//! With one shard there is nothing to decide, and no order is kept. The lock is held to take a run, or to read
//! one of some dozen events: once a batch, not once an event.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::event::{Position, Sequence};

/// Runs that are kept for a loop that is far behind; one that is further has lost events.
const SEGMENTS_MAX: usize = 1 << 16;

/// Some events of one shard, one behind the other.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) shard: usize,
    /// The first sequence of the shard that is no longer in it.
    pub(super) to: Sequence,
    /// Where a client stands before it.
    pub(super) before: Position,
}

/// The order so far: what some loop has not read of it.
#[derive(Debug)]
pub(super) struct Order {
    runs: VecDeque<Segment>,
    /// The number of the oldest run that is kept, and the places before it.
    base: u64,
    base_next: SmallVec<[Sequence; 4]>,
    /// The places behind the newest run.
    next: SmallVec<[Sequence; 4]>,
    /// The same, as clients are told it: in the ids of a log where events come from one.
    told: Position,
    /// The run that each loop reads next; none where it is gone.
    readers: Vec<Option<u64>>,
}

/// What a loop gets when it asks for its next run.
pub(super) enum Next {
    Segment(Segment),
    /// It is at the end.
    VisitEnd,
    /// The order has gone on without it: it goes on here.
    Lost {
        number: u64,
        places: SmallVec<[Sequence; 4]>,
    },
}

impl Order {
    /// Begins at this place.
    pub(super) fn new(start: Position) -> Self {
        let next = start.sequences.clone();
        Self {
            runs: VecDeque::new(),
            base: 0,
            base_next: next.clone(),
            next,
            told: start,
            readers: Vec::new(),
        }
    }

    /// A reader more: its number, and its next run.
    pub(super) fn enter(&mut self) -> (usize, u64) {
        let end = self.end();
        self.readers.push(Some(end));
        (self.readers.len() - 1, end)
    }

    pub(super) fn leave(&mut self, reader: usize) {
        self.readers[reader] = None;
        self.forget();
    }

    /// The number of the run that is to come.
    pub(super) fn end(&self) -> u64 {
        self.base + self.runs.len() as u64
    }

    /// The next sequence of each shard that is in no run.
    pub(super) fn places(&self) -> &[Sequence] {
        &self.next
    }

    pub(super) fn told(&self) -> &Position {
        &self.told
    }

    /// Clients stand here in a log, unless an event of the log has said more already.
    pub(super) fn begin_at(&mut self, own_epoch: u64, log: Position) {
        if self.told.epoch == own_epoch && log.sequences.len() == self.next.len() {
            self.told = log;
        }
    }

    /// A reader has read all before this run, and asks for it.
    pub(super) fn at(&mut self, reader: usize, number: u64) -> Next {
        self.readers[reader] = Some(number);
        let Some(index) = number.checked_sub(self.base) else {
            return Next::Lost { number: self.base, places: self.base_next.clone() };
        };
        match self.runs.get(index as usize) {
            Some(run) => Next::Segment(run.clone()),
            None => {
                self.forget();
                Next::VisitEnd
            }
        }
    }

    /// A reader at the end has read this far in a shard, and clients stand there then. It is past the run.
    pub(super) fn push(&mut self, reader: usize, shard: usize, to: Sequence, told: Position) -> u64 {
        let before = std::mem::replace(&mut self.told, told);
        self.next[shard] = to;
        self.runs.push_back(Segment { shard, to, before });
        self.readers[reader] = Some(self.end());
        self.forget();
        self.end()
    }

    /// Lets go of the runs that every reader has.
    fn forget(&mut self) {
        let needed = self.readers.iter().flatten().min().copied().unwrap_or(u64::MAX);
        while let Some(run) = self.runs.front()
            && (self.base < needed || self.runs.len() > SEGMENTS_MAX)
        {
            self.base_next[run.shard] = run.to;
            self.runs.pop_front();
            self.base += 1;
        }
    }
}
