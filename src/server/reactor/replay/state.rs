//! A replay in progress: its source, its progress, and the report that its client gets.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::forward::{Arrived, Forward, ShardLane};
use super::kept::KeptPast;
use super::merge::Merger;
use super::newest::Newest;
use super::selector::ReplaySelector;
use crate::dialect::{ConcatTarget, Encoding, PastStart};
use crate::engine::Ticket;
use crate::event::{EventId, Since};
use crate::feed::HeldReplies;
use crate::filter::Filter;
use crate::kept::LogEnd;
use crate::server::session::past::PastReport;

/// Unfinished replay.
#[derive(Debug)]
pub(crate) struct ClientReplay {
    pub(super) encoding: Encoding,
    pub(super) selector: ReplaySelector,
    pub(super) work: ReplayWork,
    /// Start of the past, reported after the client's interest has changed, because pending bytes come first.
    pub(super) start: Option<PastStart>,
    /// Report for the client at the end of its past; `None` for a refill.
    pub(super) report: Option<PastReport>,
    /// Kind of the past, as a label of metrics.
    pub(super) kind: &'static str,
    /// Number of events sent.
    pub(super) events: u64,
    /// Whether the client was sent a gap, so that events may be missing.
    pub(super) has_gap: bool,
    /// Held while a page of the log is awaited.
    pub(super) ticket: Option<Ticket>,
    pub(super) arrived: Option<Arrived>,
    /// Ends of logs to report after the past.
    pub(super) ends: Vec<Arc<LogEnd>>,
    /// Replies held back until the client has caught up, because they state that all events up to the loop's place at that time
    /// were delivered.
    pub(super) held: HeldReplies,
    /// Merge of neighbours, if the client requested it.
    pub(super) merger: Option<Merger>,
}

/// Kind of the past of a client that catches up.
pub(super) const CATCH_UP: &str = "catch_up";

#[derive(Debug)]
pub(super) enum ReplayWork {
    /// Searches for the newest events.
    Newest(Newest),
    /// Reads everything after the places that the client named, or that were found.
    Forward(Forward),
    /// Sends the snapshot's events up to this number.
    Snapshot { filters: Vec<Filter>, next: u64, to: u64, is_waiting: bool, is_followed: bool },
    /// Sends the snapshot's events with these numbers, if the filter names keys.
    Keys { numbers: VecDeque<u64>, is_followed: bool },
    /// Reads kept logs.
    Kept(Box<KeptPast>),
    /// The place that the client named is unknown.
    Unknown(Option<Since>),
}

impl ReplayWork {
    /// Returns the places after which everything is delivered, as far as they are known.
    pub(super) fn places(&self) -> SmallVec<[EventId; 1]> {
        match self {
            Self::Forward(forward) => forward.places().collect(),
            Self::Kept(past) => past.places(),
            _ => SmallVec::new(),
        }
    }

    /// Returns whether the past is complete; `None` while that is unknown.
    pub(super) fn is_complete(&self) -> Option<bool> {
        match self {
            Self::Forward(forward) => forward.start().complete,
            Self::Kept(past) => past.is_complete(),
            _ => Some(false),
        }
    }
}

impl ClientReplay {
    /// Returns a replay without a report.
    pub(super) fn new(
        encoding: Encoding,
        selector: ReplaySelector,
        work: ReplayWork,
        kind: &'static str,
    ) -> Self {
        Self {
            encoding,
            selector,
            work,
            start: None,
            report: None,
            kind,
            events: 0,
            has_gap: false,
            ticket: None,
            arrived: None,
            ends: Vec::new(),
            held: HeldReplies::default(),
            merger: None,
        }
    }

    /// Merges neighbours by a string of their payloads. The events of a snapshot are no neighbours.
    pub(crate) fn merge_by(&mut self, target: Arc<ConcatTarget>) {
        if !matches!(self.work, ReplayWork::Snapshot { .. }) {
            self.merger = Some(Merger::new(target));
        }
    }

    /// Returns whether it began because its client fell behind, not on request.
    pub(crate) fn is_catch_up(&self) -> bool {
        self.kind == CATCH_UP
    }

    /// Returns whether it waits for a page of the log or for the snapshot.
    pub(crate) fn is_waiting(&self) -> bool {
        self.ticket.is_some() || matches!(self.work, ReplayWork::Snapshot { is_waiting: true, .. })
    }

    /// Records that the awaited snapshot is complete.
    pub(crate) fn set_snapshot_ready(&mut self) {
        if let ReplayWork::Snapshot { is_waiting, .. } = &mut self.work {
            *is_waiting = false;
        }
    }

    /// Waits for the snapshot.
    pub(super) fn wait_for_snapshot(&mut self) {
        if let ReplayWork::Snapshot { is_waiting, .. } = &mut self.work {
            *is_waiting = true;
        }
    }

    /// Adds ends of logs to report to the client after its past.
    pub(crate) fn add_ends(&mut self, ends: Vec<Arc<LogEnd>>) {
        self.ends.extend(ends);
    }

    /// Drops a page of the log that its client can't take now.
    pub(crate) fn drop_page(&mut self) {
        self.arrived = None;
    }

    /// Returns the number of bytes that it holds, without the page that has just arrived.
    pub(crate) fn held_bytes(&self) -> usize {
        let work = match &self.work {
            ReplayWork::Newest(newest) => newest.shards() * size_of::<ShardLane>(),
            ReplayWork::Forward(forward) => forward.held_bytes(),
            ReplayWork::Kept(past) => past.held_bytes(),
            ReplayWork::Keys { numbers, .. } => numbers.capacity() * size_of::<u64>(),
            ReplayWork::Snapshot { filters, .. } => filters.iter().map(|filter| filter.bytes().len()).sum(),
            ReplayWork::Unknown(_) => 0,
        };
        let report = self.report.as_ref().map_or(0, PastReport::held_bytes);
        let ends = self.ends.capacity() * size_of::<Arc<LogEnd>>();
        let merger = self.merger.as_ref().map_or(0, Merger::held_bytes);
        size_of::<Self>()
            + ends
            + merger
            + self.held.held_bytes()
            + self.selector.held_bytes()
            + report
            + work
    }
}
