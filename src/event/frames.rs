//! The frames that were made of an event, one for each encoding.
//!
//! Imports nothing of ours. Always: each is made once, by the first who asks, whatever the number of threads; the
//! first encoding's lies in the event itself, as most servers need no other, and each more takes its own place only.

use std::sync::OnceLock;

use bytes::Bytes;

/// Maximum number of encodings of one event.
pub(crate) const ENCODINGS_MAX: usize = 13;

/// An event's frames: a chain of places, each taken for good by the first encoding that came to it. So all who ask for
/// an encoding meet at the same place, and the few that there are are found in as many steps.
#[derive(Debug, Default)]
pub(super) struct Frames {
    taken: OnceLock<(u8, Bytes)>,
    more: OnceLock<Box<Frames>>,
}

impl Frames {
    /// The frame of an encoding, made now where nobody has.
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

    /// Lets go of the frames, but not of the places for them.
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
                            // Relaxed: counted; the scope's end orders it.
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
