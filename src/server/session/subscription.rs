//! One subscription of a session, and its name.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::OnceLock;

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};

use super::began::Began;
use crate::codec::portable;
use crate::dialect::OnLag;
use crate::feed::Conflation;
use crate::filter::{Filter, saved as saved_filter};

/// Name of a subscription: the client's own, or a number, which needs no allocation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum SubscriptionName {
    Given(Box<str>),
    Numbered(u32),
}

impl SubscriptionName {
    pub(super) fn is(&self, id: &str) -> bool {
        match self {
            Self::Given(name) => **name == *id,
            Self::Numbered(number) => number_of(id) == Some(*number),
        }
    }

    /// Returns the number that the name stands for, whether the client or the server chose it.
    pub(super) fn number(&self) -> Option<u32> {
        match self {
            Self::Given(name) => number_of(name),
            Self::Numbered(number) => Some(*number),
        }
    }
}

/// Returns the number in a name of the server's form.
pub(super) fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("sub-")?.parse().ok()
}

/// Returns a hash of a name, or of the number that it stands for, by which the name is found.
pub(super) fn name_hash(name: &str) -> u16 {
    match number_of(name) {
        Some(number) => hash(&number.to_le_bytes()) as u16,
        None => hash(name.as_bytes()) as u16,
    }
}

/// Marks of a subscription, in one word because a client may have a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SavedMarks", into = "SavedMarks")]
pub(super) struct SubscriptionMarks(u16);

/// Mark of a subscription that requested a snapshot: values added later also get their snapshots.
const HAS_SNAPSHOT: u16 = 1 << 15;

/// Bits of empty lists, by their attributes. Kind and id of an entity are no lists of their own.
const EMPTY_LISTS: u16 = 0b1_1001_1111;

impl SubscriptionMarks {
    pub(super) fn new(has_snapshot: bool, empty_lists: u16, fixed_lists: u16) -> Self {
        // In the other bits: those from 0 to 4 nine bits higher, of the channel and the entity two bits lower.
        let fixed = (fixed_lists & 0x1f) << 9 | (fixed_lists & 0x180) >> 2;
        Self((empty_lists & EMPTY_LISTS) | fixed | if has_snapshot { HAS_SNAPSHOT } else { 0 })
    }

    pub(super) fn with_empty(self, empty_lists: u16) -> Self {
        Self(self.0 & !EMPTY_LISTS | empty_lists & EMPTY_LISTS)
    }

    pub(super) fn has_snapshot(self) -> bool {
        self.0 & HAS_SNAPSHOT != 0
    }

    /// Returns a bit for each list that an update emptied, by its attribute.
    pub(super) fn empty_lists(self) -> u16 {
        self.0 & EMPTY_LISTS
    }

    /// Returns a bit for each list that the filter's text names, by its attribute. An update can't change it.
    pub(super) fn fixed_lists(self) -> u16 {
        self.0 >> 9 & 0x1f | (self.0 & 0x60) << 2
    }
}

/// Saved form of the marks.
#[derive(Serialize, Deserialize)]
struct SavedMarks {
    /// Bits of empty lists, and [`HAS_SNAPSHOT`].
    #[serde(default, skip_serializing_if = "is_zero")]
    marks: u16,
    /// Bits of fixed lists. Earlier versions ignore them.
    #[serde(default, skip_serializing_if = "is_zero")]
    fixed_lists: u16,
}

impl From<SavedMarks> for SubscriptionMarks {
    fn from(SavedMarks { marks, fixed_lists }: SavedMarks) -> Self {
        Self::new(marks & HAS_SNAPSHOT != 0, marks, fixed_lists)
    }
}

impl From<SubscriptionMarks> for SavedMarks {
    fn from(marks: SubscriptionMarks) -> Self {
        Self { marks: marks.0 & (EMPTY_LISTS | HAS_SNAPSHOT), fixed_lists: marks.fixed_lists() }
    }
}

impl SessionSubscription {
    /// Returns whether both are filters of one subscription.
    pub(super) fn is_part_of(&self, other: &Self) -> bool {
        let is_same = match (&self.name, &other.name) {
            (SubscriptionName::Given(one), SubscriptionName::Given(other)) => one == other,
            (one, other) => one.number() == other.number(),
        };
        self.name_hash == other.name_hash && is_same
    }

    /// Returns a bit for each list that is empty, by its attribute.
    pub(super) fn empty_lists(&self) -> u16 {
        self.marks.empty_lists()
    }
}

/// Name that stands for all subscriptions in an unsubscribe. No subscription can have it.
pub(super) const ALL: &str = "*";

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(name) => f.write_str(name),
            Self::Numbered(number) => write!(f, "sub-{number}"),
        }
    }
}

/// One filter of a subscription. A subscription with alternatives has several filters, adjacent and with the same name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SessionSubscription {
    pub(super) name: SubscriptionName,
    #[serde(flatten, with = "saved_filter::flat")]
    pub(super) filter: Filter,
    pub(super) on_lag: OnLag,
    /// Place where it began; `None` if it is unknown which past events it delivered.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "portable::text::option")]
    pub(super) began: Option<Began>,
    /// Marks, such as the lists that an update emptied. The filter keeps one value of an empty list, so that values can be
    /// added to it, but the subscription matches nothing.
    #[serde(flatten)]
    pub(super) marks: SubscriptionMarks,
    /// Hash of the name, to find it among a thousand.
    #[serde(skip)]
    pub(super) name_hash: u16,
    /// Cost to hold the filter; see [`Filter::weight`].
    #[serde(skip)]
    pub(super) weight: u32,
    /// Hash of the filter in the client's interest.
    #[serde(skip)]
    pub(super) wish: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
fn is_zero(bits: &u16) -> bool {
    *bits == 0
}

/// Hashes with a seed that no client knows: two values collide by chance, once in 2^64.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    STATE.get_or_init(RandomState::default).hash_one(bytes)
}

/// Filter of the interest, before or after a change of the subscriptions, that the change affects.
pub(super) struct AffectedFilter {
    pub(super) wish: u64,
    pub(super) filter: Filter,
    /// Least conflation of the filter before the change, and after it.
    pub(super) was: Option<Conflation>,
    pub(super) to: Option<Conflation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_kept_apart_and_read_back() {
        let lists = [0, 1, 2, 3, 4, 7, 8].map(|about| 1u16 << about);
        let all: u16 = lists.iter().sum();
        for fixed in lists.into_iter().chain([0, all]) {
            for empty in lists.into_iter().chain([0, all]) {
                for has_snapshot in [true, false] {
                    let marks = SubscriptionMarks::new(has_snapshot, 0, fixed).with_empty(empty);
                    let read: SubscriptionMarks =
                        serde_json::from_str(&serde_json::to_string(&marks).expect("JSON")).expect("its own");
                    for marks in [marks, read] {
                        assert_eq!(marks.has_snapshot(), has_snapshot);
                        assert_eq!((marks.empty_lists(), marks.fixed_lists()), (empty, fixed));
                    }
                }
            }
        }
        // The form of earlier versions.
        let read: SubscriptionMarks = serde_json::from_str(r#"{"marks":32897}"#).expect("marks");
        assert_eq!((read.has_snapshot(), read.empty_lists(), read.fixed_lists()), (true, 0x81, 0));
        assert_eq!(serde_json::to_string(&read).expect("JSON"), r#"{"marks":32897}"#);
    }
}
