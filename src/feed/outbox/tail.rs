//! The usual write: all that a client is owed is the end of its feed.
//!
//! Imports its siblings. Always: what is written so is what the long way would have written, byte for byte; who has bytes of
//! its own, waits, or is out of step goes that way.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::Feed;
use super::super::run::Run;
use super::{Outbox, SLICES_MAX};

/// Where a outbox writes to.
pub(crate) trait Sink: Write {
    /// As [`Write::write`], of what other members of the feed are written too.
    fn write_tail(&mut self, tail: &Tail<'_>) -> io::Result<usize> {
        tail.write_to(self)
    }
}

/// The end of a feed, from a frame on: what nearly every write is.
#[derive(Clone, Debug)]
pub(crate) struct Tail<'a> {
    runs: &'a VecDeque<Run>,
    /// The run that it begins in, and which of them that is.
    first: &'a Run,
    at: usize,
    /// Where it begins there.
    start: usize,
    pub(super) len: usize,
}

impl Tail<'_> {
    /// What it is the end of, run by run.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Bytes> {
        self.runs.range(self.at..).map(|run| &run.bytes)
    }

    /// Where in the first of them it begins.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no pages are shared there"))]
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Its bytes.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "no pages are shared there"))]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The same, from where it begins.
    pub(crate) fn slices(&self) -> SmallVec<[IoSlice<'_>; 8]> {
        let mut slices: SmallVec<[IoSlice<'_>; 8]> = self.runs().map(|run| IoSlice::new(run)).collect();
        slices[0].advance(self.start);
        slices
    }

    /// Whether these bytes are the same.
    fn equals(&self, pending_slices: &[IoSlice<'_>]) -> bool {
        let bytes = self.slices();
        bytes.iter().flat_map(|slice| slice.iter()).eq(pending_slices.iter().flat_map(|slice| slice.iter()))
    }

    /// One write of it.
    pub(crate) fn write_to(&self, out: &mut (impl Write + ?Sized)) -> io::Result<usize> {
        if self.at + 1 == self.runs.len() {
            return out.write(&self.first.bytes[self.start..]);
        }
        out.write_vectored(&self.slices())
    }
}

impl Outbox {
    /// All that is owed, where that is the end of its feed and nothing else: what [`owed`](Self::owed) would find, sooner.
    pub(super) fn tail<'a>(&self, feed: Option<&'a Feed>, room: usize) -> Option<Tail<'a>> {
        let feed = feed.filter(|feed| self.backlog.is_none() && !self.replaying && self.next < feed.next)?;
        if !self.in_sync && feed.shared.is_some() {
            return None;
        }
        let runs = &feed.runs;
        let (mut first, mut at, mut len) = (runs.back()?, runs.len() - 1, 0);
        while self.next < first.first {
            len += first.bytes.len();
            if at == 0 || len > room || runs.len() - at >= SLICES_MAX {
                return None;
            }
            at -= 1;
            first = &runs[at];
        }
        let start = first.start_of(self.next);
        len += first.bytes.len() - start;
        let tail = Tail { runs, first, at, start, len };
        debug_assert!(
            len > room || tail.equals(&self.pending_slices(Some(feed), room)),
            "the long way is the rule"
        );
        (len <= room).then_some(tail)
    }
}
