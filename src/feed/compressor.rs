//! Compression once for a feed, with memory: every member gets the same compressed frames.
//!
//! Imports `codec`, `dialect`, `event`, `metrics`. Always:
//! - a frame looks back only at those since the last *fresh* one, so a member that was there for all of them reads
//!   it; one that was not gets frames by themselves until the next fresh one;
//! - a fresh start comes at most once in [`RESTART_BYTES`] or [`RESTART_MICROS`], whatever members join or skip;
//! - at most so many windows are held; feeds beyond get frames deflated by themselves, once for each event.

use std::cell::{Cell, OnceCell};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::keys::FeedKey;
use crate::codec::deflate::{Deflater, EMPTY_BLOCK, TAIL, WINDOW_BITS_MAX, store, window_bytes};
use crate::codec::ws;
use crate::event::Timestamp;
use crate::metrics::Metrics;

/// A fresh start costs the members that were there about 1 KB each: seldom enough to be lost in what they read.
const RESTART_BYTES: usize = 64 * 1024;

/// Or it may come after so long, where little is said.
const RESTART_MICROS: i64 = 1_000_000;

/// A window that was not used for so long may be taken by a feed that has none.
const IDLE_MICROS: i64 = 5_000_000;

/// How often a feed without a window looks for one that is idle.
const LOOK_MICROS: i64 = 250_000;

/// How the bytes of a connection are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Compression {
    #[default]
    None,
    /// permessage-deflate whose messages look back at those before, over `1 << bits` bytes.
    #[serde(rename = "Messages")]
    ContextTakeover { bits: u8 },
    /// permessage-deflate whose messages stand by themselves.
    #[serde(rename = "Alone")]
    NoContextTakeover { bits: u8 },
    /// An event stream as one gzip stream, whose window all bytes shift, compressed or not.
    Gzip,
}

/// Sizes and counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompressorLimits {
    /// Windows that one loop may hold.
    pub(crate) max_windows: usize,
    /// Messages shorter than this are not worth looking back for.
    pub(crate) min_bytes: usize,
    /// Messages shorter than this are not worth deflating by themselves.
    pub(crate) min_standalone_bytes: usize,
    /// From 1, the fastest, to 9; of windows that open from now on.
    pub(crate) level: u32,
}

impl Default for CompressorLimits {
    fn default() -> Self {
        Self { max_windows: 64, min_bytes: 64, min_standalone_bytes: 1024, level: 6 }
    }
}

impl Compression {
    /// Whether frames look back at those before, so that it matters what a member has read.
    pub(super) fn looks_back(self) -> bool {
        matches!(self, Self::ContextTakeover { .. } | Self::Gzip)
    }

    fn bits(self) -> u8 {
        match self {
            Self::ContextTakeover { bits } | Self::NoContextTakeover { bits } => bits,
            Self::None | Self::Gzip => WINDOW_BITS_MAX,
        }
    }

    /// Whether an event keeps its frame by itself in this form, for every feed and loop.
    pub(super) fn is_kept(self) -> bool {
        self != Self::None && self.bits() == WINDOW_BITS_MAX
    }

    /// Bytes of a connection's own as they stand in its stream. A comment says nothing, and neither does an empty
    /// block, which spares the window.
    pub(super) fn own(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Gzip if bytes.starts_with(b":") => Bytes::from_static(&EMPTY_BLOCK),
            Self::Gzip => stored(&bytes),
            _ => bytes,
        }
    }

    /// Whether these bytes of a connection's own leave it with another window than the feed's.
    pub(super) fn shifts(self, own: &[u8]) -> bool {
        self == Self::Gzip && own != EMPTY_BLOCK
    }

    /// Compresses a frame behind what is in the window of `deflater`. False where it is sent as it is.
    fn compressor(
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
        let Some((op, payload)) = ws::payload_of(frame).filter(|(_, payload)| is_worth_it(payload, min))
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

/// Whether a message may become smaller: it is long enough, and not gzip already, as some dialects send.
fn is_worth_it(payload: &[u8], min: usize) -> bool {
    payload.len() >= min && !payload.starts_with(&[0x1F, 0x8B])
}

fn stored(bytes: &[u8]) -> Bytes {
    let mut out = Vec::new();
    store(&mut out, bytes);
    out.into()
}

/// What a frame in a run of a feed with a window is to its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowUse {
    /// Anybody can read it, and nobody's window is moved by it.
    None,
    /// Anybody can read it, and from here reads on.
    Restarts,
    /// It looks back: for those who read all since the last fresh one.
    Continues,
}

