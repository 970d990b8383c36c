//! Values of attributes that recorded events had, so that a request reads only logs that can have events of its filter.
//!
//! Without this, a chat room would be read with all logs of runs, because an event of a run may have a channel, too.
//!
//! Always: a summary only grows. A filter that it excludes matches no event that was recorded before.

use super::rule::RetainBy;
use crate::event::{Attribute, Event};
use crate::filter::Filter;

/// Maximum number of values of an attribute, and maximum size of one in bytes. With more, any value may have been seen.
const VALUES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 64;

/// Values of one attribute; the empty one is that of events without it.
#[derive(Debug, Default)]
struct SeenValues {
    values: Vec<Box<str>>,
    /// Index of the value that was seen last.
    last: usize,
    /// Whether there were too many values to store.
    is_any: bool,
}

impl SeenValues {
    /// Adds a value. Returns whether it is new.
    fn add(&mut self, value: &str) -> bool {
        if self.is_any || self.values.get(self.last).is_some_and(|last| **last == *value) {
            return false;
        }
        if let Some(at) = self.values.iter().position(|seen| **seen == *value) {
            self.last = at;
            return false;
        }
        if self.values.len() < VALUES_MAX && value.len() <= VALUE_BYTES_MAX {
            self.last = self.values.len();
            self.values.reserve_exact(1);
            self.values.push(value.into());
        } else {
            *self = Self { is_any: true, ..Self::default() };
        }
        true
    }

    fn held_bytes(&self) -> usize {
        let texts: usize = self.values.iter().map(|value| value.len()).sum();
        texts + self.values.capacity() * size_of::<Box<str>>()
    }
}

/// Values that the events in the logs of one attribute had.
#[derive(Debug, Default)]
pub(super) struct SeenEvents {
    of: [SeenValues; Attribute::COUNT],
    is_begun: bool,
    /// Memory of the values, in bytes.
    bytes: usize,
}

impl SeenEvents {
    /// Adds an event of a log by this attribute.
    pub(super) fn add(&mut self, by: RetainBy, event: &Event) {
        self.is_begun = true;
        let mut has_grown = false;
        for attribute in Attribute::ALL {
            // The names of the logs are its values.
            if by.attribute() != Some(attribute) {
                has_grown |= self.of[attribute.index()].add(event.attribute(attribute).unwrap_or_default());
            }
        }
        if has_grown {
            self.bytes = self.of.iter().map(SeenValues::held_bytes).sum();
        }
    }

    /// Returns whether one of the events may match a filter.
    pub(super) fn may_match(&self, filter: &Filter) -> bool {
        let is_possible = |attribute: Attribute| {
            let seen = &self.of[attribute.index()];
            let is_known = !seen.is_any && !seen.values.is_empty();
            !is_known || seen.values.iter().any(|value| !filter.refuses(attribute, value))
        };
        let kinds = &self.of[Attribute::EntityKind.index()];
        let has_entities = kinds.is_any || kinds.values.iter().any(|kind| !kind.is_empty());
        self.is_begun
            && Attribute::ALL.into_iter().all(is_possible)
            && (has_entities || !filter.refuses_entity("", ""))
    }

    /// Returns the memory of the values, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_match(seen: &SeenEvents, text: &str) -> bool {
        seen.may_match(&text.parse().expect("a filter"))
    }

    #[test]
    fn a_filter_is_excluded_if_no_event_had_what_it_wants() {
        let mut seen = SeenEvents::default();
        assert!(!may_match(&seen, ""), "there is no event");
        let event = |event_type: &str| Event::builder(event_type).stream("run-1");
        seen.add(RetainBy::Stream, &event("token").build().expect("valid"));
        seen.add(RetainBy::Stream, &event("run.finished").source("core").build().expect("valid"));
        for text in
            ["", "stream=run-2", "type=token", "type=run.*", "source=core", "source!=core", "channel!=a"]
        {
            assert!(may_match(&seen, text), "{text}");
        }
        for text in [
            "channel=room.*",
            "type=audit.**",
            "source=edge",
            "entity=task:1",
            "entity=task:*",
            "type!=token,run.finished",
        ] {
            assert!(!may_match(&seen, text), "{text}");
        }
        seen.add(
            RetainBy::Stream,
            &event("token").channel("room.1").entity("task", "1").build().expect("valid"),
        );
        assert!(may_match(&seen, "channel=room.*") && may_match(&seen, "entity=task:1"));
        assert!(!may_match(&seen, "channel=hall"));
    }

    #[test]
    fn many_values_take_no_memory_and_exclude_nothing() {
        let mut seen = SeenEvents::default();
        for n in 0..1000 {
            let source = format!("{n:0>60}");
            seen.add(RetainBy::Type, &Event::builder("x").source(&source).build().expect("valid"));
            assert!(seen.held_bytes() < 16 * 1024, "{}", seen.held_bytes());
        }
        assert!(may_match(&seen, "source=other") && !may_match(&seen, "channel=a"));
        seen.add(RetainBy::Type, &Event::builder("x").channel(&"c".repeat(100)).build().expect("valid"));
        assert!(may_match(&seen, "channel=a"));
    }
}
