//! The one idea: connections that want the same in the same encoding share one run of encoded frames, and a
//! connection is a cursor into it.
//!
//! Imports `event`, `filter`, `dialect`, `metrics`; knows no socket and no clock. Always:
//! - a frame is encoded once and shared; what is copied is copied once for the feed, never for a member;
//! - a feed keeps a bounded tail of its frames, whatever its members do; a member that falls off it is told
//!   how many events it missed, where it missed them;
//! - frames have indices that only grow; `base..next` are kept, and a cursor at `next` has everything.

mod cursor;
mod fanout;
pub(crate) mod harness;
mod run;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::dialect::Encoding;
use crate::event::EventId;
use crate::filter::ClassId;
use run::Run;

pub(crate) use cursor::{Cursor, Flushed, Ring, Tally};
pub(crate) use fanout::{Fanout, FeedKey, Slot};

/// How much of its past a feed keeps for members that are slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeedLimits {
    pub(crate) max_events: usize,
    pub(crate) max_bytes: usize,
}

/// Frames up to this size are copied together where several wait; larger ones are cheaper as they are.
const MERGE_FRAME_BYTES_MAX: usize = 4096;

/// The size of a run of small frames: large enough that the write call no longer counts.
const RUN_BYTES_MAX: usize = 64 * 1024;

/// The frames of one interest in one encoding.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) encoding: Encoding,
    pub(crate) classes: Box<[ClassId]>,
    pub(crate) members: Vec<Slot>,
    /// The fan-out's number of the newest event appended.
    pub(crate) newest_event: u64,
    runs: VecDeque<Run>,
    /// Appended since the last seal; not yet visible to cursors.
    fresh: Vec<(Bytes, EventId)>,
    base: u64,
    next: u64,
    bytes: usize,
    /// The newest event that was let go.
    trimmed: Option<EventId>,
}

impl Feed {
    fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            classes: Box::default(),
            members: Vec::new(),
            newest_event: 0,
            runs: VecDeque::new(),
            fresh: Vec::new(),
            base: 0,
            next: 0,
            bytes: 0,
            trimmed: None,
        }
    }

    /// Takes a frame; true where it is the first since the last seal.
    fn append(&mut self, frame: Bytes, id: EventId) -> bool {
        self.fresh.push((frame, id));
        self.fresh.len() == 1
    }

    fn seal(&mut self, limits: &FeedLimits) {
        let fresh = std::mem::take(&mut self.fresh);
        let merge = self.members.len() > 1;
        let mut rest = fresh.as_slice();
        while !rest.is_empty() {
            let mut taken = 1;
            let mut size = rest[0].0.len();
            while merge && size <= RUN_BYTES_MAX && taken < rest.len() {
                let len = rest[taken].0.len();
                if len > MERGE_FRAME_BYTES_MAX || rest[taken - 1].0.len() > MERGE_FRAME_BYTES_MAX {
                    break;
                }
                size += len;
                taken += 1;
            }
            let (frames, behind) = rest.split_at(taken);
            let run = Run::new(self.next, frames);
            self.next = run.next();
            self.bytes += run.bytes.len();
            self.runs.push_back(run);
            rest = behind;
        }
        // The vector goes back for the next turn; its frames are in runs now.
        self.fresh = fresh;
        self.fresh.clear();
        self.trim(limits);
    }

    fn trim(&mut self, limits: &FeedLimits) {
        while (self.next - self.base) as usize > limits.max_events || self.bytes > limits.max_bytes {
            // The newest run stays: who is just behind it must get it.
            if self.runs.len() <= 1 {
                break;
            }
            let Some(oldest) = self.runs.pop_front() else { break };
            self.bytes -= oldest.bytes.len();
            self.base = oldest.next();
            self.trimmed = Some(oldest.id_of(oldest.next() - 1));
        }
    }

    /// The run that holds the frame of this index; `base <= index < next`.
    fn run_of(&self, index: u64) -> &Run {
        &self.runs[self.runs.partition_point(|run| run.next() <= index)]
    }

    /// Whose frame has this index, while it is kept.
    fn id_of(&self, index: u64) -> Option<EventId> {
        (index >= self.base && index < self.next).then(|| self.run_of(index).id_of(index))
    }

    /// Lets go of what every member has, when the loop knows that all have everything.
    pub(crate) fn forget_written(&mut self) {
        if let Some(newest) = self.runs.back() {
            self.trimmed = Some(newest.id_of(newest.next() - 1));
        }
        self.runs.clear();
        self.bytes = 0;
        self.base = self.next;
    }
}

#[cfg(test)]
mod tests;
