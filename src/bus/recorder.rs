//! Recording: the newest events since it was started, kept for whoever asks.
//!
//! Imports the cursor. Always: at most `max` events are kept. Nothing is copied while publishing: the
//! recorder reads the ring like anybody else, when asked, and in a thread of its own where it must keep more
//! than the ring does.

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

/// What was recorded.
pub(super) struct Recorder<T: Item> {
    /// Reads while recording.
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
    /// Takes what the ring has beyond the last look.
    fn pull(&mut self) {
        let Self { cursor: Some(cursor), kept, max, missed, .. } = self else { return };
        while cursor.visit(|visit| {
            match visit {
                DeliveryRef::Event(item) => {
                    if kept.len() == *max {
                        kept.pop_front();
                    }
                    kept.push_back(item.another());
                }
                DeliveryRef::Gap(gap) => *missed += gap.missed,
            }
            true
        }) {}
    }

    /// Ends it; what it kept stays. [`RingSet::notify`] must follow, behind the lock: the thread may sleep, and who else
    /// sleeps is woken by code of the embedder's.
    fn stop(&mut self) {
        self.pull();
        self.cursor = None;
        // Behind the announcement of the thread's sleep (E6).
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<T: Item> Bus<T> {
    /// Records from now on: the newest `max` events are kept. A recording that runs is ended, and what it
    /// kept dropped.
    ///
    /// As long as `max` is not more than a shard's capacity this costs nothing until somebody asks. Beyond
    /// that, a thread reads along.
    ///
    /// # Panics
    /// If that thread cannot be started.
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

    /// Ends the recording; what it kept stays.
    pub fn stop_recording(&self) {
        lock(&self.0.recorder).stop();
        self.0.rings.notify();
    }

    /// Ends the recording, and forgets what it kept.
    pub(super) fn end_recording(&self) {
        let ended = {
            let mut recorder = lock(&self.0.recorder);
            recorder.stop();
            std::mem::take(&mut *recorder)
        };
        drop(ended);
        self.0.rings.notify();
    }

    /// What the recording kept, oldest first within each shard: every event published before the call and
    /// since the start, but for the oldest beyond `max` and those in [`history_missed`](Self::history_missed).
    pub fn history(&self) -> Vec<T> {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.kept.iter().map(T::another).collect()
    }

    /// How many events of the recording's time were overwritten before it could keep them.
    pub fn history_missed(&self) -> u64 {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.missed
    }

    /// Drops what the recording kept; a recording that runs goes on.
    pub fn clear_history(&self) {
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        recorder.kept.clear();
        recorder.missed = 0;
    }
}

impl Bus<Event> {
    /// Of what the recording kept, the events that match and whose timestamps are in this range, in the order of
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
    /// let told: Vec<_> = workflow.iter().map(Event::event_type).collect();
    /// assert_eq!(told, ["workflow.started", "workflow.completed"]);
    /// assert_eq!(bus.history_where(Filter::new(), ..begin).len(), 0);
    /// # Ok::<(), fanwire::event::EventError>(())
    /// ```
    pub fn history_where(&self, filter: impl Into<Filter>, times: impl RangeBounds<Timestamp>) -> Vec<Event> {
        let filter = filter.into();
        // Asked once, and not while the recording is locked: a range may be the embedder's own.
        let times = (times.start_bound().cloned(), times.end_bound().cloned());
        let mut recorder = lock(&self.0.recorder);
        recorder.pull();
        let wanted = |event: &&Event| times.contains(&event.timestamp()) && filter.matches(event);
        recorder.kept.iter().filter(wanted).cloned().collect()
    }
}

fn read_along<T: Item>(rings: &Arc<RingSet<T::Codec>>, recorder: &Mutex<Recorder<T>>, stop: &AtomicBool) {
    // Stands where the recorder does, and only waits.
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
        // Asked behind the announcement of sleep: E6 orders it with the store and the notice that follows it.
        waiting.wait(&mut cursor, None, || stop.load(Ordering::Relaxed));
    }
}
