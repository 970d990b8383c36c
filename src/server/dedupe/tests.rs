//! The table of names against a list, and its limits.

use super::table::{Claimed, Name, NameTable, TableLimits};
use super::*;
use crate::event::EventId;
use crate::sync::atomic::{AtomicUsize, Ordering};

const LIMITS: TableLimits = TableLimits { window: 100, names: 1000, bytes: 1 << 20 };

fn event_id(sequence: u64) -> EventId {
    EventId { epoch: 1, shard: 0, sequence }
}

/// Returns the ids of a publication of one event.
fn id(sequence: u64) -> AcceptedIds {
    ids(sequence, sequence)
}

fn ids(first: u64, last: u64) -> AcceptedIds {
    AcceptedIds { first: Some(event_id(first)), last: Some(event_id(last)) }
}

fn events(ids: &[&str]) -> Vec<Option<Name>> {
    ids.iter().map(|id| (!id.is_empty()).then(|| Name::of_event("", id))).collect()
}

fn nobody() -> SettledCallback {
    Box::new(|| {})
}

fn claim(table: &mut NameTable, now: Tick, ids: &[&str]) -> Claimed {
    table.claim(now, None, events(ids), Some(nobody))
}

fn claimed_names(claimed: Claimed) -> (Vec<Name>, u64, Vec<bool>) {
    match claimed {
        Claimed::Names { names, number, fresh } => (names, number, fresh.is_fresh),
        Claimed::Answered(answered) => panic!("{answered:?}"),
        Claimed::Waits => panic!("it waits"),
    }
}

fn answered(claimed: Claimed) -> Answered {
    match claimed {
        Claimed::Answered(answered) => answered,
        Claimed::Names { names, .. } => panic!("it claims {names:?}"),
        Claimed::Waits => panic!("it waits"),
    }
}

#[test]
fn an_accepted_id_is_known_for_the_window_and_no_longer() {
    let mut table = NameTable::new(LIMITS);
    let (claimed, number, fresh) = claimed_names(claim(&mut table, 5, &["a", "", "a"]));
    assert_eq!(fresh, [true, true, false], "the second of the same id is a duplicate");
    table.settle(&claimed, number, Settled::Accepted(id(7)));
    assert_eq!(answered(claim(&mut table, 104, &["a"])), Answered::Accepted(id(7)));
    let (_, _, fresh) = claimed_names(claim(&mut table, 104, &["a", "b"]));
    assert_eq!(fresh, [false, true]);
    let (_, _, fresh) = claimed_names(claim(&mut table, 105, &["a"]));
    assert_eq!(fresh, [true]);
}

/// Claims a key for a request of this many events. Returns which of them are new.
fn claim_key(table: &mut NameTable, digest: u64, count: usize) -> Result<Claim, Answered> {
    let key = (Name::of_request("", "k"), digest);
    match table.claim(0, Some(key), vec![None; count], Some(nobody)) {
        Claimed::Names { names, number, fresh } => Ok((names, number, fresh.is_fresh)),
        Claimed::Answered(answered) => Err(answered),
        Claimed::Waits => panic!("it waits"),
    }
}

type Claim = (Vec<Name>, u64, Vec<bool>);

#[test]
fn a_repeated_key_publishes_the_events_that_the_log_lacks() {
    let mut table = NameTable::new(LIMITS);
    let key = Name::of_request("", "k");
    let part = |table: &mut NameTable, at| {
        let (name, number) = Name::read_part(&key.part(at)).expect("a part");
        table.learn_part(0, (name, 7), number, event_id(at as u64), 0);
    };
    // In any order, because a publication may be in several shards.
    for at in [2, 0, 2, 99] {
        part(&mut table, at);
    }
    let (claimed, number, fresh) = claim_key(&mut table, 7, 4).expect("it is completed");
    assert_eq!(fresh, [false, true, false, true]);
    // The publication is refused, and meanwhile another event was read.
    part(&mut table, 1);
    table.settle(&claimed, number, Settled::Refused);
    // As a successor knows it.
    let mut successor = NameTable::new(LIMITS);
    successor.restore(table.save());
    let (claimed, number, fresh) = claim_key(&mut successor, 7, 4).expect("it is completed");
    assert_eq!(fresh, [false, false, false, true]);
    successor.settle(&claimed, number, Settled::Accepted(id(9)));
    assert_eq!(claim_key(&mut successor, 7, 4), Err(Answered::Accepted(id(9))));
    part(&mut successor, 3);
    let bytes = successor.held_bytes();
    assert_eq!(bytes, {
        let mut one = NameTable::new(LIMITS);
        one.learn(0, key.clone(), 7, event_id(9), 0);
        one.held_bytes()
    });
    // Another request under the name of one that was refused in part is a new one.
    assert_eq!(claim_key(&mut table, 8, 2).map(|(.., fresh)| fresh), Ok(vec![true; 2]));
}

