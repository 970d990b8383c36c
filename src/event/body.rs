//! Memory that all handles of one event share.

#[cfg(feature = "server")]
use std::sync::OnceLock;

use super::attribute::Attribute;
#[cfg(feature = "server")]
use super::frames::Frames;
#[cfg(feature = "server")]
use super::position::Position;
use super::signature::{Signature, value_hash};
use super::time::Timestamp;
use crate::sync::atomic::{AtomicU32, AtomicU64};

/// Index of the payload among an event's spans, after the attributes.
pub(super) const PAYLOAD: usize = Attribute::COUNT;

/// Indexes of the trace context.
pub(super) const TRACE_PARENT: usize = PAYLOAD + 1;
pub(super) const TRACE_STATE: usize = PAYLOAD + 2;

/// Number of parts of an event's text.
pub(super) const PARTS: usize = PAYLOAD + 3;

/// Memory of a body without its text, in bytes, including the counts of its handles.
pub(super) const BODY_BYTES: usize = size_of::<EventBody>() + 2 * size_of::<usize>();

/// Value of `shard` before the event is published. No bus has that many shards.
pub(super) const UNPUBLISHED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TextSpan {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl TextSpan {
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// State that the handles of one event share.
pub(crate) struct EventBody {
    // The id. It is written once, between claim and publication, by the publisher that holds the only handle. Threads
    // that get the handle from the ring read it. The ring's publication edge orders both, so the accesses themselves
    // are relaxed.
    pub(super) epoch: AtomicU64,
    pub(super) sequence: AtomicU64,
    pub(super) shard: AtomicU32,
    pub(super) timestamp: Timestamp,
    /// Time when this process created the event. As a rule it is published at once.
    #[cfg(feature = "server")]
    pub(super) made: Timestamp,
    pub(super) signature: Signature,
    pub(super) spans: [TextSpan; PARTS],
    pub(super) text: String,
    #[cfg(feature = "server")]
    pub(super) frames: Frames,
    /// Compressed frames, each compressed by itself.
    #[cfg(feature = "server")]
    pub(super) deflated: OnceLock<Box<Frames>>,
    /// Position of a client that has received everything up to this event. Unset on a bus of one shard, where the id is
    /// enough.
    #[cfg(feature = "server")]
    pub(super) position: OnceLock<Box<Position>>,
}

impl EventBody {
    pub(super) fn new(text: String, spans: [TextSpan; PARTS], timestamp: Option<Timestamp>) -> Self {
        let made = Timestamp::now();
        let mut signature = Signature::default();
        for attribute in Attribute::ALL {
            let TextSpan { start, end } = spans[attribute.index()];
            signature.0[attribute.index()] = value_hash(&text[start as usize..end as usize]);
        }
        Self::unpublished(text, spans, signature, timestamp.unwrap_or(made), made)
    }

    #[cfg_attr(
        not(feature = "server"),
        allow(unused_variables, reason = "only a server reads when it was made")
    )]
    pub(super) fn unpublished(
        text: String,
        spans: [TextSpan; PARTS],
        signature: Signature,
        timestamp: Timestamp,
        made: Timestamp,
    ) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            shard: AtomicU32::new(UNPUBLISHED),
            timestamp,
            #[cfg(feature = "server")]
            made,
            signature,
            spans,
            text,
            #[cfg(feature = "server")]
            frames: Frames::default(),
            #[cfg(feature = "server")]
            deflated: OnceLock::new(),
            #[cfg(feature = "server")]
            position: OnceLock::new(),
        }
    }

    /// Drops the frames and keeps their allocations.
    #[cfg_attr(
        not(feature = "server"),
        allow(clippy::unused_self, reason = "there are frames with a server only")
    )]
    pub(super) fn forget_frames(&mut self) {
        #[cfg(feature = "server")]
        {
            self.frames.forget();
            self.deflated.take();
            self.position.take();
        }
    }

    /// Replaces this body by another one and keeps the allocations for frames.
    pub(super) fn overwrite(&mut self, body: Self) {
        #[cfg(feature = "server")]
        let frames = std::mem::take(&mut self.frames);
        *self = body;
        #[cfg(feature = "server")]
        {
            self.frames = frames;
        }
    }

    /// Returns an unpublished body with this one's timestamp and attribute hashes, and other parts.
    ///
    /// The attributes among the parts must be the same.
    pub(super) fn copied(&self, text: String, spans: [TextSpan; PARTS], made: Timestamp) -> Self {
        Self::unpublished(text, spans, self.signature, self.timestamp, made)
    }
}
