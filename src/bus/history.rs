//! Starts, ends and reads recordings of a bus.

use std::ops::RangeBounds;
use std::sync::Arc as Count;

use super::Bus;
use super::cursor::Cursor;
use super::item::Item;
use super::recorder::{Recorder, read_along};
use crate::event::{Event, Timestamp};
use crate::filter::Filter;
use crate::sync::{Arc, lock};

impl<T: Item> Bus<T> {
    /// Starts a recording, which keeps the newest `max` events. Ends an earlier recording and drops its events.
    ///
    /// If `max` is at most a shard's capacity, this costs nothing until the history is read. Otherwise a thread reads
    /// along.
    ///
    /// # Panics
    /// If the system cannot start that thread.
    pub fn start_recording(&self, max: usize) {
        let rings = &self.0.rings;
        self.end_recording();
        if max == 0 {
            return;
        }
        let stop = {
            let mut recorder = lock(&self.0.recorder);
            *recorder = Recorder { cursor: Some(Cursor::new(rings)), max, ..Recorder::default() };
            Count::clone(&recorder.stop)
        };
        if max as u64 > rings.shards()[0].capacity() {
            let (rings, shared) = (Arc::clone(rings), Count::clone(&self.0.recorder));
            let thread = std::thread::Builder::new().name("fanwire-record".to_owned());
            let run = move || read_along(&rings, &shared, &stop);
            thread.spawn(run).expect("the system starts a thread, as documented");
        }
    }

    /// Ends the recording; the kept events stay.
    pub fn stop_recording(&self) {
        lock(&self.0.recorder).stop();
        self.0.rings.notify();
    }

    /// Ends the recording, and drops its events.
    pub(super) fn end_recording(&self) {
        let ended = {
            let mut recorder = lock(&self.0.recorder);
            recorder.stop();
            std::mem::take(&mut *recorder)
        };
        drop(ended);
        self.0.rings.notify();
    }

    /// Returns the recorded events, oldest first within each shard: every event published before the call and since the
    /// start, except the oldest beyond `max` and those in [`history_missed`](Self::history_missed). Allocates; takes a lock
    /// that other calls for the history hold.
    #[must_use]
    pub fn history(&self) -> Vec<T> {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.kept.iter().map(T::duplicate).collect()
    }

    /// Returns how many events were overwritten before the recording could keep them.
    #[must_use]
    pub fn history_missed(&self) -> u64 {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.missed
    }

    /// Drops the recorded events. A running recording continues.
    pub fn clear_history(&self) {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.kept.clear();
        recorder.missed = 0;
    }
}

impl Bus<Event> {
    /// Returns the recorded events that match `filter` and have timestamps in `times`, in the order of
    /// [`history`](Self::history).
    ///
    /// ```
    /// use fanwire::event::Timestamp;
    /// use fanwire::{Bus, Event, Filter};
    ///
    /// let bus = Bus::new();
    /// bus.start_recording(1000);
    /// let begin = Timestamp::now();
    /// for kind in ["workflow.started", "node.entered", "workflow.completed"] {
    ///     bus.publish(Event::builder(kind).source("demo").build()?);
    /// }
    /// let workflow = bus.history_where(Filter::new().types(["workflow.*"]), begin..);
    /// let types: Vec<_> = workflow.iter().map(Event::event_type).collect();
    /// assert_eq!(types, ["workflow.started", "workflow.completed"]);
    /// assert_eq!(bus.history_where(Filter::new(), ..begin).len(), 0);
    /// # Ok::<(), fanwire::event::EventError>(())
    /// ```
    pub fn history_where(&self, filter: impl Into<Filter>, times: impl RangeBounds<Timestamp>) -> Vec<Event> {
        let filter = filter.into();
        // Called once, before the recording is locked: the range may be the embedder's own type.
        let times = (times.start_bound().cloned(), times.end_bound().cloned());
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        let wanted = |event: &&Event| times.contains(&event.timestamp()) && filter.matches(event);
        recorder.kept.iter().filter(wanted).cloned().collect()
    }
}
