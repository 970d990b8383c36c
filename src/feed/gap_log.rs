//! Gap notices of a feed: which frames they are, and how many missing events each reports.

use std::collections::VecDeque;
use std::ops::Range;

use crate::dialect::Missed;

/// Gap notices of one feed.
#[derive(Debug, Default)]
pub(super) struct GapLog {
    /// Frame index and missing events of each notice that is retained, and of the newest that was trimmed.
    sealed: VecDeque<(u64, Missed)>,
    /// Notices among the unsealed frames, each with whether it reports a purge.
    unsealed: VecDeque<(Missed, bool)>,
    /// Frame index after the newest notice of a purge; 0 if there was none.
    purges_end: u64,
    /// Frame index of the newest notice that was dropped from the log.
    forgotten: Option<u64>,
}

impl GapLog {
    /// Adds a notice that is not sealed yet.
    pub(super) fn push(&mut self, missed: Missed, is_purge: bool) {
        self.unsealed.push_back((missed, is_purge));
    }

    /// Returns whether a notice of a purge is among the frames from this index on, or among the unsealed ones.
    pub(super) fn has_purge_from(&self, index: u64) -> bool {
        self.purges_end > index || self.unsealed.iter().any(|(_, is_purge)| *is_purge)
    }

    /// Returns whether some notices are not sealed yet.
    pub(super) fn has_unsealed(&self) -> bool {
        !self.unsealed.is_empty()
    }

    /// Gives the oldest unsealed notice its frame index.
    pub(super) fn seal(&mut self, index: u64) {
        let (missed, is_purge) = self.unsealed.pop_front().unwrap_or((Missed::Unknown, false));
        if is_purge {
            self.purges_end = index + 1;
        }
        self.sealed.push_back((index, missed));
    }

    /// Forgets notices before `base`, except the newest of them.
    pub(super) fn trim(&mut self, base: u64) {
        while self.sealed.get(1).is_some_and(|(second, _)| *second < base) {
            self.forgotten = self.sealed.pop_front().map(|(index, _)| index);
        }
    }

    /// Forgets the sealed notices, which every member has received.
    pub(super) fn clear_sealed(&mut self) {
        self.sealed.clear();
    }

    /// Returns the number of events that the frames of these indices represent: one for each event, and the missing
    /// ones of each notice.
    pub(super) fn missed_in(&self, indices: Range<u64>) -> Missed {
        if self.forgotten.is_some_and(|gap| gap >= indices.start) {
            return Missed::Unknown;
        }
        let notices = self.sealed.iter().filter(|(index, _)| indices.contains(index));
        let (count, missed) =
            notices.fold((0, Missed::default()), |(count, sum), (_, missed)| (count + 1, sum.and(*missed)));
        Missed::Exactly(indices.end.saturating_sub(indices.start).saturating_sub(count)).and(missed)
    }
}
