//! Compression once per feed, with a window: every member receives the same compressed frames.
//!
//! Invariants:
//! - A frame refers back only to frames since the window's last *restart*. A member that has read all of those is *in
//!   sync* and can read the frame. Any other member receives standalone frames until the next restart.
//! - Restarts are at least [`RESTART_BYTES`] or [`RESTART_MICROS`] apart, however often members join or skip.
//! - The number of windows in a loop is bounded. Feeds beyond the bound get standalone frames, deflated once per event.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys::FeedKey;
use crate::codec::deflate::{Deflater, EMPTY_BLOCK, TAIL, WINDOW_BITS_MAX, store, window_bytes};
use crate::codec::ws;
use crate::event::Timestamp;
use crate::metrics::Metrics;

/// Minimum number of bytes between restarts. A restart costs the members that were in sync about 1 KB each, which is
/// small in comparison.
const RESTART_BYTES: usize = 64 * 1024;

/// Time after which a restart is allowed in a feed that sends less, in microseconds.
const RESTART_MICROS: i64 = 1_000_000;

/// Time without use after which a feed's window may be given to another feed, in microseconds.
const IDLE_MICROS: i64 = 5_000_000;

/// Time between two searches for an idle window, in microseconds.
const SEARCH_MICROS: i64 = 250_000;

/// Compression of the bytes that a connection receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Compression {
    #[default]
    None,
    /// permessage-deflate with context takeover: messages refer back to earlier ones, up to `1 << bits` bytes.
    #[serde(rename = "Messages")]
    ContextTakeover { bits: u8 },
    /// permessage-deflate without context takeover: each message is standalone.
    #[serde(rename = "Alone")]
    NoContextTakeover { bits: u8 },
    /// An event stream as one gzip stream. All bytes enter its window, compressed or not.
    Gzip,
}

/// Limits of the compressors of one loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressorLimits {
    /// Maximum number of windows.
    pub(crate) max_windows: usize,
    /// Minimum size of a message that is compressed with a window, in bytes.
    pub(crate) min_bytes: usize,
    /// Minimum size of a message that is deflated standalone, in bytes.
    pub(crate) min_standalone_bytes: usize,
    /// Compression level of windows that open from now on, from 1 (the fastest) to 9.
    pub(crate) level: u32,
}

impl Default for CompressorLimits {
    fn default() -> Self {
        Self { max_windows: 64, min_bytes: 64, min_standalone_bytes: 1024, level: 6 }
    }
}

impl Compression {
    /// Returns whether frames refer back to earlier ones, so that a member's position decides what it can read.
    pub(super) fn uses_window(self) -> bool {
        matches!(self, Self::ContextTakeover { .. } | Self::Gzip)
    }

    fn bits(self) -> u8 {
        match self {
            Self::ContextTakeover { bits } | Self::NoContextTakeover { bits } => bits,
            Self::None | Self::Gzip => WINDOW_BITS_MAX,
        }
    }

    /// Returns whether an event caches its standalone frame in this form, for all feeds and loops.
    pub(super) fn is_cached(self) -> bool {
        self != Self::None && self.bits() == WINDOW_BITS_MAX
    }

    /// Returns a connection's own bytes in the form in which they appear in its stream.
    pub(super) fn own(self, bytes: Bytes) -> Bytes {
        if self == Self::Gzip { stored(&bytes) } else { bytes }
    }

    /// Returns the heartbeat of a client that was sent events since the last heartbeat. In a gzip stream it is an empty
    /// block, which has no text and leaves the window unchanged: the events already show that the server is alive.
    pub(super) fn heartbeat_after_events(self, bytes: Bytes) -> Bytes {
        if self == Self::Gzip { Bytes::from_static(&EMPTY_BLOCK) } else { bytes }
    }

    /// Returns whether a connection's own bytes, as [`own`](Self::own) returns them, change its window.
    pub(super) fn changes_window(self, own: &[u8]) -> bool {
        self == Self::Gzip && own != EMPTY_BLOCK
    }

