//! Frames encoded from an event, one for each encoding.
//!
//! Always: a frame is encoded once, by the first thread that asks for it. The first encoding's frame is in the event
//! itself, because most servers need no other. Each further one takes an allocation. The bytes of the frames that all
//! events of this process hold are counted; beyond a limit, each loop encodes frames for itself.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Maximum number of encodings of one event.
pub(crate) const ENCODINGS_MAX: usize = 13;

/// Bytes of the frames that events hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes beyond which no event keeps another frame.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Returns the size of the frames that all events of this process hold, in bytes.
pub(crate) fn held_frame_bytes() -> usize {
    // Relaxed: a statistic and a threshold; it orders nothing.
    HELD.load(Ordering::Relaxed)
}

/// Sets the bytes beyond which no event keeps another frame, for all servers of this process.
pub(crate) fn limit_frames(bytes: usize) {
    // Relaxed: a server that starts a moment later keeps a few frames more.
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// Returns whether an event may keep another frame.
pub(crate) fn may_keep_frame() -> bool {
    // Relaxed: as above.
    held_frame_bytes() <= LIMIT.load(Ordering::Relaxed)
}

/// Frames of an event: a chain of entries. The first encoding to reach an entry owns it for good. All threads that ask
/// for an encoding end at the same entry, after one step for each encoding before it.
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
            let (of, frame) = place.taken.get_or_init(|| {
                let frame = make();
                // Relaxed, here and below: a sum on its own.
                HELD.fetch_add(frame.len(), Ordering::Relaxed);
                (encoding as u8, frame)
            });
            if usize::from(*of) == encoding {
                return frame;
            }
            place = place.more.get_or_init(Box::default);
        }
    }

    /// Returns whether the frame of an encoding is kept.
    pub(super) fn has(&self, encoding: usize) -> bool {
        let mut place = Some(self);
        while let Some(Self { taken, more }) = place {
            if taken.get().is_some_and(|(of, _)| usize::from(*of) == encoding) {
                return true;
            }
            place = more.get().map(|more| &**more);
        }
        false
    }

    /// Drops the frames, but keeps the allocations of the entries.
    pub(super) fn forget(&mut self) {
        let mut place = Some(self);
        while let Some(Self { taken, more }) = place {
            if let Some((_, frame)) = taken.take() {
                HELD.fetch_sub(frame.len(), Ordering::Relaxed);
            }
            place = more.get_mut().map(|more| &mut **more);
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some((_, frame)) = self.taken.get() {
            // Relaxed: as above.
            HELD.fetch_sub(frame.len(), Ordering::Relaxed);
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
    fn threads_that_ask_at_once_share_one_result() {
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
