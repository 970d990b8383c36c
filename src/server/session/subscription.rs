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
pub(super) fn called(name: &str) -> u16 {
    match number_of(name) {
        Some(number) => hash(&number.to_le_bytes()) as u16,
        None => hash(name.as_bytes()) as u16,
    }
}

/// Mark of a subscription that requested a snapshot: values added later also get their snapshots.
pub(super) const HAS_SNAPSHOT: u16 = 1 << 15;

impl SessionSubscription {
    /// Returns whether both are filters of one subscription.
    pub(super) fn is_part_of(&self, other: &Self) -> bool {
        let is_same = match (&self.name, &other.name) {
            (SubscriptionName::Given(one), SubscriptionName::Given(other)) => one == other,
            (one, other) => one.number() == other.number(),
        };
        self.called == other.called && is_same
    }

    /// Returns a bit for each list that is empty, by its attribute.
    pub(super) fn empty_lists(&self) -> u16 {
        self.marks & !HAS_SNAPSHOT
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
    /// Bits: one for each list that an update emptied, by its attribute, and [`HAS_SNAPSHOT`]. The filter keeps one
    /// value of an empty list, so that values can be added to it, but the subscription matches nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) marks: u16,
    /// Hash of the name, to find it among a thousand.
    #[serde(skip)]
    pub(super) called: u16,
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
