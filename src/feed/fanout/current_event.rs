//! Matches of the event that is being appended. Reused from event to event for their capacity.

use crate::feed::keys::FeedKey;
use crate::filter::ClassId;

/// State of the event that is being appended, or was appended last.
#[derive(Debug, Default)]
pub(super) struct CurrentEvent {
    /// Number of the event, by which a feed knows whether it has the event already.
    pub(super) number: u32,
    /// Classes that the event matches.
    pub(super) matched: Vec<ClassId>,
    /// Feeds that compress or conflate and match the event, each with a class that matches.
    pub(super) own_forms: Vec<(FeedKey, ClassId)>,
    /// Feeds among them that conflate.
    pub(super) conflating: Vec<FeedKey>,
}
