//! Check of one connection's messages against the promises, written independently of the server.
//!
//! Invariant: an error names the numbers of the events.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use super::books::{From, Interest, Log, Past, Policy, Seen};
use super::pasts::{check_ends, without_pasts};

type Checked = Result<(), String>;

/// Checks the items that a connection received so far. `complete`: every event for it has arrived.
pub(super) fn check(seen: &[Seen], log: &Log, complete: bool) -> Checked {
    once_and_in_order(seen, log)?;
    check_ends(seen, complete)?;
    if log.len() <= log.capacity {
        nothing_is_lost(seen, log.by_shard.len(), |_| true)?;
    }
    if log.by_shard.len() > 1 {
        return totals(seen, log, complete);
    }
    let Some(live) = without_pasts(seen, log)? else { return Ok(()) };
    bounds(&live, log)?;
    Walk { log, states: vec![(0, 0)], interest: Interest::default() }.run(&live, complete)?;
    if complete { latest_came(seen, log) } else { Ok(()) }
}

/// Checks that each event arrived at most once, was wanted, and arrived in its shard's order. A replay may start again
/// at an earlier event.
fn once_and_in_order(seen: &[Seen], log: &Log) -> Checked {
    // Number of the replay in which each event arrived last. A client may request events again after it has
    // unsubscribed from them.
    let mut had = vec![0; log.entries.len()];
    let (mut replay, mut below) = (1, 0);
    let mut last = vec![None; log.by_shard.len()];
    let mut interest = &Interest::default();
    for item in seen {
        match item {
            Seen::Event(n) => {
                let entry = log.entry(*n);
                let before = std::mem::replace(&mut had[*n as usize], replay);
                if before == replay || (before > 0 && *n >= below) {
                    return Err(format!("event {n} came twice"));
                }
                if !interest.wants(entry) {
                    return Err(format!("event {n} was not wanted: {entry:?}, {interest:?}"));
                }
                let last = &mut last[usize::from(entry.id.shard)];
                if last.is_some_and(|last| last > *n) {
                    return Err(format!("event {n} came after {last:?}"));
                }
                *last = (*last).max(Some(*n));
            }
            Seen::Change { interest: new, from, high, .. } => {
                interest = new;
                if from.is_some() {
                    last.fill(None);
                    (replay, below) = (replay + 1, *high);
                }
            }
            Seen::Gap { .. } | Seen::UpTo(_) | Seen::PastEnd { .. } => {}
        }
    }
    Ok(())
}

