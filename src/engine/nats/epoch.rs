//! Finds the epoch of a log in JetStream from its record and from the streams that are there.

use super::life::{EpochRecord, KnownLog, Life};

/// Epoch of the streams according to the log's own stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EpochState {
    Recorded,
    /// There is no record; the epoch follows from the streams.
    Unrecorded,
    /// A node has claimed it, and some of its marks are missing.
    Claimed {
        epoch: u64,
    },
    /// Streams were replaced: another epoch has to begin, at this one or later.
    Ended {
        least: u64,
    },
}

/// Result of [`find_epoch`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoundEpoch {
    pub(super) state: EpochState,
    /// For each stream, whether it may have entries of an earlier epoch.
    pub(super) lives_on: Vec<bool>,
}

/// Finds the epoch and its places in each shard, for streams of these creation times.
pub(super) fn find_epoch(announced: Option<EpochRecord>, known: &KnownLog, life: &mut Life) -> FoundEpoch {
    let youngest = life.created.iter().copied().max().unwrap_or_default();
    let all = vec![true; life.created.len()];
    match announced {
        Some(EpochRecord { epoch, created, starts }) if created == life.created => {
            let state = match starts {
                Some(starts) if starts.len() == life.starts.len() => {
                    (life.epoch, life.starts) = (epoch, starts);
                    EpochState::Recorded
                }
                _ => EpochState::Claimed { epoch },
            };
            FoundEpoch { state, lives_on: all }
        }
        Some(record) => {
            let lives_on = survivors(&record.created, &life.created);
            // If all streams were replaced, a clock that was set back can make them look older.
            if lives_on.contains(&true) || record.epoch >= youngest {
                return FoundEpoch { state: EpochState::Ended { least: record.epoch + 1 }, lives_on };
            }
            life.epoch = youngest;
            FoundEpoch { state: EpochState::Unrecorded, lives_on }
        }
        None => {
            life.epoch = youngest;
            // The record is lost, or an older version wrote none. This node may know the earlier streams.
            let seen = [&known.followed, &known.appended].into_iter().filter(|seen| seen.epoch != 0);
            let replaced = seen.map(|seen| (seen.epoch, survivors(&seen.created, &life.created)));
            match replaced
                .filter(|(_, on)| on.contains(&true) && on.contains(&false))
                .max_by_key(|(epoch, _)| *epoch)
            {
                Some((epoch, lives_on)) => {
                    FoundEpoch { state: EpochState::Ended { least: epoch + 1 }, lives_on }
                }
                None => FoundEpoch { state: EpochState::Unrecorded, lives_on: all },
            }
        }
    }
}

/// Returns for each stream whether it is the one of an earlier epoch; true for all if that is unknown.
fn survivors(earlier: &[u64], created: &[u64]) -> Vec<bool> {
    if earlier.len() != created.len() {
        return vec![true; created.len()];
    }
    earlier.iter().zip(created).map(|(earlier, created)| earlier == created).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sequence;

    fn life_of(created: &[u64]) -> Life {
        Life { created: created.to_vec(), starts: vec![0; created.len()], ..Life::default() }
    }

    fn record(epoch: u64, created: &[u64], starts: Option<Vec<Sequence>>) -> EpochRecord {
        EpochRecord { epoch, created: created.to_vec(), starts }
    }

    fn found(announced: Option<EpochRecord>, known: &KnownLog, created: &[u64]) -> (FoundEpoch, Life) {
        let mut life = life_of(created);
        (find_epoch(announced, known, &mut life), life)
    }

    #[test]
    fn an_epoch_is_that_of_its_record_while_the_streams_are_the_same() {
        let known = KnownLog::default();
        let (found_one, one) = found(Some(record(9, &[1, 2], Some(vec![4, 0]))), &known, &[1, 2]);
        assert_eq!((found_one.state, one.epoch, one.starts), (EpochState::Recorded, 9, vec![4, 0]));
        let (claimed, _) = found(Some(record(9, &[1, 2], None)), &known, &[1, 2]);
        assert_eq!(claimed.state, EpochState::Claimed { epoch: 9 });
        let (first, life) = found(None, &known, &[1, 2]);
        assert_eq!((first.state, life.epoch), (EpochState::Unrecorded, 2));
    }

    #[test]
    fn an_epoch_ends_if_some_streams_are_others_and_those_that_live_on_are_marked() {
        let known = KnownLog::default();
        let (some, _) = found(Some(record(9, &[1, 2, 3], Some(vec![0; 3]))), &known, &[1, 20, 3]);
        assert_eq!(
            some,
            FoundEpoch { state: EpochState::Ended { least: 10 }, lives_on: vec![true, false, true] }
        );
        // A node that starts now has seen nothing; it learns the epoch from the record.
        let (all, life) = found(Some(record(9, &[1, 2], Some(vec![0; 2]))), &known, &[20, 21]);
        assert_eq!((all.state, life.epoch), (EpochState::Unrecorded, 21));
        let (older, _) = found(Some(record(90, &[1, 2], Some(vec![0; 2]))), &known, &[20, 21]);
        assert_eq!(
            older,
            FoundEpoch { state: EpochState::Ended { least: 91 }, lives_on: vec![false, false] }
        );
        // Without a record, what this node has seen counts.
        let mut known = KnownLog::default();
        known.followed.begin(&Life { epoch: 7, ..life_of(&[1, 2]) }, &[0, 0]);
        let (seen, _) = found(None, &known, &[1, 20]);
        assert_eq!(seen, FoundEpoch { state: EpochState::Ended { least: 8 }, lives_on: vec![true, false] });
        let (same, _) = found(None, &known, &[1, 2]);
        assert_eq!(same.state, EpochState::Unrecorded);
    }
}
