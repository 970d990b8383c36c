//! Reproducible random numbers. Always: the same seed gives the same numbers.

/// SplitMix64: small, evenly distributed, and identical on every platform.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Returns a number with one decimal between two whole numbers.
    pub(super) fn between(&mut self, low: u64, high: u64) -> f64 {
        (low * 10 + self.below((high - low) * 10)) as f64 / 10.0
    }

    pub(super) fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}{:06x}", self.roll() & 0xff_ffff)
    }
}
