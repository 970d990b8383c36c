//! The routable fields of an event, named once. Imports nothing of ours.

use std::fmt;

/// A routable field of an event.
///
/// A [`Filter`](crate::Filter) may constrain any of them; an event has at most one value for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Attribute {
    /// The event's type, a dotted name such as `task.progress`. The only attribute every event has.
    Type = 0,
    /// The component that published it.
    Source = 1,
    /// The stream it belongs to (Hive's `stream_id`).
    Stream = 2,
    /// The execution, or run, it belongs to.
    Execution = 3,
    /// What ties related events together.
    Correlation = 4,
    /// The kind of thing it is about, such as `task`.
    EntityKind = 5,
    /// Which one of that kind.
    EntityId = 6,
    /// The channel it is sent in, such as a circle's name.
    Channel = 7,
}

impl Attribute {
    /// How many attributes there are.
    pub const COUNT: usize = 8;

    /// Every attribute, in the order of their numbers.
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

    /// The word for it in filters, query strings and messages.
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

    /// Its place in [`Self::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
