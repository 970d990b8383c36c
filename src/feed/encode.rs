//! Encodes an event's frame in a feed's form, and assigns windows to feeds that compress.
//!
//! Invariants:
//! - An event is encoded once per encoding, and deflated once per cached form.
//! - A feed without a window takes over an idle one of another feed, or receives standalone frames.

use bytes::Bytes;
use slab::Slab;

use super::compressor::{Compression, CompressorPool, FeedCompressor};
use super::feed::{Feed, FeedForm};
use super::frame::{FrameSource, count_frame};
use super::frame_log::shared_frame;
use super::keys::FeedKey;
use crate::dialect::Encoding;
use crate::event::{Event, may_keep_frame};
use crate::metrics::Metrics;

/// A frame for a feed.
pub(super) struct EncodedFrame {
    pub(super) source: FrameSource,
    /// Whether the bytes are sent unchanged, even if the feed compresses.
    pub(super) is_final: bool,
}

/// Returns the event's frame for a feed that compresses or conflates.
pub(super) fn frame_for(
    feeds: &mut Slab<Feed>,
    key: FeedKey,
    event: &Event,
    pool: &mut CompressorPool,
    metrics: &Metrics,
) -> EncodedFrame {
    let FeedForm { encoding, compression } = feeds[key as usize].form;
    let is_plain = compression == Compression::None;
    if is_plain && !may_keep_frame() && !event.has_frame(encoding.slot()) {
        let frame = encoding.encode(event, event.position());
        count_frame(metrics, frame.len());
        return EncodedFrame { source: FrameSource::Owned(frame), is_final: true };
    }
    if is_plain || (compression.uses_window() && has_or_opens_window(feeds, key, pool)) {
        shared_frame(event, encoding, metrics);
        return EncodedFrame { source: FrameSource::Shared(event.clone()), is_final: is_plain };
    }
    let bytes = standalone_frame(event, encoding, compression, pool, metrics);
    EncodedFrame { source: FrameSource::Owned(bytes), is_final: true }
}

/// Returns the event's frame in the form that every connection can read. The event caches the frame if other feeds and loops
/// may want the same form.
pub(super) fn standalone_frame(
    event: &Event,
    encoding: Encoding,
    compression: Compression,
    pool: &mut CompressorPool,
    metrics: &Metrics,
) -> Bytes {
    if !may_keep_frame() && !event.has_frame(encoding.slot()) {
        let plain = encoding.encode(event, event.position());
        count_frame(metrics, plain.len());
        return pool.standalone(compression, &plain);
    }
    let plain = shared_frame(event, encoding, metrics);
    if compression.is_cached() {
        event.deflated(encoding.slot(), || pool.standalone(compression, plain)).clone()
    } else {
        pool.standalone(compression, plain)
    }
}

/// Returns whether the feed has a window, and opens one if possible.
fn has_or_opens_window(feeds: &mut Slab<Feed>, key: FeedKey, pool: &mut CompressorPool) -> bool {
    let has_window = |feed: &Feed| feed.compressor().is_some_and(FeedCompressor::has_window);
    if has_window(&feeds[key as usize]) {
        return true;
    }
    let used_at = |key: FeedKey| feeds.get(key as usize)?.compressor()?.used_at();
    if let Some(idle) = pool.idle(used_at) {
        close_window(feeds, idle, pool);
    }
    let feed = &mut feeds[key as usize];
    let compression = feed.form.compression;
    feed.compressor_mut().is_some_and(|compressor| pool.open(key, compression, compressor))
}

/// Frees the window of a feed.
pub(super) fn close_window(feeds: &mut Slab<Feed>, key: FeedKey, pool: &mut CompressorPool) {
    let Some(feed) = feeds.get_mut(key as usize) else { return };
    if let Some(compressor) = feed.compressor_mut() {
        compressor.close();
    }
    pool.closed(key, feed.form.compression);
}
