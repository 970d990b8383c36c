//! Sources that a reader waits for: one, or several at once.
//!
//! Always: a sleep for several sources is announced at each of them before it begins, and each is looked at after its
//! announcement. So the first source that has something ends it.

use super::event_count::Wake;

/// A source that a reader waits for.
pub trait Waitable {
    /// Returns whether there is something to read. Cheap: called again and again.
    fn is_ready(&self) -> bool;
    /// Returns whether the last look reached the end of the available items.
    fn is_at_end(&self) -> bool;
    /// Returns whether nothing more will come, and everything was read.
    fn is_closed(&self) -> bool;
    /// Returns whether the next sequence was given up and will never come; then the source is ready. Reads the head's
    /// cache line, so it is called rarely.
    fn is_at_hole(&mut self) -> bool;
    /// Returns the number of events read so far.
    fn passed(&self) -> u64;
    /// Returns how many events the reader can be behind before it loses some, or publishers wait.
    fn capacity(&self) -> u64;
    /// Announces a sleep and looks again. Returns true if there is nothing and the next event will wake the reader;
    /// [`Self::cancel_sleep`] must follow. Returns false if there is something, or the end; then the announcement is
    /// withdrawn.
    fn prepare_sleep(&mut self, wake: Wake) -> bool;
    /// Withdraws the announcement.
    fn cancel_sleep(&mut self);
}

/// Several sources as one, which is ready when one of them is.
pub(crate) struct AnyOf<'a, 'b>(pub(crate) &'a mut [&'b mut dyn Waitable]);

impl Waitable for AnyOf<'_, '_> {
    fn is_ready(&self) -> bool {
        self.0.iter().any(|place| place.is_ready())
    }

    fn is_at_end(&self) -> bool {
        self.0.iter().all(|place| place.is_at_end())
    }

    /// Returns whether one of them has ended: the wait must end so that its reader sees that.
    fn is_closed(&self) -> bool {
        self.0.iter().any(|place| place.is_closed())
    }

    fn is_at_hole(&mut self) -> bool {
        self.0.iter_mut().any(|place| place.is_at_hole())
    }

    fn passed(&self) -> u64 {
        self.0.iter().fold(0, |sum, place| sum.wrapping_add(place.passed()))
    }

    fn capacity(&self) -> u64 {
        self.0.iter().map(|place| place.capacity()).min().unwrap_or(0)
    }

    fn prepare_sleep(&mut self, wake: Wake) -> bool {
        for index in 0..self.0.len() {
            if !self.0[index].prepare_sleep(wake.clone()) {
                self.0[..index].iter_mut().for_each(|place| place.cancel_sleep());
                return false;
            }
        }
        true
    }

    fn cancel_sleep(&mut self) {
        self.0.iter_mut().for_each(|place| place.cancel_sleep());
    }
}