    /// Appends the frame to `out`, compressed with the window of `deflater`. Returns `false`, and appends nothing, if
    /// compression would not pay off.
    fn compress(
        self,
        frame: &[u8],
        min: usize,
        deflater: &mut Deflater,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> bool {
        if self == Self::Gzip {
            deflater.block(frame, out);
            return true;
        }
        let Some((op, payload)) = ws::payload_of(frame).filter(|(_, payload)| is_compressible(payload, min))
        else {
            return false;
        };
        scratch.clear();
        deflater.block(payload, scratch);
        scratch.truncate(scratch.len() - TAIL.len());
        ws::encode_deflated(out, op, scratch);
        true
    }
}

/// Returns whether compression may make a message smaller: the message is long enough, and not gzip already, as some
/// dialects send it.
fn is_compressible(payload: &[u8], min: usize) -> bool {
    payload.len() >= min && !payload.starts_with(&[0x1F, 0x8B])
}

fn stored(bytes: &[u8]) -> Bytes {
    let mut out = Vec::new();
    store(&mut out, bytes);
    out.into()
}

/// How a frame in a block depends on the feed's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowUse {
    /// Every member can read the frame, and its window stays as it is.
    None,
    /// Every member can read the frame, and is in sync with the window afterwards.
    Restarts,
    /// Only members that have read every frame since the last restart can read the frame.
    Continues,
}

/// Forms of a frame: the one in the block, and one for members that are not in sync with the window.
#[derive(Debug)]
pub(super) struct FrameForms {
    pub(super) window_use: WindowUse,
    /// Uncompressed frame; the form in the block if that uses no window.
    plain: Bytes,
    /// `plain` as a stored block of a gzip stream, made when the first member needs it.
    stored: OnceCell<Bytes>,
}

impl FrameForms {
    pub(super) fn new(window_use: WindowUse, plain: Bytes) -> Self {
        Self { window_use, plain, stored: OnceCell::new() }
    }

    /// Returns the form that every member can read.
    pub(super) fn standalone(&self, compression: Compression) -> &Bytes {
        match (compression, self.window_use) {
            (Compression::Gzip, WindowUse::Restarts | WindowUse::Continues) => {
                self.stored.get_or_init(|| stored(&self.plain))
            }
            _ => &self.plain,
        }
    }

    /// Returns the number of bytes retained in addition to the block.
    pub(super) fn bytes(&self) -> usize {
        if self.window_use == WindowUse::None { 0 } else { self.plain.len() }
    }
}

/// Compressor with a window.
#[derive(Debug)]
struct Window {
    deflater: Deflater,
    /// Bytes since the last restart; `None` forces a restart at the next frame.
    since_restart: Option<usize>,
    restarted_at: Timestamp,
    used_at: Timestamp,
}

/// State of compression in a feed that compresses with a window.
#[derive(Debug, Default)]
pub(super) struct FeedCompressor {
    window: Option<Window>,
    /// Whether a member waits for a restart.
    restart_requested: Cell<bool>,
}

impl FeedCompressor {
    /// Asks for a restart as soon as one is allowed, for a member that is not in sync.
    pub(super) fn request_restart(&self) {
        self.restart_requested.set(true);
    }

    /// Forces a restart at the next frame, because members received a frame that is not in the window.
    pub(super) fn force_restart(&mut self) {
        if let Some(window) = &mut self.window {
            window.since_restart = None;
        }
    }

    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Frees the window.
    pub(super) fn close(&mut self) {
        self.window = None;
    }

    /// Returns the time at which the window was used last.
    pub(super) fn used_at(&self) -> Option<Timestamp> {
        self.window.as_ref().map(|window| window.used_at)
    }

    /// Appends the frame's compressed form to `out` and returns how the form depends on the window.
    pub(super) fn compress(
        &mut self,
        compression: Compression,
        frame: &Bytes,
        pool: &mut CompressorPool,
        out: &mut Vec<u8>,
    ) -> WindowUse {
        let now = pool.now;
        let Some(window) = &mut self.window else {
            // The feed's window was closed after the frame was appended.
            out.extend_from_slice(&pool.standalone(compression, frame));
            return WindowUse::None;
        };
        let restarts = window.since_restart.is_none_or(|bytes| {
            self.restart_requested.get()
                && (bytes >= RESTART_BYTES || now.0 - window.restarted_at.0 >= RESTART_MICROS)
        });
        if restarts {
            window.deflater.start_afresh();
        }
        let before = out.len();
        let min = pool.limits.min_bytes;
        if !compression.compress(frame, min, &mut window.deflater, &mut pool.scratch, out) {
            out.extend_from_slice(frame);
            if restarts {
                // The window is still empty, so the next frame is the restart.
                window.since_restart = None;
            }
            return WindowUse::None;
        }
        window.used_at = now;
        pool.count(frame.len(), out.len() - before);
        if restarts {
            self.restart_requested.set(false);
            window.restarted_at = now;
            pool.metrics.deflate_fresh.inc();
        }
        window.since_restart =
            Some(if restarts { 0 } else { window.since_restart.unwrap_or(0) } + frame.len());
        if restarts { WindowUse::Restarts } else { WindowUse::Continues }
    }
}

