//! Check of each past that a client requested against its definition, event by event.
//!
//! Invariant: a past consists of the items between the reply to a subscribe and the message that ends the past. Without
//! that message a past may stop anywhere, and must be correct up to that position.

use std::collections::{HashMap, HashSet};

use super::books::{Entry, From, KEPT, Log, Past, Seen, Start};

type Checked = Result<(), String>;

/// Items between the reply to a subscribe and the end of its past.
struct PastItems<'a> {
    items: &'a [Seen],
    /// Content of the message that ends the past: the number of events, and whether the past is complete.
    end: Option<(u64, bool)>,
}

impl<'a> PastItems<'a> {
    /// Returns the past at the beginning of `seen`, and the number of its items.
    fn first(seen: &'a [Seen]) -> Result<(Self, usize), String> {
        for (at, item) in seen.iter().enumerate() {
            match item {
                Seen::Event(_) | Seen::Gap { .. } => {}
                Seen::PastEnd { events, complete } => {
                    let end = Some((*events, *complete));
                    return Ok((Self { items: &seen[..at], end }, at + 1));
                }
                Seen::Change { .. } | Seen::UpTo(_) => {
                    return Err(format!("a reply within a past: {item:?}"));
                }
            }
        }
        Ok((Self { items: seen, end: None }, seen.len()))
    }

    fn events(&self) -> impl Iterator<Item = u64> {
        self.items.iter().filter_map(|item| if let Seen::Event(n) = item { Some(*n) } else { None })
    }

    /// Returns for each gap: whether it names the event before it, the first event within it, and the first event after
    /// it, if the gap names it.
    fn gaps(&self, log: &Log) -> impl Iterator<Item = (bool, u64, Option<u64>)> {
        self.items.iter().filter_map(|item| {
            let Seen::Gap { from, to, .. } = item else { return None };
            let first = log.place(*from).map_or(0, |from| from + 1);
            Some((from.is_some(), first, log.place(*to).map(|to| to + 1)))
        })
    }

    /// Checks the message that ends the past against the items.
    fn check_end(&self) -> Checked {
        let Some((events, complete)) = self.end else { return Ok(()) };
        let came = self.events().count() as u64;
        let has_gap = self.items.iter().any(|item| matches!(item, Seen::Gap { .. }));
        if events != came || complete == has_gap {
            return Err(format!(
                "the end of a past says {events}, {complete}, and {came} came: {:?}",
                self.items
            ));
        }
        Ok(())
    }

