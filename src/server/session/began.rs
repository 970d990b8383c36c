//! Tracks the place at which a subscription began. So a past that the client requests later contains the events that
//! other subscriptions did not deliver, and no event twice.
//!
//! Invariant: from the place where a subscription began, the client got every event that it matches, live or from the
//! past, or a gap notice instead.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::event::{Event, EventId, ParseEventIdError, Position, Sequence};
use crate::filter::Filter;

/// Place from which a client got all events that a subscription matches.
#[derive(Clone, Debug)]
pub(crate) enum Began {
    /// Place on a bus of one shard, the usual case. It is stored in place, because each client has one.
    One {
        epoch: KnownEpoch,
        next: Sequence,
    },
    /// A place on a bus of one shard, in an epoch without a number.
    Elsewhere(Box<(u64, Sequence)>),
    Several(Box<Position>),
}

const _: () = assert!(size_of::<Option<Began>>() == 16, "each subscription has one");

/// Number of an epoch that this server is or was in. An epoch lasts as long as the order of events, so there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownEpoch(u8);

/// Epochs by number. None is removed.
static EPOCHS: [OnceLock<u64>; 64] = [const { OnceLock::new() }; 64];

impl KnownEpoch {
    /// Returns the number of an epoch. Gives it one if there is a free one. Only for epochs of this server, never for one
    /// that a client names.
    fn of(epoch: u64) -> Option<Self> {
        let at = EPOCHS.iter().position(|known| *known.get_or_init(|| epoch) == epoch)?;
        u8::try_from(at).ok().map(Self)
    }

    /// Returns the number of an epoch, if it has one.
    fn find(epoch: u64) -> Option<Self> {
        let at = EPOCHS.iter().map_while(OnceLock::get).position(|known| *known == epoch)?;
        u8::try_from(at).ok().map(Self)
    }

    fn epoch(self) -> u64 {
        EPOCHS.get(usize::from(self.0)).and_then(OnceLock::get).copied().unwrap_or_default()
    }
}

impl PartialEq for Began {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Several(one), Self::Several(other)) => one == other,
            (Self::Several(_), _) | (_, Self::Several(_)) => false,
            (one, other) => one.of(0) == other.of(0),
        }
    }
}

impl Eq for Began {}

/// Events that another subscription of a client delivered.
#[derive(Clone, Debug)]
pub(crate) struct DeliveredElsewhere {
    pub(crate) filter: Filter,
    /// Place where the subscription began; `None` if it is unknown which past events it delivered.
    pub(crate) began: Option<Began>,
}

impl DeliveredElsewhere {
    /// Returns whether the subscription delivered this event, by the definition.
    #[cfg(test)]
    pub(crate) fn has(&self, event: &Event) -> bool {
        self.filter.matches(event) && Began::covers(self.began.as_ref(), event)
    }
}

impl From<Position> for Began {
    fn from(position: Position) -> Self {
        match *position.sequences() {
            [next] => Self::at(KnownEpoch::of(position.epoch()), position.epoch(), next),
            _ => Self::Several(Box::new(position)),
        }
    }
}

impl Began {
    fn at(known: Option<KnownEpoch>, epoch: u64, next: Sequence) -> Self {
        known.map_or_else(|| Self::Elsewhere(Box::new((epoch, next))), |epoch| Self::One { epoch, next })
    }

    /// Returns a place that covers live events after `position` only; no events if the log was not reached yet.
    pub(crate) fn from_here(position: Option<Position>) -> Self {
        position.map_or_else(|| Self::from(Position::new(u64::MAX, [Sequence::MAX])), Self::from)
    }

    /// Returns the epoch, and the next sequence of a shard.
    fn of(&self, shard: u16) -> (u64, Sequence) {
        match self {
            Self::One { epoch, next } => (epoch.epoch(), *next),
            Self::Elsewhere(place) => **place,
            Self::Several(position) => {
                let next = position.sequences().get(usize::from(shard));
                (position.epoch(), next.copied().unwrap_or(0))
            }
        }
    }

    /// Returns whether a subscription that began here delivered an event that it matches. True if the place is unknown.
    pub(crate) fn covers(began: Option<&Self>, event: &Event) -> bool {
        let (Some(began), Some(id)) = (began, event.id()) else { return true };
        let (epoch, next) = began.of(id.shard);
        (id.epoch, id.sequence) >= (epoch, next)
    }

