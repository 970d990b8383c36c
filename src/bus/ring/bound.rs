//! The bound of a ring in bytes, and the grain: the unsettled bytes at which a writer adds its sum to the ring's.
//!
//! Invariant: 64 writers that hold a grain each do not carry a ring over the requested bound (see `bytes`).

/// Maximum number of bytes that a writer keeps unsettled.
const GRAIN_MAX: u64 = 64 << 10;

/// Maximum number of bytes of the bodies in a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Weight above which the oldest bodies are released.
    pub(super) high: u64,
    /// Weight down to which they are released.
    pub(super) low: u64,
    /// Bytes that a writer may hold unsettled.
    grain: u64,
}

impl Bound {
    /// Creates a bound of this many bytes; 0 = no bound.
    pub(crate) fn new(bytes: u64) -> Self {
        if bytes == 0 {
            return Self { high: u64::MAX, low: u64::MAX, grain: GRAIN_MAX };
        }
        Self { high: bytes - bytes / 64, low: bytes - bytes / 32, grain: (bytes / 4096).min(GRAIN_MAX) }
    }

    #[inline(always)]
    pub(super) fn is_set(self) -> bool {
        self.high != u64::MAX
    }

    /// Returns whether a writer with this many unsettled bytes must settle.
    #[inline(always)]
    pub(super) fn is_grain(self, unsettled: i64) -> bool {
        unsettled.unsigned_abs() > self.grain
    }
}