/// Compressors of one loop.
#[derive(Debug)]
pub(super) struct CompressorPool {
    pub(super) limits: CompressorLimits,
    pub(super) now: Timestamp,
    pub(super) metrics: Arc<Metrics>,
    /// Feeds that hold a window.
    holders: Vec<FeedKey>,
    /// Memory of the windows, in bytes.
    window_bytes: usize,
    /// Time of the next search for an idle window.
    next_search: Timestamp,
    paused_until: Timestamp,
    /// Compressors for standalone frames, by the bits of their window.
    standalone: [Option<Deflater>; WINDOW_BITS_MAX as usize + 1],
    scratch: Vec<u8>,
}

impl CompressorPool {
    pub(super) fn new(limits: CompressorLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            limits,
            now: Timestamp::default(),
            metrics,
            holders: Vec::new(),
            window_bytes: 0,
            next_search: Timestamp(i64::MIN),
            paused_until: Timestamp(i64::MIN),
            standalone: Default::default(),
            scratch: Vec::new(),
        }
    }

    fn count(&self, from: usize, to: usize) {
        self.metrics.deflates.inc();
        self.metrics.deflate_in_bytes.inc_by(from as u64);
        self.metrics.deflate_out_bytes.inc_by(to as u64);
    }

    /// Returns the memory of all compressors, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.window_bytes
            + (0..)
                .zip(&self.standalone)
                .filter(|(_, deflater)| deflater.is_some())
                .map(|(bits, _)| window_bytes(bits))
                .sum::<usize>()
    }

    /// Opens a window for a feed and returns `true`, unless all windows are taken or opening is paused.
    pub(super) fn open(
        &mut self,
        key: FeedKey,
        compression: Compression,
        compressor: &mut FeedCompressor,
    ) -> bool {
        if self.holders.len() >= self.limits.max_windows || self.now < self.paused_until {
            return false;
        }
        let Some(deflater) = Deflater::new(compression.bits(), self.limits.level) else { return false };
        self.holders.push(key);
        self.window_bytes += window_bytes(compression.bits());
        self.metrics.deflate_windows.inc();
        let (restarted_at, used_at) = (self.now, self.now);
        compressor.window = Some(Window { deflater, since_restart: None, restarted_at, used_at });
        true
    }

    /// Counts off a window that was freed, or is freed with its feed.
    pub(super) fn closed(&mut self, key: FeedKey, compression: Compression) {
        if let Some(at) = self.holders.iter().position(|holder| *holder == key) {
            self.holders.swap_remove(at);
            self.window_bytes -= window_bytes(compression.bits());
            self.metrics.deflate_windows.dec();
        }
    }

    /// Returns the feed with the least recently used window, if all windows are taken and that one is idle. Searches at most
    /// once per [`SEARCH_MICROS`].
    pub(super) fn idle(&mut self, used_at: impl Fn(FeedKey) -> Option<Timestamp>) -> Option<FeedKey> {
        if self.holders.len() < self.limits.max_windows || self.now < self.next_search {
            return None;
        }
        self.next_search = Timestamp(self.now.0 + SEARCH_MICROS);
        let oldest = self.holders.iter().filter_map(|key| Some((used_at(*key)?, *key))).min()?;
        (self.now.0 - oldest.0.0 >= IDLE_MICROS).then_some(oldest.1)
    }

    /// Opens no window for a while. Called when memory is short.
    pub(super) fn pause(&mut self) {
        self.standalone = Default::default();
        self.paused_until = Timestamp(self.now.0 + IDLE_MICROS);
    }

    /// Returns the feeds that hold a window.
    pub(super) fn holders(&self) -> &[FeedKey] {
        &self.holders
    }

    /// Returns the frame in the form that every member can read.
    pub(super) fn standalone(&mut self, compression: Compression, frame: &Bytes) -> Bytes {
        if compression == Compression::None {
            return frame.clone();
        }
        let bits = compression.bits();
        let entry = &mut self.standalone[usize::from(bits)];
        if entry.is_none() {
            *entry = Deflater::new(bits, self.limits.level);
        }
        let Some(deflater) = entry else { return frame.clone() };
        deflater.start_afresh();
        let mut out = Vec::with_capacity(frame.len() / 2 + 64);
        let min = self.limits.min_standalone_bytes;
        if !compression.compress(frame, min, deflater, &mut self.scratch, &mut out) {
            return frame.clone();
        }
        self.count(frame.len(), out.len());
        if compression != Compression::Gzip && out.len() >= frame.len() {
            return frame.clone();
        }
        out.into()
    }
}
