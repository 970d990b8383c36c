//! Frames encoded from an event, one for each encoding.
//!
//! Always: a frame is encoded once, by the first thread that asks for it. The first encoding's frame is in the event
//! itself, because most servers need no other. Each further one takes an allocation.

use std::sync::OnceLock;

use bytes::Bytes;

/// Maximum number of encodings of one event.
pub(crate) const ENCODINGS_MAX: usize = 13;

/// Frames of an event: a chain of entries, each taken for good by the first encoding that came to it. All threads that
/// ask for an encoding end at the same entry, after as many steps as there are encodings before it.
#[derive(Debug, Default)]
pub(super) struct Frames {
    taken: OnceLock<(u8, Bytes)>,
    more: OnceLock<Box<Frames>>,
}

impl Frames {
    /// Returns the frame of an encoding. Calls `make` if no thread has encoded it yet.
    pub(super) fn get(&self, encoding: usize, mut make: impl FnMut() -> Bytes) -> &Bytes {
        let mut place = self;
        loop {
            let (of, frame) = place.taken.get_or_init(|| (encoding as u8, make()));
            if usize::from(*of) == encoding {
                return frame;
            }
            place = place.more.get_or_init(Box::default);
        }
    }

    /// Drops the frames, but keeps the allocations of the entries.
    pub(super) fn forget(&mut self) {
        let mut place = Some(self);
        while let Some(Self { taken, more }) = place {
            taken.take();
            place = more.get_mut().map(|more| &mut **more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encodings_frame_is_made_once() {
        let mut frames = Frames::default();
        let mut made = Vec::new();
        let mut ask = |frames: &Frames, encoding: usize| {
            let frame = frames.get(encoding, || {
                made.push(encoding);
                Bytes::from(vec![encoding as u8])
            });
            assert_eq!(frame[..], [encoding as u8]);
        };
        for encoding in [7, 0, 7, ENCODINGS_MAX - 1, 0, 7] {
            ask(&frames, encoding);
        }
        frames.forget();
        ask(&frames, 0);
        ask(&frames, 7);
        assert_eq!(made, [7, 0, ENCODINGS_MAX - 1, 0, 7]);
    }

    #[test]
    fn threads_that_ask_at_once_share_what_one_of_them_makes() {
        use crate::sync::atomic::{AtomicUsize, Ordering};
        for _ in 0..100 {
            let frames = Frames::default();
            let made = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for encoding in [3, 5, 3, 5] {
                    let (frames, made) = (&frames, &made);
                    scope.spawn(move || {
                        let frame = frames.get(encoding, || {
                            // Relaxed: a count only; the end of the scope orders it.
                            made.fetch_add(1, Ordering::Relaxed);
                            Bytes::from(vec![encoding as u8])
                        });
                        assert_eq!(frame[..], [encoding as u8]);
                    });
                }
            });
            assert_eq!(made.into_inner(), 2);
        }
    }
}