/// A frame's other form: for a member that can't look back.
#[derive(Debug)]
pub(super) struct FrameForms {
    pub(super) step: WindowUse,
    /// As it was before; as it is in the run where anybody can read that.
    plain: Bytes,
    /// `plain` as it stands in a gzip stream, made when the first member needs it.
    stored: OnceCell<Bytes>,
}

impl FrameForms {
    pub(super) fn new(step: WindowUse, plain: Bytes) -> Self {
        Self { step, plain, stored: OnceCell::new() }
    }

    /// The form that looks back at nothing.
    pub(super) fn alone(&self, compression: Compression) -> &Bytes {
        match (compression, self.step) {
            (Compression::Gzip, WindowUse::Restarts | WindowUse::Continues) => {
                self.stored.get_or_init(|| stored(&self.plain))
            }
            _ => &self.plain,
        }
    }

    /// Bytes that it keeps besides the run.
    pub(super) fn bytes(&self) -> usize {
        if self.step == WindowUse::None { 0 } else { self.plain.len() }
    }
}

/// A feed's compressor.
#[derive(Debug)]
struct Window {
    deflater: Deflater,
    /// Bytes since the last fresh start; `None` before the first.
    since_restart: Option<usize>,
    restarted_at: Timestamp,
    used: Timestamp,
}

/// What a feed holds whose frames look back.
#[derive(Debug, Default)]
pub(super) struct FeedCompressor {
    window: Option<Window>,
    /// A member is there that can't look back.
    restart_requested: Cell<bool>,
}

impl FeedCompressor {
    /// A member can't look back: the next frame is to be fresh, when it may.
    pub(super) fn request_restart(&self) {
        self.restart_requested.set(true);
    }

    /// Members read something that is not in the window: the next frame is fresh, whatever else.
    pub(super) fn force_restart(&mut self) {
        if let Some(window) = &mut self.window {
            window.since_restart = None;
        }
    }

    pub(super) fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Lets its window go.
    pub(super) fn close(&mut self) {
        self.window = None;
    }

    /// When its window was used last.
    pub(super) fn used(&self) -> Option<Timestamp> {
        self.window.as_ref().map(|window| window.used)
    }

    /// Appends a frame's compressed form to `out`.
    pub(super) fn compressor(
        &mut self,
        compression: Compression,
        frame: &Bytes,
        compressor: &mut CompressorPool,
        out: &mut Vec<u8>,
    ) -> WindowUse {
        let now = compressor.now;
        let Some(window) = &mut self.window else {
            // It had one when the frame was appended, and lost it.
            out.extend_from_slice(&compressor.alone(compression, frame));
            return WindowUse::None;
        };
        let fresh = window.since_restart.is_none_or(|bytes| {
            self.restart_requested.get()
                && (bytes >= RESTART_BYTES || now.0 - window.restarted_at.0 >= RESTART_MICROS)
        });
        if fresh {
            window.deflater.start_afresh();
        }
        let before = out.len();
        let min = compressor.limits.min_bytes;
        if !compression.compressor(frame, min, &mut window.deflater, &mut compressor.scratch, out) {
            out.extend_from_slice(frame);
            if fresh {
                // The next one is: nothing was said since.
                window.since_restart = None;
            }
            return WindowUse::None;
        }
        window.used = now;
        compressor.count(frame.len(), out.len() - before);
        if fresh {
            self.restart_requested.set(false);
            window.restarted_at = now;
            compressor.metrics.deflate_fresh.inc();
        }
        window.since_restart = Some(if fresh { 0 } else { window.since_restart.unwrap_or(0) } + frame.len());
        if fresh { WindowUse::Restarts } else { WindowUse::Continues }
    }
}

