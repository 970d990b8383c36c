//! Reads a subscription's policy for a client that lags.

use serde::{Deserialize, Serialize};

use super::words::shortened;

/// Treatment of a client that lags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OnLag {
    /// The oldest events are dropped, and a gap has their number.
    #[default]
    DropOldest,
    /// The newest events are dropped, and a gap has their number.
    DropNewest,
    /// The latest event of each key is sent; earlier ones are left out.
    Conflate,
    /// Nothing is dropped that is kept: the client reads on from the kept logs or the ring.
    CatchUp,
    /// As `CatchUp`, and neighbours of what is read that way are merged into one.
    Concat,
    /// At most this many events per second are sent, whether the client lags or not. The rate is at least 1.
    Sample { per_second: u32 },
    /// The connection is closed.
    Disconnect,
}

/// Events per second of a sample for which the client sets no rate.
const SAMPLE_PER_SECOND_DEFAULT: u32 = 10;

impl OnLag {
    /// Reads the `on_lag` word of a `subscribe`; the error lists the known words. Only `sample` uses `per_second`.
    pub(crate) fn read(word: Option<&str>, per_second: Option<u32>) -> Result<Self, String> {
        let rate = per_second.filter(|rate| *rate > 0).unwrap_or(SAMPLE_PER_SECOND_DEFAULT);
        Ok(match word {
            None | Some("drop_oldest") => Self::DropOldest,
            Some("drop_newest") => Self::DropNewest,
            Some("conflate") => Self::Conflate,
            Some("catch_up") => Self::CatchUp,
            Some("concat") => Self::Concat,
            Some("sample") => Self::Sample { per_second: rate },
            Some("disconnect") => Self::Disconnect,
            Some(other) => {
                let words = "drop_oldest, drop_newest, catch_up, concat, conflate, sample or disconnect";
                return Err(format!("on_lag '{}' is none of {words}", shortened(other)));
            }
        })
    }

    /// Returns whether events may be left out without a gap.
    pub(crate) fn may_omit(self) -> bool {
        matches!(self, Self::Conflate | Self::Sample { .. })
    }

    /// Returns whether one connection can have subscriptions with both policies.
    pub(crate) fn fits(self, other: Self) -> bool {
        let is_apart = |one: Self, other: Self| match one {
            Self::CatchUp => other.may_omit(),
            // Events of the other one would be merged too.
            Self::Concat => other != Self::Concat,
            _ => false,
        };
        !is_apart(self, other) && !is_apart(other, self)
    }
}
