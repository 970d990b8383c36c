//! Merges neighbours of a past into one event, by concatenating a string of their payloads, as the client requested.
//!
//! Invariants:
//! - Only neighbours in the client's own order are merged, and only if their types and attributes are equal.
//! - A merged event equals its last event except for the string, so a resume after it is exact.
//! - A waiting event is passed on before a gap, and at the end of the past.

use std::ops::Range;
use std::sync::Arc;

use crate::dialect::{ConcatTarget, MergedPayload};
use crate::event::{Attribute, Event, Position};

/// Maximum length of a merged string, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Merge of the events of one past.
#[derive(Debug)]
pub(super) struct Merger {
    target: Arc<ConcatTarget>,
    waiting: Option<WaitingMerge>,
}

/// Event that may still be merged with the next one.
#[derive(Debug)]
pub(super) struct WaitingMerge {
    pub(super) last: Event,
    /// The client's position after the last event, if it is not the event's own.
    pub(super) at: Option<Position>,
    /// Place of the string's body in the last event's payload.
    body: Range<usize>,
    /// Bodies of the strings before the last one.
    text: String,
    pub(super) count: u32,
}

impl Merger {
    pub(super) fn new(target: Arc<ConcatTarget>) -> Self {
        Self { target, waiting: None }
    }

    /// Takes an event. Returns the waiting merge if the event does not continue it, and whether the event can't be merged at
    /// all and has to be sent as it is.
    pub(super) fn offer(&mut self, event: &Event, at: Option<&Position>) -> (Option<WaitingMerge>, bool) {
        let Some(body) = self.target.find(event.payload()) else { return (self.waiting.take(), true) };
        if let Some(waiting) = &mut self.waiting
            && waiting.takes(event, body.len())
        {
            waiting.push(event, at, body);
            return (None, false);
        }
        (self.waiting.replace(WaitingMerge::new(event, at, body)), false)
    }

    /// Returns the place of the string's body in a payload.
    pub(super) fn find(&self, payload: &str) -> Option<Range<usize>> {
        self.target.find(payload)
    }

    /// Puts back a waiting merge that was taken out.
    pub(super) fn put_back(&mut self, waiting: WaitingMerge) {
        self.waiting = Some(waiting);
    }

    /// Takes out the waiting merge.
    pub(super) fn take(&mut self) -> Option<WaitingMerge> {
        self.waiting.take()
    }

    /// Returns the memory of the waiting merge, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.text.capacity() + waiting.last.payload().len())
    }
}

impl WaitingMerge {
    pub(super) fn new(event: &Event, at: Option<&Position>, body: Range<usize>) -> Self {
        Self { last: event.clone(), at: at.cloned(), body, text: String::new(), count: 1 }
    }

    /// Returns whether another string with a body of this many bytes can be appended.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.text.len() + self.body.len() + bytes <= TEXT_BYTES_MAX
    }

    /// Returns whether an event with a body of this many bytes can be merged with the last one.
    pub(super) fn takes(&self, event: &Event, bytes: usize) -> bool {
        self.has_room(bytes)
            && self.last.event_type() == event.event_type()
            && Attribute::ALL
                .iter()
                .all(|attribute| self.last.attribute(*attribute) == event.attribute(*attribute))
    }

    fn push(&mut self, event: &Event, at: Option<&Position>, body: Range<usize>) {
        self.push_body(None, body);
        self.last = event.clone();
        self.at = at.cloned();
    }

    /// Appends the body of the last event, and records the place of the body of the next event. `last` is the payload of the last
    /// event if that is another one than [`last`](Self::last).
    pub(super) fn push_body(&mut self, last: Option<&str>, next: Range<usize>) {
        let body = std::mem::replace(&mut self.body, next);
        self.text.push_str(&last.unwrap_or(self.last.payload())[body]);
        self.count += 1;
    }

    /// Returns the merged payload; `None` if there is only one event.
    pub(super) fn merged(&self) -> Option<MergedPayload> {
        let payload = self.last.payload();
        let before = &payload[..self.body.start];
        (self.count > 1).then(|| MergedPayload {
            payload: [before, &self.text, &payload[self.body.start..]].concat(),
            count: self.count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(stream: &str, text: &str) -> Event {
        let payload = format!(r#"{{"n":1,"delta":"{text}"}}"#);
        Event::builder("token").stream(stream).json(payload).build().expect("valid")
    }

    fn merger() -> Merger {
        Merger::new(Arc::new(ConcatTarget::read("/payload/delta").expect("a target")))
    }

    fn payload(waiting: Option<WaitingMerge>) -> Option<(String, u32)> {
        let waiting = waiting?;
        let merged = waiting.merged();
        Some(merged.map_or((waiting.last.payload().to_owned(), 1), |merged| (merged.payload, merged.count)))
    }

    #[test]
    fn neighbours_of_one_kind_become_one() {
        let mut merger = merger();
        for text in ["Hel", "lo ", "\\u00e9\\n", ""] {
            let (before, is_apart) = merger.offer(&token("a", text), None);
            assert!(before.is_none() && !is_apart);
        }
        // Another stream ends it, and so does an event without the string.
        let (before, is_apart) = merger.offer(&token("b", "x"), None);
        assert_eq!(payload(before), Some((r#"{"n":1,"delta":"Hello \u00e9\n"}"#.to_owned(), 4)));
        assert!(!is_apart);
        let other = Event::builder("token").stream("b").json(r#"{"delta":1}"#).build().expect("valid");
        let (before, is_apart) = merger.offer(&other, None);
        assert_eq!((payload(before), is_apart), (Some((r#"{"n":1,"delta":"x"}"#.to_owned(), 1)), true));
        assert!(merger.take().is_none());
    }

    #[test]
    fn a_merge_is_bounded() {
        let mut merger = merger();
        let text = "x".repeat(30_000);
        assert!(merger.offer(&token("a", &text), None).0.is_none());
        assert!(merger.offer(&token("a", &text), None).0.is_none());
        let (before, _) = merger.offer(&token("a", &text), None);
        assert_eq!(payload(before).map(|(_, count)| count), Some(2));
        assert!(merger.held_bytes() < 100_000);
    }
}