    /// Checks that the items are the requested past, if the live events begin at `begin`.
    fn check(&self, past: &Past, filter: u8, begin: u64, log: &Log) -> Checked {
        let due = |n: &u64| past.is_due(filter, *n, log.entry(*n));
        let replayed: Vec<u64> = self.events().filter(|n| *n < begin).collect();
        if let Some(n) = replayed.iter().find(|n| !due(n)) {
            return Err(format!("{n} is not part of the past"));
        }
        let gaps: Vec<_> = self.gaps(log).collect();
        if !gaps.is_empty() && past.from != From::Unknown && log.len() <= log.capacity {
            return Err(format!("a gap, though no event was ever forgotten: {gaps:?}"));
        }
        for item in self.items {
            let Seen::Gap { missed, at_most, from: Some(from), to: Some(to), .. } = item else { continue };
            let (Some(from), Some(to)) = (log.find(*from), log.find(*to)) else { continue };
            let gone = (from + 1..=to).filter(due).count() as u64;
            if missed.is_some_and(|missed| missed != gone) || at_most.is_some_and(|most| most < gone) {
                return Err(format!("{gone} are missing in {item:?}"));
            }
        }
        let is_excused = |n: &u64| gaps.iter().any(|(_, first, end)| (*first..end.unwrap_or(0)).contains(n));
        let all = || (0..begin).filter(due);
        let wanted: Vec<u64> = match past.from {
            From::Snapshot => return self.check_snapshot(&replayed, begin, log, due),
            // A log that retains no event can't name the events that are missing.
            From::Start if gaps.iter().any(|(.., end)| end.is_none()) => {
                let is_in_order = replayed.is_sorted_by(|one, other| one < other);
                return if is_in_order { Ok(()) } else { Err(format!("out of order: {replayed:?}")) };
            }
            From::Start => all().collect(),
            // An event stream gets what is kept, if rules keep everything that it wants.
            From::Unknown if replayed.is_empty() || filter < KEPT => Vec::new(),
            From::Unknown if gaps.iter().any(|(.., end)| end.is_none()) => {
                let is_in_order = replayed.is_sorted_by(|one, other| one < other);
                return if is_in_order { Ok(()) } else { Err(format!("out of order: {replayed:?}")) };
            }
            From::Unknown => all().collect(),
            From::After(id) => all().filter(|n| *n > id).collect(),
            From::Newest(count) => {
                let count = match gaps.iter().find(|(names_first, ..)| !names_first) {
                    // The past begins after the evicted events, so it is shorter.
                    Some((_, _, Some(first))) => {
                        let there = all().filter(|n| n >= first).count();
                        if there >= count {
                            return Err(format!("as many as requested are retained after {first}: {there}"));
                        }
                        there
                    }
                    Some(_) if self.end.is_some() && !replayed.is_empty() => {
                        return Err("a gap before the first event that does not say where it ends".to_owned());
                    }
                    Some(_) => 0,
                    None => count,
                };
                let before = all().count().saturating_sub(count);
                let newest: Vec<u64> = all().skip(before).collect();
                // A connection that broke after the reply has not received the gap that the reply announces.
                let is_cut = |start: &&Start| start.complete == Some(false) && gaps.is_empty();
                let start = past.start.as_ref().filter(|start| self.end.is_some() || !is_cut(start));
                let begins = start.and_then(|start| start.first);
                if let (Some(begins), Some(first)) = (begins, newest.first())
                    && begins > *first
                {
                    return Err(format!("the reply says that the past begins at {begins}, not at {first}"));
                }
                newest
            }
        };
        // A gap of one log or of the ring does not affect the other logs.
        let is_of_a_log = || gaps.iter().any(|(names_first, ..)| !names_first);
        let is_of_logs = match past.from {
            From::Start | From::Unknown => true,
            From::After(_) => is_of_a_log(),
            _ => false,
        };
        let may_come = |n: &u64| is_of_logs && replayed.contains(n);
        let mut wanted: Vec<u64> = wanted.into_iter().filter(|n| !is_excused(n) || may_come(n)).collect();
        if self.end.is_none() {
            wanted.truncate(replayed.len());
        }
        if wanted != replayed {
            return Err(format!("{replayed:?} came of {wanted:?} before {begin}, gaps {gaps:?}"));
        }
        let is_true = past.start.as_ref().and_then(|start| start.complete);
        // A gap that reaches beyond the past is of a later eviction: the reply shows the state when it was written.
        let was_short =
            || gaps.iter().any(|(names_first, _, end)| !names_first && end.is_none_or(|end| end <= begin));
        match (is_true, self.end) {
            (Some(false), Some((_, true))) => Err("events reported as missing came after all".to_owned()),
            (Some(true), Some(_)) if was_short() => {
                Err("the reply says that the past is complete, and it was not".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_snapshot(&self, replayed: &[u64], begin: u64, log: &Log, due: impl Fn(&u64) -> bool) -> Checked {
        let key = |n: u64| log.entry(n).key();
        let latest: HashMap<_, u64> = (0..begin).map(|n| (key(n), n)).collect();
        if let Some(n) = replayed.iter().find(|n| latest[&key(**n)] != **n) {
            return Err(format!("{n} is not the latest of its key before {begin}"));
        }
        if self.end.is_some_and(|(_, complete)| complete) {
            // If a key changed before its event was sent, its event is delivered live.
            let changed: HashSet<_> = (begin..log.len()).map(key).collect();
            let is_missing = |n: &u64| due(n) && !replayed.contains(n) && !changed.contains(&key(*n));
            if let Some(n) = latest.values().find(|n| is_missing(n)) {
                return Err(format!("{n} is the latest of its key, and did not come"));
            }
        }
        Ok(())
    }
}

impl Past {
    /// Returns whether an event belongs to the past: wanted, and not delivered by another subscription.
    fn is_due(&self, filter: u8, n: u64, entry: &Entry) -> bool {
        let brought = |(other, began): &(u8, Option<u64>)| {
            entry.is_wanted(*other) && began.is_none_or(|began| n >= began)
        };
        entry.is_wanted(filter) && !self.beside.iter().any(brought)
    }
}

/// Checks only the end of each past, because the order among several shards is not promised.
pub(super) fn check_ends(seen: &[Seen], complete: bool) -> Checked {
    for (at, item) in seen.iter().enumerate() {
        if let Seen::Change { from: Some(past), .. } = item {
            let (found, _) = PastItems::first(&seen[at + 1..])?;
            found.check_end()?;
            if complete && found.end.is_none() {
                return Err(format!("a past that never ends: {past:?}"));
            }
        }
    }
    Ok(())
}

/// Checks the pasts, and returns the live items without them. Returns `None` if the border between a past and the live items
/// can't be determined. The resume of a connection that had no other subscription stays, because it continues into the live
/// items.
pub(super) fn without_pasts(seen: &[Seen], log: &Log) -> Result<Option<Vec<Seen>>, String> {
    let mut live = Vec::with_capacity(seen.len());
    let (mut at, mut is_known) = (0, true);
    while let Some(item) = seen.get(at) {
        at += 1;
        live.push(item.clone());
        let Seen::Change { interest, from: Some(past), low, high, .. } = item else { continue };
        let Some((filter, _)) = interest.0.last() else { continue };
        let (found, len) = PastItems::first(&seen[at..])?;
        at += len;
        let mut fitting = Vec::new();
        let mut wrong = String::new();
        for begin in *low..=*high {
            match found.check(past, *filter, begin, log) {
                Ok(()) => fitting.push(begin),
                Err(error) => wrong = error,
            }
        }
        let Some(&begin) = fitting.first() else {
            return Err(format!("{past:?}, which began at {low} to {high}: {wrong}"));
        };
        // A gap of the ring is sent before the events that logs still retain from that range.
        let is_merged = past.from == From::Start && *filter < KEPT && found.gaps(log).next().is_some();
        is_known &= fitting.len() == 1 && !is_merged;
        let stays = |item: &&Seen| match item {
            _ if past.is_resume() => true,
            Seen::Event(n) => *n >= begin,
            Seen::Gap { to, .. } => {
                past.from == From::Unknown || log.place(*to).is_some_and(|to| to >= begin)
            }
            _ => false,
        };
        live.extend(found.items.iter().filter(stays).cloned());
    }
    Ok(is_known.then_some(live))
}
