//! A replay in progress: its source, its progress, and the report that its client gets.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::forward::{Arrived, Forward, ShardLane};
use super::kept::KeptPast;
use super::merge::Merger;
use super::newest::Newest;
use super::selector::ReplaySelector;
use crate::dialect::{ConcatTarget, Encoding, PastStart};
use crate::engine::Ticket;
use crate::event::{EventId, Since};
use crate::feed::{HeldReplies, Outbox};
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
    /// Whether the client's interest changes at the replay's end, so that the replay is not extended.
    pub(super) is_final: bool,
    /// Replays that follow this one. Only a catch-up has any.
    pub(super) queue: VecDeque<ClientReplay>,
}

/// Maximum number of replays that follow another: a client that catches up is read until this many of its messages wait.
const QUEUE_MAX: usize = 16;

/// Maximum number of filters in them.
const QUEUED_FILTERS_MAX: usize = 2_000;

/// Maximum memory of replies that wait, in bytes.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

/// Rest of a catch-up: everything after a place, and then replies.
#[derive(Clone, Debug)]
pub(crate) struct SuspendedCatchUp {
    pub(crate) place: Since,
    /// Replies, in the form of the client's stream.
    pub(crate) held: Vec<Bytes>,
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
    /// Reads nothing more.
    Over,
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

    /// Returns the place up to which it has read, if another reader can continue there.
    fn place(&self) -> Option<Since> {
        match self {
            Self::Forward(forward) => forward.place(),
            Self::Kept(past) => past.place(),
            Self::Unknown(since) => since.clone(),
            _ => None,
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
            is_final: false,
            queue: VecDeque::new(),
        }
    }

    /// Returns a replay of nothing but the gap of a purge, for a client that then catches up.
    pub(crate) fn purge_notice(encoding: Encoding, filters: Vec<Filter>) -> Self {
        let selector = ReplaySelector::any(filters, Vec::new());
        Self::new(encoding, selector, ReplayWork::Unknown(None), CATCH_UP)
    }

    /// Merges neighbours by a string of their payloads. The events of a snapshot are no neighbours.
    pub(crate) fn merge_by(&mut self, target: Arc<ConcatTarget>) {
        if !matches!(self.work, ReplayWork::Snapshot { .. }) {
            self.merger = Some(Merger::new(target));
        }
    }

    /// Returns whether the replay began because its client fell behind, not on request.
    pub(crate) fn is_catch_up(&self) -> bool {
        self.kind == CATCH_UP
    }

    /// Returns whether its client is read before the replay is over: the client catches up, and few of its messages wait.
    pub(crate) fn takes_messages(&self) -> bool {
        let filters = || self.queue.iter().map(|replay| replay.selector.requested().len()).sum::<usize>();
        let all = || std::iter::once(self).chain(&self.queue);
        self.marks_places()
            && self.queue.len() < QUEUE_MAX
            && filters() < QUEUED_FILTERS_MAX
            && all().map(|replay| replay.held.held_bytes()).sum::<usize>() < QUEUED_BYTES_MAX
    }

    /// Returns whether another replay by which the client catches up may follow.
    pub(crate) fn marks_places(&self) -> bool {
        self.is_catch_up() && self.queue.iter().all(Self::is_catch_up)
    }

    /// Returns whether the replay may be extended over the events that the client's feed has dropped meanwhile.
    pub(super) fn may_extend(&self, catches_up: bool) -> bool {
        // A client that catches up gets the report at the end of its requested past, so a catch-up follows instead.
        !self.is_final && self.queue.is_empty() && (self.is_catch_up() || !catches_up)
    }

    /// Ends the client's catch-up at its present end.
    pub(crate) fn end_here(&mut self) {
        let newest = self.newest();
        newest.is_final = newest.is_catch_up();
    }

    /// Appends a replay to those that follow this one.
    pub(crate) fn queue_replay(&mut self, replay: Self) {
        self.queue.push_back(replay);
    }

    /// Returns the place from which another process can continue for its client, if all that is left to read is read by these
    /// filters.
    pub(super) fn place_to_continue(&self, filters: &[Filter]) -> Option<Since> {
        let all = || std::iter::once(self).chain(&self.queue);
        let is_plain = |replay: &Self| {
            replay.is_catch_up()
                && replay.ends.is_empty()
                && replay.selector.requested() == filters
                && !matches!(replay.work, ReplayWork::Unknown(None))
        };
        if all().all(is_plain) { self.work.place() } else { None }
    }

    /// Takes all replies that wait.
    pub(super) fn take_held(&mut self) -> impl Iterator<Item = HeldReplies> + '_ {
        let first = std::mem::take(&mut self.held);
        std::iter::once(first).chain(self.queue.drain(..).map(|replay| replay.held))
    }

    /// Returns the replay that comes last.
    pub(crate) fn newest(&mut self) -> &mut Self {
        match self.queue.len() {
            0 => self,
            count => &mut self.queue[count - 1],
        }
    }

    /// Queues a reply after the events by which the client catches up.
    pub(crate) fn hold(&mut self, outbox: &Outbox, reply: Bytes) {
        let last = self.queue.iter().rposition(Self::is_catch_up);
        let held = match last {
            Some(last) => &mut self.queue[last].held,
            None => &mut self.held,
        };
        outbox.hold(reply, held);
    }

    /// Returns whether the replay has sent nothing yet, so that its first page is the next thing to make.
    pub(crate) fn is_new(&self) -> bool {
        self.start.is_some()
    }

    /// Returns whether the replay waits for a page of the log or for the snapshot.
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

    /// Returns the number of bytes that the replay holds, without the page that has just arrived.
    pub(crate) fn held_bytes(&self) -> usize {
        let work = match &self.work {
            ReplayWork::Newest(newest) => newest.shards() * size_of::<ShardLane>(),
            ReplayWork::Forward(forward) => forward.held_bytes(),
            ReplayWork::Kept(past) => past.held_bytes(),
            ReplayWork::Keys { numbers, .. } => numbers.capacity() * size_of::<u64>(),
            ReplayWork::Snapshot { filters, .. } => filters.iter().map(|filter| filter.bytes().len()).sum(),
            ReplayWork::Unknown(_) | ReplayWork::Over => 0,
        };
        let report = self.report.as_ref().map_or(0, PastReport::held_bytes);
        let ends = self.ends.capacity() * size_of::<Arc<LogEnd>>();
        let merger = self.merger.as_ref().map_or(0, Merger::held_bytes);
        size_of::<Self>()
            + self.queue.iter().map(Self::held_bytes).sum::<usize>()
            + ends
            + merger
            + self.held.held_bytes()
            + self.selector.held_bytes()
            + report
            + work
    }
}
