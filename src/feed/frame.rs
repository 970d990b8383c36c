//! Frames that were appended to a feed and are not sealed yet.

use std::num::NonZeroU64;

use bytes::Bytes;

use crate::dialect::Encoding;
use crate::event::{Event, EventId};
use crate::metrics::Metrics;

/// Merge limit, in bytes: smaller frames are copied into one block, larger ones are not copied.
pub(super) const MERGE_FRAME_BYTES_MAX: usize = 4096;

/// Storage of an unsealed frame's bytes.
#[derive(Debug)]
pub(super) enum FrameSource {
    /// Bytes that are not cached in an event.
    Owned(Bytes),
    /// Event that caches the bytes. Cloning its handle allocates nothing; the first clone of a [`Bytes`] allocates.
    Shared(Event),
}

impl FrameSource {
    /// Returns the bytes in the feed's encoding.
    pub(super) fn bytes(&self, encoding: Encoding) -> &Bytes {
        match self {
            Self::Owned(bytes) => bytes,
            Self::Shared(event) => {
                event.frame(encoding.slot(), |event| encoding.encode(event, event.position()))
            }
        }
    }
}

/// Kind of a frame for conflation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// An event that every member receives.
    Required,
    /// An event that a later one with the same key replaces, for members that lag.
    Keyed(NonZeroU64),
    /// A gap notice, which every member receives.
    Gap,
}

impl FrameKind {
    /// Returns whether conflation must never leave the frame out.
    pub(super) fn is_required(self) -> bool {
        !matches!(self, Self::Keyed(_))
    }
}

/// A frame that was appended to a feed that compresses or conflates, and is not sealed.
#[derive(Debug)]
pub(super) struct UnsealedFrame {
    pub(super) source: FrameSource,
    pub(super) id: EventId,
    pub(super) kind: FrameKind,
    /// Whether the bytes are sent unchanged, even if the feed compresses.
    pub(super) is_final: bool,
}

/// Counts an encoded frame of `len` bytes.
pub(super) fn count_frame(metrics: &Metrics, len: usize) {
    metrics.encodings.inc();
    metrics.frame_bytes.observe(len as u64, 1);
}
