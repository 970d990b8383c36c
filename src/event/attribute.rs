//! The routable fields of an event.

use std::fmt;

/// Routable field of an event.
///
/// A [`Filter`](crate::Filter) may have conditions on any of them. An event has at most one value for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Attribute {
    /// Type of the event: a dotted name such as `task.progress`. The only attribute that every event has.
    Type = 0,
    /// Component that published the event.
    Source = 1,
    /// Stream that the event belongs to (Hive's `stream_id`).
    Stream = 2,
    /// Execution, or run, that the event belongs to.
    Execution = 3,
    /// Key that related events share.
    Correlation = 4,
    /// Kind of the entity that the event is about, such as `task`.
    EntityKind = 5,
    /// Id of the entity, among those of its kind.
    EntityId = 6,
    /// Channel that the event is sent in, such as a circle's name.
    Channel = 7,
}

impl Attribute {
    /// Number of attributes.
    pub const COUNT: usize = 8;

    /// Every attribute, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Type,
        Self::Source,
        Self::Stream,
        Self::Execution,
        Self::Correlation,
        Self::EntityKind,
        Self::EntityId,
        Self::Channel,
    ];

    /// Returns the attribute's name in filters, query strings and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Source => "source",
            Self::Stream => "stream",
            Self::Execution => "execution",
            Self::Correlation => "correlation",
            Self::EntityKind => "entity_kind",
            Self::EntityId => "entity_id",
            Self::Channel => "channel",
        }
    }

    /// Returns the attribute's index in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