/// The compressors of one loop.
#[derive(Debug)]
pub(super) struct CompressorPool {
    pub(super) limits: CompressorLimits,
    pub(super) now: Timestamp,
    pub(super) metrics: std::sync::Arc<Metrics>,
    /// Feeds that hold a window.
    holders: Vec<FeedKey>,
    /// Bytes that their windows take.
    window_bytes: usize,
    look_again: Timestamp,
    paused_until: Timestamp,
    /// For frames by themselves, by the bits of their window.
    alone: [Option<Deflater>; WINDOW_BITS_MAX as usize + 1],
    scratch: Vec<u8>,
}

impl CompressorPool {
    pub(super) fn new(limits: CompressorLimits, metrics: std::sync::Arc<Metrics>) -> Self {
        Self {
            limits,
            now: Timestamp::default(),
            metrics,
            holders: Vec::new(),
            window_bytes: 0,
            look_again: Timestamp(i64::MIN),
            paused_until: Timestamp(i64::MIN),
            alone: Default::default(),
            scratch: Vec::new(),
        }
    }

    fn count(&self, from: usize, to: usize) {
        self.metrics.deflates.inc();
        self.metrics.deflate_in_bytes.inc_by(from as u64);
        self.metrics.deflate_out_bytes.inc_by(to as u64);
    }

    /// Bytes that compressors take.
    pub(super) fn bytes(&self) -> usize {
        self.window_bytes
            + (0..)
                .zip(&self.alone)
                .filter(|(_, one)| one.is_some())
                .map(|(bits, _)| window_bytes(bits))
                .sum::<usize>()
    }

    /// Gives a feed a window, where one may be had.
    pub(super) fn open(
        &mut self,
        key: FeedKey,
        compression: Compression,
        shared: &mut FeedCompressor,
    ) -> bool {
        if self.holders.len() >= self.limits.max_windows || self.now < self.paused_until {
            return false;
        }
        let Some(deflater) = Deflater::new(compression.bits(), self.limits.level) else { return false };
        self.holders.push(key);
        self.window_bytes += window_bytes(compression.bits());
        self.metrics.deflate_windows.inc();
        shared.window =
            Some(Window { deflater, since_restart: None, restarted_at: self.now, used: self.now });
        true
    }

    /// A feed's window is gone, or goes with the feed.
    pub(super) fn closed(&mut self, key: FeedKey, compression: Compression) {
        if let Some(at) = self.holders.iter().position(|holder| *holder == key) {
            self.holders.swap_remove(at);
            self.window_bytes -= window_bytes(compression.bits());
            self.metrics.deflate_windows.dec();
        }
    }

    /// The feed whose window was not used for longest, where all are taken and one is idle. Looks seldom.
    pub(super) fn idle(&mut self, used: impl Fn(FeedKey) -> Option<Timestamp>) -> Option<FeedKey> {
        if self.holders.len() < self.limits.max_windows || self.now < self.look_again {
            return None;
        }
        self.look_again = Timestamp(self.now.0 + LOOK_MICROS);
        let oldest = self.holders.iter().filter_map(|key| Some((used(*key)?, *key))).min()?;
        (self.now.0 - oldest.0.0 >= IDLE_MICROS).then_some(oldest.1)
    }

    /// No window is given for a while: memory is short.
    pub(super) fn pause(&mut self) {
        self.alone = Default::default();
        self.paused_until = Timestamp(self.now.0 + IDLE_MICROS);
    }

    /// Who holds a window.
    pub(super) fn holders(&self) -> &[FeedKey] {
        &self.holders
    }

    /// A frame in the form that looks back at nothing.
    pub(super) fn alone(&mut self, compression: Compression, frame: &Bytes) -> Bytes {
        if compression == Compression::None {
            return frame.clone();
        }
        let bits = compression.bits();
        let place = &mut self.alone[usize::from(bits)];
        if place.is_none() {
            *place = Deflater::new(bits, self.limits.level);
        }
        let Some(deflater) = place else { return frame.clone() };
        deflater.start_afresh();
        let mut out = Vec::with_capacity(frame.len() / 2 + 64);
        let min = self.limits.min_standalone_bytes;
        if !compression.compressor(frame, min, deflater, &mut self.scratch, &mut out) {
            return frame.clone();
        }
        self.count(frame.len(), out.len());
        if compression != Compression::Gzip && out.len() >= frame.len() {
            return frame.clone();
        }
        out.into()
    }
}
