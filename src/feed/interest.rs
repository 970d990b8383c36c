//! Interests: the filters by which a connection's subscriptions select events, and changes to them.

use super::conflate::{Conflation, LagPolicy};
use super::feed::FeedClasses;
use crate::dialect::Encoding;
use crate::filter::Filter;

/// One subscription's share of an interest: its filter, and the events that may be left out.
#[derive(Clone, Debug)]
pub(crate) struct FilterSelection {
    pub(crate) filter: Filter,
    pub(crate) conflation: Conflation,
}

impl From<Filter> for FilterSelection {
    fn from(filter: Filter) -> Self {
        Self { filter, conflation: Conflation::None }
    }
}

/// Interest of one connection in its feed, in a form that can join a feed again.
#[derive(Debug)]
pub(crate) struct FeedInterest {
    pub(crate) encoding: Encoding,
    pub(crate) lag_policy: LagPolicy,
    pub(crate) selections: Vec<FilterSelection>,
}

/// One filter of an interest that is added, removed, or conflated differently.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) filter: Filter,
    /// Whether the interest had the filter before.
    pub(crate) was: bool,
    /// Conflation from now on; `None` removes the filter.
    pub(crate) to: Option<Conflation>,
    /// Filter of the interest that this one replaces, if they differ in the values of one list only.
    pub(crate) from: Option<Filter>,
}

impl Change {
    /// Returns the work of this change, in thousands of instructions: 20 for the feed, and two for each value or pattern.
    ///
    /// A filter that replaces another counts as edited in place; see [`Fanout::take_rebuilt`](super::Fanout::take_rebuilt).
    pub(crate) fn units(&self) -> u32 {
        if self.from.is_some() {
            return 30;
        }
        let members = u32::try_from(self.filter.members_count()).unwrap_or(u32::MAX);
        20 + members.saturating_mul(2)
    }
}

/// Feed of a connection after a change of its interest.
#[derive(Debug)]
pub(crate) enum Revised {
    /// The feed that the connection is in.
    Same,
    /// The feed of these classes, which the matcher already holds for the connection. No feed if there are no classes.
    Elsewhere(FeedClasses),
}
