//! A replay under way: its source, its progress, and the report that its client gets.

use std::collections::VecDeque;

use super::forward::{Arrived, Forward, Lane};
use super::judge::Judge;
use super::newest::Newest;
use crate::dialect::{Encoding, PastStart};
use crate::engine::Ticket;
use crate::event::Since;
use crate::filter::Filter;
use crate::server::session::past::PastReport;

/// A replay that is not over.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(super) encoding: Encoding,
    pub(super) judge: Judge,
    pub(super) work: Work,
    /// Where it begins, to be told when the client's interest has changed: what was owed before comes first.
    pub(super) start: Option<PastStart>,
    /// Report that its client gets; none of a refill.
    pub(super) report: Option<PastReport>,
    /// Kind of past that was asked for, as a metric calls it.
    pub(super) kind: &'static str,
    /// Events that came.
    pub(super) events: u64,
    /// The client was told a gap: something may be missing.
    pub(super) has_gap: bool,
    /// Held while it waits for a page of the log.
    pub(super) ticket: Option<Ticket>,
    pub(super) arrived: Option<Arrived>,
}

#[derive(Debug)]
pub(super) enum Work {
    /// The newest so many are looked for.
    Newest(Newest),
    /// All behind the places that the client named, or that were found.
    Forward(Forward),
    /// What the snapshot has up to this number.
    Snapshot { filter: Filter, next: u64, to: u64, is_waiting: bool, is_followed: bool },
    /// What the snapshot has under these numbers, where the filter names keys.
    Keys { numbers: VecDeque<u64>, is_followed: bool },
    /// Nothing can be said of what the client named.
    Unknown(Option<Since>),
}

impl Replay {
    /// Returns one that its client is told nothing of.
    pub(super) fn new(encoding: Encoding, judge: Judge, work: Work, kind: &'static str) -> Self {
        Self {
            encoding,
            judge,
            work,
            start: None,
            report: None,
            kind,
            events: 0,
            has_gap: false,
            ticket: None,
            arrived: None,
        }
    }

    /// Whether it goes on when something comes that it waits for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ticket.is_some() || matches!(self.work, Work::Snapshot { is_waiting: true, .. })
    }

    /// The snapshot that it waited for is there.
    pub(crate) fn snapshot_came(&mut self) {
        if let Work::Snapshot { is_waiting, .. } = &mut self.work {
            *is_waiting = false;
        }
    }

    /// It waits for the snapshot.
    pub(super) fn wait_for_snapshot(&mut self) {
        if let Work::Snapshot { is_waiting, .. } = &mut self.work {
            *is_waiting = true;
        }
    }

    /// Lets go of a page of the log that its client can't take now.
    pub(crate) fn let_go(&mut self) {
        self.arrived = None;
    }

    /// Returns the bytes that it holds, the page apart that it was given just now.
    pub(crate) fn held_bytes(&self) -> usize {
        let work = match &self.work {
            Work::Newest(newest) => newest.shards() * size_of::<Lane>(),
            Work::Forward(forward) => forward.shards() * size_of::<Lane>(),
            Work::Keys { numbers, .. } => numbers.capacity() * size_of::<u64>(),
            Work::Snapshot { filter, .. } => filter.bytes().len(),
            Work::Unknown(_) => 0,
        };
        let report = self.report.as_ref().map_or(0, PastReport::held_bytes);
        size_of::<Self>() + self.judge.held_bytes() + report + work
    }
}