    /// Moves the place back in one shard: the events after `after` were delivered too.
    pub(crate) fn move_back(&mut self, after: EventId) {
        let next_sequence = after.next_sequence();
        match self {
            Self::One { .. } | Self::Elsewhere(_) => {
                let (epoch, next) = (after.epoch, next_sequence).min(self.of(0));
                *self = Self::at(KnownEpoch::find(epoch), epoch, next);
            }
            Self::Several(position) => {
                let is_earlier = after.epoch < position.epoch;
                let is_same = after.epoch == position.epoch;
                if let Some(next) = position.sequences.get_mut(usize::from(after.shard)) {
                    // A position has one epoch: everything of this epoch comes after an earlier one.
                    *next = if is_earlier {
                        0
                    } else if is_same {
                        next_sequence.min(*next)
                    } else {
                        *next
                    };
                }
            }
        }
    }

    /// Returns the place from which at least one of two subscriptions delivered everything that both match.
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (mut one, other) = (one?, other?);
        match (&mut one, &other) {
            (Self::Several(position), Self::Several(other)) if position.epoch == other.epoch => {
                for (next, other) in position.sequences.iter_mut().zip(&other.sequences) {
                    *next = (*next).min(*other);
                }
                Some(one)
            }
            _ => Some(if one.of(0) <= other.of(0) { one } else { other }),
        }
    }

    fn position(&self) -> Position {
        match self {
            Self::One { .. } | Self::Elsewhere(_) => {
                let (epoch, next) = self.of(0);
                Position::new(epoch, [next])
            }
            Self::Several(position) => (**position).clone(),
        }
    }
}

impl fmt::Display for Began {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position().fmt(f)
    }
}

impl FromStr for Began {
    type Err = ParseEventIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<Position>().map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(epoch: u64, shard: u16, sequence: u64) -> Event {
        let event = Event::builder("x").build().expect("valid");
        event.set_id(EventId { epoch, shard, sequence });
        event
    }

    #[test]
    fn events_after_the_place_are_covered_and_earlier_ones_are_not() {
        for began in [Began::from(Position::new(7, [5])), Began::from(Position::new(7, [5, 2]))] {
            assert_eq!(began.to_string().parse(), Ok(began.clone()));
            let covers = |epoch, sequence| Began::covers(Some(&began), &event(epoch, 0, sequence));
            assert_eq!((covers(7, 4), covers(7, 5), covers(8, 0), covers(6, 9)), (false, true, true, false));
        }
        assert!(Began::covers(None, &event(7, 0, 0)));
        let several = Began::from(Position::new(7, [5, 2]));
        assert!(!Began::covers(Some(&several), &event(7, 1, 1)));
        assert!(Began::covers(Some(&several), &event(7, 1, 2)));
    }

    #[test]
    fn a_past_moves_the_place_back_and_never_on() {
        let mut one = Began::from(Position::new(7, [5]));
        one.move_back(EventId { epoch: 7, shard: 0, sequence: 8 });
        assert_eq!(one, Began::from(Position::new(7, [5])));
        one.move_back(EventId::before(7, 0, 0));
        assert_eq!(one, Began::from(Position::new(7, [0])));
        one.move_back(EventId { epoch: 6, shard: 0, sequence: 3 });
        assert_eq!(one.to_string(), Position::new(6, [4]).to_string());
        assert_eq!(one, Began::from(Position::new(6, [4])));
        let mut several = Began::from(Position::new(7, [5, 2]));
        several.move_back(EventId { epoch: 7, shard: 1, sequence: 0 });
        several.move_back(EventId { epoch: 3, shard: 0, sequence: 9 });
        several.move_back(EventId { epoch: 9, shard: 0, sequence: 9 });
        assert_eq!(several, Began::from(Position::new(7, [0, 1])));
    }

    #[test]
    fn an_epoch_that_a_client_names_gets_no_number() {
        let mut began = Began::from(Position::new(u64::MAX - 1, [5]));
        assert!(matches!(began, Began::One { .. }));
        for epoch in (1_000..1_100).rev() {
            began.move_back(EventId { epoch, shard: 0, sequence: 3 });
            assert_eq!(began, Began::Elsewhere(Box::new((epoch, 4))));
        }
        assert_eq!(KnownEpoch::find(1_050), None);
    }

    #[test]
    fn the_earlier_of_two_places_counts() {
        let at =
            |epoch, sequences: &[u64]| Some(Began::from(Position::new(epoch, sequences.iter().copied())));
        assert_eq!(Began::earlier(at(7, &[5]), at(7, &[3])), at(7, &[3]));
        assert_eq!(Began::earlier(at(6, &[5]), at(7, &[3])), at(6, &[5]));
        assert_eq!(Began::earlier(at(7, &[5, 1]), at(7, &[3, 2])), at(7, &[3, 1]));
        assert_eq!(Began::earlier(at(8, &[5, 1]), at(7, &[9, 9])), at(7, &[9, 9]));
        assert_eq!(Began::earlier(None, at(7, &[3])), None);
    }
}