/// Checks that a client that always catches up has no gap, provided that the log still has everything that its filters
/// match. `is_kept` returns whether it has it for a filter.
pub(super) fn nothing_is_lost(seen: &[Seen], shards: usize, is_kept: impl Fn(u8) -> bool) -> Checked {
    let mut catches_up = false;
    for item in seen {
        match item {
            Seen::Change { interest, from, .. } => {
                let is_safe = |(filter, policy): &(u8, Policy)| policy.catches_up() && is_kept(*filter);
                // An event names no place in the other shards once the ring has forgotten it.
                let reads_all = |past: &Past| match past.from {
                    From::After(_) => shards == 1,
                    From::Start => true,
                    _ => false,
                };
                catches_up = interest.0.iter().all(is_safe) && from.as_ref().is_none_or(reads_all);
            }
            Seen::Gap { .. } if catches_up => {
                return Err(format!("a gap for a client that catches up: {item:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks sums, for several shards: neither the order among shards nor the position of a gap is promised.
fn totals(seen: &[Seen], log: &Log, complete: bool) -> Checked {
    if !complete {
        return Ok(());
    }
    let (mut had, mut least, mut most) = (0, 0, 0);
    let mut interest = &Interest::default();
    // Earliest position of the last change in each shard, and its latest position in the whole log.
    let (mut since, mut before) = (Rc::from(vec![0; log.by_shard.len()]), 0);
    let mut add = |interest: &Interest, (since, before): (&[u64], u64), (cursors, high): (&[u64], u64)| {
        for (entry, n) in log.entries.iter().zip(0..high).filter(|(entry, _)| interest.wants(entry)) {
            let (shard, sequence) = (usize::from(entry.id.shard), entry.id.sequence);
            least += u64::from(n >= before && sequence < cursors[shard]);
            most += u64::from(sequence >= since[shard]);
        }
    };
    for item in seen {
        match item {
            Seen::Event(_) => had += 1,
            Seen::UpTo(_) | Seen::PastEnd { .. } => {}
            Seen::Gap { missed: Some(missed), .. } => had += missed,
            Seen::Gap { missed: None, .. } | Seen::Change { from: Some(_), .. } => return Ok(()),
            Seen::Change { interest: new, cursors, high, .. } => {
                add(interest, (&since, before), (cursors, *high));
                (interest, since, before) = (new, Rc::clone(cursors), *high);
            }
        }
        if interest.may_omit() {
            return Ok(());
        }
    }
    add(interest, (&since, before), (&vec![u64::MAX; log.by_shard.len()], log.len()));
    if (least..=most).contains(&had) {
        return Ok(());
    }
    Err(format!("{had} events came or were reported as missed, not {least} to {most}"))
}

/// Checks that a gap without an exact number has a correct upper bound.
fn bounds(seen: &[Seen], log: &Log) -> Checked {
    let mut interest = &Interest::default();
    // All events after `begun` belong to this interest, and all before `resumed` to the past that a resume requested.
    let (mut begun, mut resumed) = (0, 0);
    for item in seen {
        match item {
            Seen::Change { interest: new, from, low, high, .. } => {
                let is_resume = from.as_ref().is_some_and(Past::is_resume);
                (interest, begun, resumed) = (new, *high, if is_resume { *low } else { 0 });
            }
            Seen::Gap { missed: None, at_most: Some(most), from: Some(from), to: Some(to), .. }
                if !interest.may_omit() =>
            {
                let (Some(from), Some(to)) = (log.find(*from), log.find(*to)) else { continue };
                if from + 1 < begun && to >= resumed {
                    continue;
                }
                let wanted = log.sums(|entry| interest.wants(entry), &[]).between(from + 1, to + 1);
                if wanted > *most {
                    return Err(format!(
                        "at most {most} missed, reported for {wanted} after {from} up to {to}"
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that a client that allows events to be omitted has received the latest event of each key in the end, unless
/// it got a gap.
fn latest_came(seen: &[Seen], log: &Log) -> Checked {
    let begin = seen.iter().rposition(|item| matches!(item, Seen::Change { .. }));
    let Some((begin, Seen::Change { interest, high, .. })) = begin.map(|at| (at, &seen[at])) else {
        return Ok(());
    };
    let reported = &seen[begin..];
    if !interest.may_omit() || reported.iter().any(|item| matches!(item, Seen::Gap { .. })) {
        return Ok(());
    }
    let arrived: HashSet<u64> =
        seen.iter().filter_map(|item| if let Seen::Event(n) = item { Some(*n) } else { None }).collect();
    // Rates and keys of the events that arrived after the one that is checked.
    let (mut rates, mut keys) = (HashSet::new(), HashSet::new());
    for n in (*high..log.len()).rev() {
        let entry = log.entry(n);
        let least = interest.least(entry);
        if arrived.contains(&n) {
            if let Some(Policy::Sample(rate)) = least {
                rates.insert(rate);
            }
            if interest.wants(entry) {
                keys.insert(entry.key());
            }
            continue;
        }
        let is_excused = match least {
            None => true,
            // Another sample of the same rate arrived later.
            Some(Policy::Sample(rate)) => rates.contains(&rate),
            Some(Policy::Conflate) => keys.contains(&entry.key()),
            Some(_) => false,
        };
        if !is_excused {
            return Err(format!(
                "event {n} was left out, and no later event replaced it: {entry:?}, {interest:?}"
            ));
        }
    }
    Ok(())
}

/// Check for one shard: each hole between two events is reported at its position, with the exact number.
struct Walk<'a> {
    log: &'a Log,
    /// Possible positions of the connection, and for each the number of events that it may have missed since the last
    /// one that arrived.
    states: Vec<(u64, u64)>,
    interest: Interest,
}

/// Items between two events.
struct Between {
    reported: u64,
    excused: Vec<(u64, u64)>,
    /// Whether events may have been omitted without a gap.
    loose: bool,
}

impl Walk<'_> {
    fn run(mut self, seen: &[Seen], complete: bool) -> Checked {
        let mut rest = seen;
        loop {
            let end = rest.iter().position(|item| matches!(item, Seen::Event(_))).unwrap_or(rest.len());
            let between = self.pass(&rest[..end], end == rest.len())?;
            let Some(Seen::Event(n)) = rest.get(end) else {
                return if complete && !between.loose {
                    self.fits(self.log.len(), &between).map_err(|e| format!("at the end: {e}"))
                } else {
                    Ok(())
                };
            };
            self.fits(*n, &between).map_err(|error| format!("before event {n}: {error}"))?;
            self.states = vec![(n + 1, 0)];
            rest = &rest[end + 1..];
        }
    }

    /// Checks that the reported number equals the number of events before `to` that did not arrive.
    fn fits(&self, to: u64, between: &Between) -> Checked {
        let due = self.log.sums(|e| self.interest.wants(e), &between.excused);
        let short = |(from, short): &(u64, u64)| {
            (*from <= to || between.loose).then(|| short + due.between(*from, to))
        };
        self.accounts_for(between.reported, self.states.iter().map(short).collect(), between)
    }

    /// Checks that all events before `to` arrived or were reported as missed. A gap may also report events after `to`.
    fn arrived(&self, to: u64, reported: u64, between: &Between) -> Checked {
        let due = self.log.sums(|e| self.interest.wants(e), &between.excused);
        let is_reported =
            |(from, short): &(u64, u64)| *from <= to && short + due.between(*from, to) <= reported;
        if between.loose || self.states.iter().any(is_reported) {
            return Ok(());
        }
        Err(format!("{reported} reported as missed, from {:?}, for {:?}", self.states, self.interest))
    }

    /// Checks that the number reported as missed equals the number missed in one of the possible states.
    fn accounts_for(&self, reported: u64, shorts: Vec<Option<u64>>, between: &Between) -> Checked {
        let Between { excused, loose, .. } = between;
        // A gap with a number may cover events that a gap of unknown length covers too.
        let fits = |short: &u64| *short == reported || *loose || (!excused.is_empty() && *short < reported);
        if shorts.iter().flatten().any(fits) {
            return Ok(());
        }
        Err(format!(
            "{reported} reported as missed, {shorts:?} missed from {:?}, excused {excused:?}, for {:?}",
            self.states, self.interest
        ))
    }

    fn pass(&mut self, run: &[Seen], is_last: bool) -> Result<Between, String> {
        let mut between = Between { reported: 0, excused: Vec::new(), loose: self.interest.may_omit() };
        let mut reported_before = Vec::with_capacity(run.len());
        for item in run {
            reported_before.push(between.reported);
            match item {
                // A gap's number counts the events that this client wanted, in a replay too.
                Seen::Gap { missed: Some(missed), .. } => between.reported += missed,
                Seen::Gap { missed: None, from, to, .. } => {
                    let first = self.log.place(*from).map_or(0, |from| from + 1);
                    let end = self.log.place(*to).map_or(0, |to| to + 1);
                    between.excused.push((first, end));
                }
                _ => {}
            }
        }
        let mut settled = 0;
        for (item, reported_before) in run.iter().zip(reported_before) {
            // A reply that names an event before every possible position adds no information.
            if let Seen::UpTo(place) = item
                && self.states.iter().any(|(from, _)| *from <= place + 1)
            {
                self.arrived(place + 1, reported_before - settled, &between)
                    .map_err(|error| format!("before a reply that says all up to {place} came: {error}"))?;
            }
            let Seen::Change { interest, from, low, high, .. } = item else { continue };
            let due = self.log.sums(|e| self.interest.wants(e), &between.excused);
            // States with the same number of missed events since the beginning lead to equal states, so the first of
            // them is enough.
            let mut starts = BTreeMap::new();
            for (at, short) in &self.states {
                let first = starts.entry(*short as i64 - due.between(0, *at) as i64).or_insert(*at);
                *first = (*first).min(*at);
            }
            let mut next = Vec::new();
            for (short, at) in starts {
                let ends = (*low).max(at)..=*high;
                next.extend(ends.map(|to| (to, (short + due.between(0, to) as i64) as u64)));
            }
            if next.is_empty() {
                return Err(format!("an interest of {low} to {high} came after {:?}", self.states));
            }
            self.states = next;
            between.loose |= interest.may_omit();
            self.interest = interest.clone();
            match from.as_ref().map(|past| (past.from, past.is_resume())) {
                Some((From::After(id), true)) => {
                    // The connection had no interest until now, so everything before must balance here.
                    let shorts = self.states.iter().map(|(_, short)| Some(*short)).collect();
                    self.accounts_for(reported_before - settled, shorts, &between)
                        .map_err(|error| format!("before a resume: {error}"))?;
                    settled = reported_before;
                    self.states = vec![(id + 1, 0)];
                }
                Some((From::Unknown, _)) => {
                    let is_gap =
                        |item: &Seen| matches!(item, Seen::Gap { missed: None, recoverable: false, .. });
                    if !is_last && !run.iter().any(is_gap) {
                        return Err("a resume that can't be honoured, without a gap".to_owned());
                    }
                }
                _ => {}
            }
        }
        between.reported -= settled;
        Ok(between)
    }
}
