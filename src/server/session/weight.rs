//! Memory of a client's subscriptions, and its limit.
//!
//! Always: the cost of a change depends on the subscriptions that change, not on all that the client holds.

use super::subscription::{SessionSubscription, SubscriptionName};
use crate::filter::Filter;

/// Approximate memory of a value or pattern in a loop's tables, in bytes: a symbol or the nodes of a pattern, and its
/// path in the index. Measured with 1,000 filters of 256 values.
const MEMBER_BYTES: usize = 128;

/// Approximate memory of a condition on the payload in a loop's tables, without its values, in bytes: the condition,
/// its place under an anchor, and its filter's group.
const CONDITION_BYTES: usize = 320;

/// Approximate memory of a key of a condition's path, in bytes: a node of the tree of fields.
const KEY_BYTES: usize = 128;

/// Approximate memory of a subscription without its filter, in bytes: its class, and its place in the index.
const CLASS_BYTES: usize = 128;

/// Memory of subscriptions, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    /// Total, including the loop's tables. The total is limited.
    pub(super) all: usize,
    /// Memory in the session alone. A filter that is also in the loop's tables is counted there.
    pub(super) own: usize,
}

impl Weight {
    pub(super) fn of_filter(filter: &Filter) -> usize {
        let (conditions, keys) = filter.comparisons_count();
        let members = filter.members_count() * MEMBER_BYTES;
        // The bytes of a condition are stored twice.
        let twice = if conditions > 0 { filter.held_bytes() } else { 0 };
        CLASS_BYTES + filter.held_bytes() + twice + members + conditions * CONDITION_BYTES + keys * KEY_BYTES
    }

    pub(super) fn of(subscription: &SessionSubscription, narrowed: bool) -> Self {
        let own = Self::own_of(subscription, narrowed);
        let filter = if narrowed { subscription.filter.held_bytes() } else { 0 };
        Self { all: own - filter + Self::of_filter(&subscription.filter), own }
    }

    /// Returns the memory in the session alone. Does not look at the filter's members, which may be thousands.
    pub(super) fn own_of(subscription: &SessionSubscription, narrowed: bool) -> usize {
        let name = match &subscription.name {
            SubscriptionName::Given(name) => name.len() + 16,
            SubscriptionName::Numbered(_) => 0,
        };
        // If a grant narrows the subscription, the tables have another filter.
        name + if narrowed { subscription.filter.held_bytes() } else { 0 }
    }
}
