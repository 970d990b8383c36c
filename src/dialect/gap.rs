//! Notices of missing events.
//!
//! Invariants:
//! - An exact number counts only events that this client would have received.
//! - A bound also counts events of other clients, so a client with a narrowing grant gets no bound.

use std::fmt;

use crate::event::{EventId, Since, Timestamp};

/// Number of missing events that match a client's subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Missed {
    Exactly(u64),
    /// At most this many: it is not known how many of them match the client's subscriptions.
    AtMost(u64),
    /// The number is unknown, as after a change of the epoch.
    Unknown,
}

impl Default for Missed {
    fn default() -> Self {
        Self::Exactly(0)
    }
}

impl Missed {
    /// Returns the number if it is known exactly.
    pub(crate) const fn exactly(self) -> Option<u64> {
        if let Self::Exactly(missed) = self { Some(missed) } else { None }
    }

    /// Returns the sum.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Exactly(one), Self::Exactly(other)) => Self::Exactly(one.saturating_add(other)),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Exactly(one) | Self::AtMost(one), Self::Exactly(other) | Self::AtMost(other)) => {
                Self::AtMost(one.saturating_add(other))
            }
        }
    }

    /// Returns the number as a bound, for a client that may not have wanted all of them.
    pub(crate) const fn as_bound(self) -> Self {
        match self {
            Self::Exactly(missed) | Self::AtMost(missed) => Self::AtMost(missed),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// Notice for a client for which events were dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GapNotice {
    pub(crate) missed: Missed,
    /// The place before the gap; a resume from here may succeed if `recoverable`.
    pub(crate) from: Option<Since>,
    /// The last event within the gap.
    pub(crate) to: Option<EventId>,
    /// Whether the server still has the missing events.
    pub(crate) recoverable: bool,
    /// Time at which the gap was found.
    pub(crate) at: Timestamp,
}

impl GapNotice {
    /// Returns an event at one of the gap's edges.
    pub(crate) fn edge(&self) -> Option<EventId> {
        self.to.or(match &self.from {
            Some(Since::Event(id)) => Some(*id),
            // The sealed text has random digits, so it distinguishes this gap from others as an id does.
            Some(Since::Sealed(text)) => {
                let digits = |at| text.get(at..at + 16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
                Some(EventId { epoch: digits(1)?, shard: 0, sequence: digits(17)? })
            }
            Some(Since::Position(_)) | None => None,
        })
    }

    /// Returns the notice without details beyond a client's grant: no bound, no event of other clients, and a sealed place.
    pub(crate) fn within_a_grant(&self, seal: impl FnOnce(&Since) -> Option<Since>) -> Self {
        let missed = if let Missed::AtMost(_) = self.missed { Missed::Unknown } else { self.missed };
        let from = self.from.as_ref().and_then(seal);
        Self { missed, from, to: None, ..self.clone() }
    }

    /// Returns `{"missed","from","to","recoverable"}` as JSON, and `at_most` if only a bound is known.
    pub(crate) fn json(&self) -> String {
        fn place(place: Option<&impl fmt::Display>) -> String {
            place.map_or_else(|| "null".to_owned(), |place| format!("\"{place}\""))
        }
        let missed = self.missed.exactly().map_or_else(|| "null".to_owned(), |n| n.to_string());
        let bound = match self.missed {
            Missed::AtMost(most) => format!(r#","at_most":{most}"#),
            Missed::Exactly(_) | Missed::Unknown => String::new(),
        };
        format!(
            r#"{{"missed":{missed},"from":{},"to":{},"recoverable":{}{bound}}}"#,
            place(self.from.as_ref()),
            place(self.to.as_ref()),
            self.recoverable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Encoding;

    fn gap(missed: Missed) -> GapNotice {
        GapNotice { missed, from: None, to: None, recoverable: false, at: Timestamp(0) }
    }

    #[test]
    fn a_bound_is_never_reported_as_an_exact_number() {
        let json = |missed| gap(missed).json();
        let rest = r#""from":null,"to":null,"recoverable":false"#;
        assert_eq!(json(Missed::Exactly(7)), format!(r#"{{"missed":7,{rest}}}"#));
        assert_eq!(json(Missed::AtMost(7)), format!(r#"{{"missed":null,{rest},"at_most":7}}"#));
        assert_eq!(json(Missed::Unknown), format!(r#"{{"missed":null,{rest}}}"#));
    }

    #[test]
    fn sums_are_as_sure_as_their_parts() {
        use Missed::{AtMost, Exactly, Unknown};
        assert_eq!(Exactly(2).and(Exactly(3)), Exactly(5));
        assert_eq!(Exactly(2).and(AtMost(3)), AtMost(5));
        assert_eq!(AtMost(u64::MAX).and(Exactly(3)), AtMost(u64::MAX));
        assert_eq!(Unknown.and(Exactly(3)), Unknown);
        assert_eq!(Exactly(3).as_bound(), AtMost(3));
    }

    #[test]
    fn every_encoding_with_gaps_has_the_bound() {
        for encoding in Encoding::all() {
            let frame = encoding.gap(&gap(Missed::AtMost(1808)));
            // AgentOS's envelope is frozen: a client that did not ask for gaps gets none.
            let has_gaps = format!("{encoding:?}") != "AgentosWs";
            let text = String::from_utf8_lossy(&frame);
            assert_eq!(text.contains(r#""missed":null"#), has_gaps, "{encoding:?}: {text}");
            assert_eq!(text.contains(r#""at_most":1808"#), has_gaps, "{encoding:?}: {text}");
        }
    }
}
