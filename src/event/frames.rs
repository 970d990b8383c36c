//! The frames that were made of an event, one for each encoding.
//!
//! Imports nothing of ours. Always: each is made once, by the first who asks, whatever the number of threads; the
//! first encoding's lies in the event itself, as most servers need no other.

use std::sync::OnceLock;

use bytes::Bytes;

use super::ENCODINGS_MAX;

/// An event's frames by encoding.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Of whichever encoding was first.
    first: OnceLock<(u8, Bytes)>,
    more: OnceLock<Box<[OnceLock<Bytes>; ENCODINGS_MAX]>>,
}

impl Frames {
    /// The frame of an encoding, made now where nobody has.
    pub(super) fn get(&self, encoding: usize, mut make: impl FnMut() -> Bytes) -> &Bytes {
        let (of, frame) = self.first.get_or_init(|| (encoding as u8, make()));
        if usize::from(*of) == encoding {
            return frame;
        }
        self.more.get_or_init(Box::default)[encoding].get_or_init(make)
    }

    /// Lets go of the frames, but not of the place for them.
    pub(super) fn forget(&mut self) {
        self.first.take();
        for frame in self.more.get_mut().into_iter().flat_map(|more| more.iter_mut()) {
            frame.take();
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
