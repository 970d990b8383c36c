//! Appending: an event goes to each feed that wants it, once, in the feed's form.

use super::Fanout;
use super::current_event::CurrentEvent;
use crate::event::{Event, EventId, Timestamp, may_keep_frame};
use crate::feed::conflate::{Conflation, Sampled};
use crate::feed::encode::{EncodedFrame, frame_for};
use crate::feed::frame::{FrameKind, FrameSource, UnsealedFrame};

impl Fanout {
    /// Appends an event to every feed that wants it, and encodes it the first time its encoding is needed.
    #[cfg(test)]
    pub(crate) fn append(&mut self, event: &Event, now: Timestamp) {
        while !self.append_within(event, now, u64::MAX) {}
    }

    /// Appends an event as [`append`](Self::append) does, unless matching it takes more than about `allowance`
    /// instructions. Then it returns false, and the next call, which must have the same event, continues.
    pub(crate) fn append_within(&mut self, event: &Event, now: Timestamp, allowance: u64) -> bool {
        if self.feeds.is_empty() {
            self.index.matcher.give_up();
            return true;
        }
        let Some(id) = event.id() else { return true };
        if self.current.number == u32::MAX {
            self.restart_numbers();
        }
        let Self { index, feeds, log, dirty, current, observed, metrics, .. } = self;
        let CurrentEvent { number, matched, own_forms, .. } = current;
        if !index.matcher.matches_within(event, matched, allowance) {
            return false;
        }
        *number += 1;
        let number = *number;
        self.pool.now = now;
        let (mut feeds_count, mut members_count) = (0, 0);
        // Kept between feeds: nearly all have the same encoding as the previous one.
        let mut encoded = None;
        for class in matched.iter() {
            for &key in index.routes(*class) {
                let feed = &mut feeds[key as usize];
                if feed.has_own_form() {
                    own_forms.push((key, *class));
                    continue;
                }
                if feed.newest_event == number {
                    continue;
                }
                feed.newest_event = number;
                let encoding = feed.form.encoding;
                let frame = match encoded {
                    Some((known, frame)) if known == encoding => frame,
                    _ => {
                        // The event keeps the frame if other loops, or feeds with a form of their own, may use it.
                        let may_reuse = self.shares_frames || self.own_forms_in[encoding.slot()] > 0;
                        let keeps = may_reuse && (may_keep_frame() || event.has_frame(encoding.slot()));
                        let frame = log.frame(encoding, (event, id, number), keeps, metrics);
                        encoded = Some((encoding, frame));
                        frame
                    }
                };
                if log.push(&mut feed.list, frame) {
                    dirty.push(key);
                }
                feeds_count += 1;
                members_count += feed.members().len() as u64;
                if feed.is_observed {
                    observed.record(key, feed, event);
                }
            }
        }
        if feeds_count > 0 {
            metrics.events_matched.inc_by(feeds_count);
            self.totals.matched += members_count;
        }
        if !self.current.own_forms.is_empty() {
            self.append_own_forms(event, id, now);
        }
        true
    }

    /// Restarts the numbers of events, and forgets the numbers that feeds have noted.
    #[cold]
    fn restart_numbers(&mut self) {
        self.current.number = 0;
        self.log.forget_numbers();
        for (_, feed) in &mut self.feeds {
            feed.newest_event = 0;
            if let Some(conflator) = feed.conflator_mut() {
                conflator.event = 0;
            }
        }
    }

    /// Appends the event to the feeds in `own_forms`.
    fn append_own_forms(&mut self, event: &Event, id: EventId, now: Timestamp) {
        let mut own_forms = std::mem::take(&mut self.current.own_forms);
        for (key, class) in own_forms.drain(..) {
            let feed = &mut self.feeds[key as usize];
            let conflation = feed.conflation_of(class);
            if let Some(conflator) = feed.conflator_mut() {
                if conflator.event == self.current.number {
                    conflator.least = conflator.least.min(conflation);
                } else {
                    (conflator.event, conflator.least) = (self.current.number, conflation);
                    self.current.conflating.push(key);
                }
                continue;
            }
            if feed.newest_event == self.current.number {
                continue;
            }
            feed.newest_event = self.current.number;
            let EncodedFrame { source, is_final } =
                frame_for(&mut self.feeds, key, event, &mut self.pool, &self.metrics);
            let feed = &mut self.feeds[key as usize];
            self.totals.matched += feed.members().len() as u64;
            if feed.is_observed {
                self.observed.record(key, feed, event);
            }
            if feed.append(UnsealedFrame { source, id, kind: FrameKind::Required, is_final }) {
                self.dirty.push(key);
            }
            self.metrics.events_matched.inc();
        }
        self.current.own_forms = own_forms;
        if !self.current.conflating.is_empty() {
            self.append_conflated(event, id, now);
        }
    }

    /// Appends the event to the feeds in `conflating`, or offers it to their samplers.
    fn append_conflated(&mut self, event: &Event, id: EventId, now: Timestamp) {
        for key in self.current.conflating.drain(..) {
            let EncodedFrame { source, is_final } =
                frame_for(&mut self.feeds, key, event, &mut self.pool, &self.metrics);
            let feed = &mut self.feeds[key as usize];
            let source = FrameSource::Owned(source.bytes(feed.form.encoding).clone());
            let members = feed.members().len() as u64;
            let Some(conflator) = feed.conflator_mut() else { continue };
            self.metrics.events_matched.inc();
            self.totals.matched += members;
            let mut frame = UnsealedFrame { source, id, kind: FrameKind::Required, is_final };
            match conflator.least {
                Conflation::None => {}
                Conflation::LatestPerKey => frame.kind = FrameKind::Keyed(self.key_rule.key(event)),
                Conflation::Sample(interval) => match conflator.samplers.offer(interval, now, frame) {
                    Sampled::Send(sample) => frame = sample,
                    Sampled::Waits => {
                        if !self.sampling.contains(&key) {
                            self.sampling.push(key);
                        }
                        continue;
                    }
                    Sampled::Replaces => {
                        self.totals.sampled_out += members;
                        continue;
                    }
                },
            }
            // Waiting samples of the shard are older, and must come before this frame.
            let older = conflator.samplers.release_shard(frame.id.shard, now);
            let was_clean = feed.append_all(older);
            if feed.append(frame) || was_clean {
                self.dirty.push(key);
            }
        }
    }
}
