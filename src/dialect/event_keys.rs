//! The keys of an event object, for both of its readers.

use std::borrow::Cow;

use crate::event::Timestamp;

/// Treatment of an object's keys that are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    /// Keys are ignored.
    PassedOver,
    /// Keys are faults, except those of [`UNREAD`].
    Refused,
}

/// All keys of an event object.
pub(super) const KEYS: [&str; 18] = [
    "type",
    "event_type",
    "source",
    "timestamp",
    "ts",
    "correlation_id",
    "stream_id",
    "execution_id",
    "entity",
    "channel",
    "payload",
    "data",
    "traceparent",
    "tracestate",
    "key",
    "dedupe_id",
    "reopen",
    "expected_last_id",
];

/// Keys that are accepted from publishers and ignored. A program may publish an event as it received it, with its `event_id`,
/// `position` and number of `merged` events. FCC's document gives messages a `message_id`, AutoSDLC's an `id` and `metadata`.
pub(super) const UNREAD: [&str; 6] = ["event_id", "position", "merged", "message_id", "id", "metadata"];

impl Others {
    /// Returns whether a key that is not read is accepted.
    pub(super) fn allow(self, key: &str) -> bool {
        self == Self::PassedOver || UNREAD.contains(&key)
    }
}

/// Reads a time: ISO 8601 text, or milliseconds since 1970.
pub(super) fn read_timestamp(json: &str) -> Option<Timestamp> {
    if json.starts_with('"') {
        return serde_json::from_str::<Cow<'_, str>>(json).ok()?.parse().ok();
    }
    let millis: f64 = serde_json::from_str(json).ok()?;
    // Beyond the calendar's bounds the cast saturates, and the text form is clamped.
    millis.is_finite().then_some(Timestamp((millis * 1000.0) as i64))
}