#[test]
fn the_last_event_of_a_request_completes_its_key() {
    let mut table = NameTable::new(LIMITS);
    let once = PublishOnce { scope: "s".into(), key: Some(("k".into(), 7)), waits: 0 };
    let stamps = [(Some(0), false), (Some(1), true)].map(|(part, is_last)| {
        let stamp = once.stamp(None, part, is_last, Timestamp(0)).expect("it has names");
        serde_json::from_str::<OnceStamp>(&stamp).expect("a stamp").names
    });
    let names = |at: usize| stamps[at].iter().map(|(name, _)| &**name).collect::<Vec<_>>();
    assert_eq!([names(0), names(1)], [vec!["p0/r1:sk"], vec!["p1/r1:sk", "r1:sk"]]);
    let own = once.stamp(Some("own"), Some(0), false, Timestamp(0)).expect("it has a name");
    assert!(own.contains(r#"[["e1:sown",0]]"#), "{own}");
    assert_eq!(once.stamp(None, None, false, Timestamp(0)), None);
    let request = Some((Name::of_request("s", "k"), 7));
    let (claimed, number, _) = claimed_names(table.claim(0, request, vec![None; 2], Some(nobody)));
    let dedupe = Dedupe(Arc::new(Mutex::new(table)));
    for at in 0..2 {
        let stamp = once.stamp(None, Some(at), at == 1, Timestamp(0)).expect("it has names");
        dedupe.learn((0, Timestamp(0)), &stamp, event_id(at as u64));
    }
    lock(&dedupe.0).settle(&claimed, number, Settled::Uncertain);
    let outcome = dedupe.claim(0, &once, [None, None].into_iter(), Some(nobody));
    let ClaimOutcome::Answered(Answered::Accepted(ids)) = outcome else { panic!("it was accepted") };
    assert_eq!(ids.last, Some(event_id(1)));
}

#[test]
fn a_refused_publication_leaves_nothing_and_an_uncertain_one_its_doubt() {
    let mut table = NameTable::new(LIMITS);
    let (claimed, number, _) = claimed_names(claim(&mut table, 0, &["a"]));
    table.settle(&claimed, number, Settled::Refused);
    assert_eq!((table.counts().0, table.held_bytes()), (0, 0));
    let (claimed, number, _) = claimed_names(claim(&mut table, 0, &["a"]));
    table.settle(&claimed, number, Settled::Uncertain);
    assert_eq!(answered(claim(&mut table, 1, &["b", "a"])), Answered::Uncertain);
}

#[test]
fn a_publication_waits_for_one_in_flight_and_then_has_its_answer() {
    let table = Dedupe::default();
    table.configure(&DedupeConfig::default());
    let once = || PublishOnce { scope: "s".into(), key: Some(("k".into(), 1)), waits: 0 };
    let ClaimOutcome::Publish(first, _) = table.claim(0, &once(), [None].into_iter(), Some(nobody)) else {
        panic!("it is new")
    };
    let called = Arc::new(AtomicUsize::new(0));
    let waiter = || -> SettledCallback {
        let called = Arc::clone(&called);
        Box::new(move || {
            called.fetch_add(1, Ordering::Relaxed);
        })
    };
    for _ in 0..2 {
        assert!(matches!(table.claim(0, &once(), [None].into_iter(), Some(waiter)), ClaimOutcome::Waits));
    }
    assert_eq!(called.load(Ordering::Relaxed), 0);
    assert!(table.held_bytes() > 2 * 192, "the waiters are counted");
    first.settle(Settled::Accepted(id(3)));
    assert_eq!(called.load(Ordering::Relaxed), 2);
    let again = |once: PublishOnce| match table.claim(1, &once, [None].into_iter(), Some(nobody)) {
        ClaimOutcome::Answered(answered) => Some(answered),
        ClaimOutcome::Publish(..) | ClaimOutcome::Waits => None,
    };
    assert_eq!(again(once()), Some(Answered::Accepted(id(3))));
    let other = PublishOnce { key: Some(("k".into(), 2)), ..once() };
    assert_eq!(again(other), Some(Answered::OtherBody));
    let other = PublishOnce { scope: "sk".into(), key: Some(("".into(), 1)), waits: 0 };
    assert_eq!(again(other), None, "another subject's key");
}

#[test]
fn a_claim_that_is_dropped_is_uncertain() {
    let table = Dedupe::default();
    table.configure(&DedupeConfig::default());
    let once = PublishOnce { scope: "".into(), key: Some(("k".into(), 1)), waits: 0 };
    drop(table.claim(0, &once, [None].into_iter(), Some(nobody)));
    let claim = table.claim(0, &once, [None].into_iter(), Some(nobody));
    assert!(matches!(claim, ClaimOutcome::Answered(Answered::Uncertain)));
}

#[test]
fn events_read_from_the_log_settle_uncertain_outcomes() {
    let mut table = NameTable::new(LIMITS);
    let name = |id| Name::of_event("", id);
    // The event is read from the log before the answer is lost, and after it.
    for (text, is_seen_first) in [("a", true), ("b", false)] {
        let (claimed, number, _) = claimed_names(claim(&mut table, 10, &[text]));
        if is_seen_first {
            table.learn(10, name(text), 0, event_id(4), 0);
        }
        table.settle(&claimed, number, Settled::Uncertain);
        if !is_seen_first {
            assert_eq!(answered(claim(&mut table, 10, &[text])), Answered::Uncertain);
            table.learn(11, name(text), 0, event_id(4), 0);
        }
        assert_eq!(answered(claim(&mut table, 12, &[text])), Answered::Accepted(id(4)));
    }
    // A name of another node, and an own one, which keeps its first answer.
    table.learn(20, name("c"), 0, event_id(5), 30);
    assert_eq!(answered(claim(&mut table, 89, &["c"])), Answered::Accepted(id(5)));
    table.learn(89, name("c"), 0, event_id(6), 0);
    assert_eq!(answered(claim(&mut table, 89, &["c"])), Answered::Accepted(id(5)));
    claimed_names(claim(&mut table, 90, &["c"]));
    table.learn(200, name("old"), 0, event_id(7), 100);
    claimed_names(claim(&mut table, 200, &["old"]));
}

#[test]
fn a_publication_that_is_refused_in_part_leaves_the_names_of_what_stays() {
    let mut table = NameTable::new(LIMITS);
    let key = || Some((Name::of_request("", "k"), 7));
    let claimed = table.claim(0, key(), events(&["a", "b"]), Some(nobody));
    let (claims, number, _) = claimed_names(claimed);
    table.learn(0, Name::of_event("", "a"), 0, event_id(5), 0);
    table.settle(&claims, number, Settled::Refused);
    let (_, _, fresh) = claimed_names(table.claim(0, key(), events(&["a", "b"]), Some(nobody)));
    assert_eq!(fresh, [false, true]);
    assert_eq!(answered(claim(&mut table, 0, &["a"])), Answered::Accepted(id(5)));
}

#[test]
fn waiters_are_limited() {
    let mut table = NameTable::new(LIMITS);
    let (claimed, number, _) = claimed_names(claim(&mut table, 0, &["a"]));
    let mut waiting = 0;
    while matches!(claim(&mut table, 0, &["a"]), Claimed::Waits) {
        waiting += 1;
    }
    assert_eq!(waiting, 1024);
    assert_eq!(answered(claim(&mut table, 0, &["a"])), Answered::Busy);
    assert_eq!(table.settle(&claimed, number, Settled::Refused).len(), 1024);
    assert_eq!(table.held_bytes(), 0);
}

#[test]
fn the_oldest_are_forgotten_first_when_there_are_too_many() {
    let mut table = NameTable::new(LIMITS);
    table.limits.names = 10;
    for n in 0..25 {
        let ids = events(&[&n.to_string()]);
        let (claimed, number, _) = claimed_names(table.claim(n, None, ids, Some(nobody)));
        table.settle(&claimed, number, Settled::Accepted(id(n)));
        assert!(table.counts().0 <= 10);
    }
    assert_eq!(table.counts(), (10, 15));
    table.limits.bytes = 500;
    let (claimed, number, _) = claimed_names(table.claim(25, None, events(&["x"]), Some(nobody)));
    table.settle(&claimed, number, Settled::Refused);
    assert!(table.held_bytes() <= 500, "{}", table.held_bytes());
    assert_eq!(answered(claim(&mut table, 25, &["24"])), Answered::Accepted(id(24)));
}

#[test]
fn a_successor_knows_the_outcomes_and_their_age() {
    let mut table = NameTable::new(LIMITS);
    for (at, outcome) in [
        (0, Settled::Accepted(id(1))),
        (50, Settled::Uncertain),
        (60, Settled::Accepted(AcceptedIds::default())),
    ] {
        let (claimed, number, _) = claimed_names(claim(&mut table, at, &[&at.to_string()]));
        table.settle(&claimed, number, outcome);
    }
    let (_in_flight, _, _) = claimed_names(claim(&mut table, 70, &["in flight"]));
    let saved = serde_json::to_string(&table.save()).expect("JSON");
    let mut next = NameTable::new(LIMITS);
    next.restore(serde_json::from_str(&saved).expect("what was written"));
    let mut known = |now, id| match claim(&mut next, now, &[id]) {
        Claimed::Answered(answered) => Some(answered),
        _ => None,
    };
    assert_eq!(known(0, "0"), Some(Answered::Accepted(id(1))));
    assert_eq!(known(0, "60"), Some(Answered::Accepted(AcceptedIds::default())));
    assert_eq!(known(29, "0"), Some(Answered::Accepted(id(1))), "99 ticks old");
    assert_eq!(known(30, "0"), None, "100 ticks old");
    assert_eq!(known(79, "50"), Some(Answered::Uncertain));
    assert_eq!(known(99, "in flight"), Some(Answered::Uncertain));
    assert_eq!(known(100, "in flight"), None);
}

/// A publication of several events has the ids of its first and its last, by its key and by its events' names, also after a handover.
/// In the log a request's name stands at its last event, so what is read there has no first id.
#[test]
fn a_publication_is_known_from_its_first_to_its_last_event() {
    let key = || Some((Name::of_request("", "k"), 7));
    let mut table = NameTable::new(LIMITS);
    let (claimed, number, _) = claimed_names(table.claim(0, key(), events(&["a", "b"]), Some(nobody)));
    table.settle(&claimed, number, Settled::Accepted(ids(3, 5)));
    let saved = serde_json::to_string(&table.save()).expect("JSON");
    let mut next = NameTable::new(LIMITS);
    next.restore(serde_json::from_str(&saved).expect("what was written"));
    for table in [&mut table, &mut next] {
        assert_eq!(
            answered(table.claim(1, key(), events(&["", ""]), Some(nobody))),
            Answered::Accepted(ids(3, 5))
        );
        assert_eq!(answered(claim(table, 1, &["a", "b"])), Answered::Accepted(ids(3, 5)));
    }
    // As an earlier version saved it.
    let mut next = NameTable::new(LIMITS);
    next.restore(
        serde_json::from_str(r#"[{"name":"r0:k","digest":7,"age":0,"id":"1-5"}]"#).expect("what was written"),
    );
    let last = Some(event_id(5));
    let claimed = next.claim(1, key(), events(&[""]), Some(nobody));
    assert!(matches!(answered(claimed), Answered::Accepted(AcceptedIds { first: None, last: Some(_) })));
    let mut read = NameTable::new(LIMITS);
    for (id, sequence) in [("a", 3), ("b", 5)] {
        read.learn(0, Name::of_event("", id), 0, event_id(sequence), 0);
    }
    read.learn(0, Name::of_request("", "k"), 7, event_id(5), 0);
    assert_eq!(answered(claim(&mut read, 1, &["a", "b"])), Answered::Accepted(ids(3, 5)));
    let claimed = read.claim(1, key(), events(&["", ""]), Some(nobody));
    assert_eq!(answered(claimed), Answered::Accepted(AcceptedIds { first: None, last }));
}

/// Random publications, compared with a list that is searched from its end.
#[test]
fn the_table_agrees_with_a_list() {
    #[derive(Clone, Copy, Debug)]
    enum Is {
        InFlight,
        Settled(Settled, Tick),
    }
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut dice = move |sides: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % sides
    };
    let mut table = NameTable::new(LIMITS);
    let mut list: Vec<(Name, u64, u64, Is)> = Vec::new();
    let mut open: Vec<(Vec<Name>, u64)> = Vec::new();
    let mut now = 0;
    for step in 0..20_000u64 {
        now += dice(4);
        if dice(3) == 0 && !open.is_empty() {
            let at = dice(open.len() as u64) as usize;
            let (names, number) = open.swap_remove(at);
            let outcome =
                [Settled::Accepted(id(step)), Settled::Refused, Settled::Uncertain][dice(3) as usize];
            table.settle(&names, number, outcome);
            // The table's time is that of the last claim.
            let at = table.now;
            for row in list.iter_mut().filter(|row| row.2 == number) {
                row.3 = Is::Settled(outcome, at);
            }
            continue;
        }
        let find = |list: &[(Name, u64, u64, Is)], name: &Name| {
            let row = list.iter().rev().find(|row| row.0 == *name)?;
            match row.3 {
                Is::Settled(Settled::Refused, _) => None,
                Is::Settled(_, at) if table::BEGIN + now >= at + LIMITS.window => None,
                is => Some((row.1, is)),
            }
        };
        let key = (dice(3) == 0).then(|| (Name::of_request("", &dice(40).to_string()), dice(2)));
        let ids: Vec<Option<Name>> =
            (0..dice(4)).map(|_| (dice(5) > 0).then(|| Name::of_event("", &dice(40).to_string()))).collect();
        let claimed = table.claim(now, key.clone(), ids.clone(), Some(nobody));
        let known: Vec<_> = ids.iter().map(|name| name.as_ref().and_then(|name| find(&list, name))).collect();
        let any = |wanted: fn(&Is) -> bool| known.iter().flatten().any(|(_, is)| wanted(is));
        let expected = match key.as_ref().and_then(|(name, digest)| Some((find(&list, name)?, *digest))) {
            Some(((known, _), digest)) if known != digest => "other body",
            Some(((_, Is::InFlight), _)) => "waits",
            Some(((_, Is::Settled(Settled::Uncertain, _)), _)) => "uncertain",
            Some(_) => "accepted",
            None if any(|is| matches!(is, Is::Settled(Settled::Uncertain, _))) => "uncertain",
            None if any(|is| matches!(is, Is::InFlight)) => "waits",
            None if key.is_none() && !known.is_empty() && known.iter().all(Option::is_some) => "accepted",
            None => "names",
        };
        let found = match &claimed {
            Claimed::Names { .. } => "names",
            Claimed::Waits => "waits",
            Claimed::Answered(Answered::Accepted(_)) => "accepted",
            Claimed::Answered(Answered::Uncertain) => "uncertain",
            Claimed::Answered(Answered::OtherBody) => "other body",
            Claimed::Answered(Answered::Busy) => "busy",
        };
        // A waiter is forgotten with its claim, and these claims may stay open for a long time.
        assert!(found == expected || (found == "busy" && expected == "waits"), "step {step}: {found}");
        if let Claimed::Names { names, number, fresh } = claimed {
            for (at, name) in ids.iter().enumerate() {
                let is_repeated = name.is_some() && ids[..at].contains(name);
                assert_eq!(fresh.is_fresh[at], known[at].is_none() && !is_repeated, "step {step}");
            }
            for name in &names {
                let digest = key.as_ref().filter(|key| key.0 == *name).map_or(0, |key| key.1);
                list.push((name.clone(), digest, number, Is::InFlight));
            }
            if !names.is_empty() {
                open.push((names, number));
            }
        }
    }
    let in_flight: usize = open.iter().map(|(names, _)| names.len()).sum();
    assert!(table.entries.len() <= in_flight + 80, "what is over is forgotten");
}
