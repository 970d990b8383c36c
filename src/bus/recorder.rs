//! Recording: keeps the newest events since the recording was started.
//!
//! Invariants: at most `max` events are kept. Publishing copies nothing: the recorder reads the ring like any other
//! reader, when it is asked, and in a thread of its own if it must keep more than the ring does.

use std::collections::VecDeque;
use std::ops::RangeBounds;
use std::sync::Arc as Count;

use super::cursor::Cursor;
use super::item::Item;
use super::ring::RingSet;
use super::wait::{AdaptiveWait, WaitStrategy, Waitable};
use super::{Bus, DeliveryRef};
use crate::event::{Event, Timestamp};
use crate::filter::Filter;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// A recording.
pub(super) struct Recorder<T: Item> {
    /// `Some` while recording.
    cursor: Option<Cursor<T>>,
    kept: VecDeque<T>,
    max: usize,
    missed: u64,
    stop: Count<AtomicBool>,
}

impl<T: Item> Default for Recorder<T> {
    fn default() -> Self {
        Self { cursor: None, kept: VecDeque::new(), max: 0, missed: 0, stop: Count::default() }
    }
}

impl<T: Item> Recorder<T> {
    /// Takes the events that came since the last look.
    fn pull(&mut self) {
        let Self { cursor: Some(cursor), kept, max, missed, .. } = self else { return };
        while cursor.visit(|visit| {
            match visit {
                DeliveryRef::Event(item) => {
                    if kept.len() == *max {
                        kept.pop_front();
                    }
                    kept.push_back(item.duplicate());
                }
                DeliveryRef::Gap(gap) => *missed += gap.missed,
            }
            true
        }) {}
    }

    /// Ends the recording; the kept events stay. [`RingSet::notify`] must follow, after the lock: the thread may sleep, and
    /// other sleepers are woken by the embedder's code.
    fn stop(&mut self) {
        self.pull();
        self.cursor = None;
        // Relaxed: after the announcement of the thread's sleep (E6).
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<T: Item> Bus<T> {
    /// Records from now on: the newest `max` events are kept. A recording that runs is ended, and its events are dropped.
    ///
    /// If `max` is at most a shard's capacity this costs nothing until the history is read. Beyond that, a thread reads
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

    /// Drops the recorded events; a recording that runs goes on.
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
        // Called once, and not while the recording is locked: a range may be the embedder's own type.
        let times = (times.start_bound().cloned(), times.end_bound().cloned());
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        let wanted = |event: &&Event| times.contains(&event.timestamp()) && filter.matches(event);
        recorder.kept.iter().filter(wanted).cloned().collect()
    }
}

fn read_along<T: Item>(rings: &Arc<RingSet<T::Codec>>, recorder: &Mutex<Recorder<T>>, stop: &AtomicBool) {
    // Has the recorder's place, and only waits.
    let mut cursor = Cursor::<T>::new(rings);
    let mut waiting = AdaptiveWait::new(WaitStrategy::Park);
    while !stop.load(Ordering::Relaxed) {
        let mut recorder = lock(recorder);
        if stop.load(Ordering::Relaxed) {
            return;
        }
        recorder.pull();
        if let Some(reads) = &recorder.cursor {
            for shard in 0..cursor.shards() {
                cursor.set_next(shard, reads.next(shard));
            }
        }
        drop(recorder);
        if cursor.is_closed() {
            return;
        }
        // Relaxed: called after the announcement of sleep, E6 orders it with the store and the notice that follows it.
        waiting.wait(&mut cursor, None, || stop.load(Ordering::Relaxed));
    }
}
