//! Postings: what the index stores under a path.

/// One entry of the index: a class, or a group of filters with conditions on the payload.
///
/// A posting that must be confirmed may be found for an event that its filter does not match, or several times for
/// one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posting(u32);

/// A posting, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum PostingKind {
    /// A class that matches whenever the posting is found.
    Class(u32),
    /// A class that must be confirmed: it has several paths, or conditions that no path holds.
    Candidate(u32),
    /// A group of [`payloads`](super::payloads). It must be confirmed.
    Group(u32),
}

/// Numbers of classes and groups are below this.
pub(super) const NUMBERS_MAX: u32 = 1 << 29;

const GROUP: u32 = 1 << 29;
const MUST_CONFIRM: u32 = 1 << 30;

impl Posting {
    /// Returns the posting of a class.
    pub(super) fn class(class: u32, must_confirm: bool) -> Self {
        Self(if must_confirm { class | MUST_CONFIRM } else { class })
    }

    /// Returns the posting of a group.
    pub(super) fn group(group: u32) -> Self {
        Self(group | GROUP | MUST_CONFIRM)
    }

    pub(super) fn kind(self) -> PostingKind {
        if self.0 & MUST_CONFIRM == 0 {
            return PostingKind::Class(self.0);
        }
        let number = self.0 & (NUMBERS_MAX - 1);
        if self.0 & GROUP == 0 { PostingKind::Candidate(number) } else { PostingKind::Group(number) }
    }

    /// Returns the posting in 31 bits.
    pub(super) fn to_bits(self) -> u32 {
        self.0
    }

    /// Returns the posting that [`to_bits`](Self::to_bits) gave.
    pub(super) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}
