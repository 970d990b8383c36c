//! Interests that change, compared with a list of the events that each member wanted.

use super::*;

/// Returns random numbers below the one given, from a seed.
pub(super) fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |most| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % most
    }
}

/// Members change their interests in every way, in feeds of their own and in shared ones. Each receives exactly the
/// events that it wanted when they were published.
#[test]
fn each_member_gets_the_events_that_it_wanted_when_they_came() {
    const MEMBERS: usize = 4;
    for seed in 1..=40_u64 {
        let mut dice = dice(seed);
        let mut world = World { writes_through: seed % 2 == 0, ..World::new(1000) };
        let mut outboxes: Vec<Outbox> = (0..MEMBERS).map(|_| Outbox::default()).collect();
        let mut pipes: Vec<Pipe> = (0..MEMBERS).map(|_| Pipe::default()).collect();
        let mut wants = vec![std::collections::BTreeSet::<u64>::new(); MEMBERS];
        let mut pending_slices = vec![Vec::new(); MEMBERS];
        for _ in 0..400 {
            let member = dice(MEMBERS as u64) as usize;
            match dice(4) {
                0 => {
                    let mut changes = Vec::new();
                    let kinds: std::collections::BTreeSet<u64> = (0..=dice(4)).map(|_| dice(6)).collect();
                    for kind in kinds {
                        let was = wants[member].contains(&kind);
                        let to = !was || dice(4) == 0;
                        if to {
                            wants[member].insert(kind)
                        } else {
                            wants[member].remove(&kind)
                        };
                        let filter = Filter::new().types([format!("t{kind}")]);
                        changes.push(Change { filter, was, to: to.then_some(Conflation::None), from: None });
                    }
                    let conn = member as ConnIndex;
                    let (fanout, tally) = (&mut world.fanout, &mut world.tally);
                    let moved = outboxes[member].change(
                        fanout,
                        ENCODING,
                        LagPolicy::DropOldest,
                        &changes,
                        conn,
                        &mut OutboxContext::new(tally, &Still),
                    );
                    if let Some(MovedMember { conn, index }) = moved {
                        outboxes[conn as usize].set_member_index(index);
                    }
                    assert_eq!(outboxes[member].feed().is_some(), !wants[member].is_empty());
                }
                1 => {
                    pipes[member].room = if dice(3) == 0 { dice(200) as usize } else { usize::MAX / 2 };
                    world.seal();
                    world.flush(&mut outboxes[member], &mut pipes[member]);
                    pipes[member].room = 0;
                }
                _ => {
                    let kind = dice(6);
                    for (wants, pending_slices) in wants.iter().zip(&mut pending_slices) {
                        if wants.contains(&kind) {
                            pending_slices.push(world.published as i64);
                        }
                    }
                    world.publish(&format!("t{kind}"));
                    if dice(2) == 0 {
                        world.seal();
                    }
                }
            }
        }
        for member in 0..MEMBERS {
            world.seal();
            pipes[member].room = usize::MAX / 2;
            while !world.flush(&mut outboxes[member], &mut pipes[member]) {}
            assert_eq!(read(&pipes[member]), pending_slices[member], "seed {seed}, member {member}");
            let changes: Vec<Change> = (0..6)
                .map(|kind| Change {
                    filter: Filter::new().types([format!("t{kind}")]),
                    was: true,
                    to: None,
                    from: None,
                })
                .collect();
            let (fanout, tally) = (&mut world.fanout, &mut world.tally);
            let moved = outboxes[member].change(
                fanout,
                ENCODING,
                LagPolicy::DropOldest,
                &changes,
                member as ConnIndex,
                &mut OutboxContext::new(tally, &Still),
            );
            if let Some(MovedMember { conn, index }) = moved {
                outboxes[conn as usize].set_member_index(index);
            }
        }
        while world.fanout.sweep() {}
        assert_eq!(
            (world.metrics.feeds.get(), world.fanout.distinct()),
            (0, 0),
            "seed {seed}: nothing is left"
        );
    }
}

/// Members hold one list each, which is edited, alone or while other members hold an equal one. Each receives exactly
/// the events that were in its list when they were published.
#[test]
fn a_list_that_is_edited_gets_its_earlier_events() {
    const MEMBERS: usize = 3;
    let list = |held: &std::collections::BTreeSet<u64>| {
        Filter::new().types(held.iter().map(|kind| format!("t{kind}")))
    };
    let mut edited = 0;
    for seed in 1..=40_u64 {
        let mut dice = dice(seed);
        let mut world = World::new(1000);
        let mut outboxes: Vec<Outbox> = (0..MEMBERS).map(|_| Outbox::default()).collect();
        let mut pipes: Vec<Pipe> = (0..MEMBERS).map(|_| Pipe::default()).collect();
        let mut wants = vec![std::collections::BTreeSet::<u64>::new(); MEMBERS];
        let mut wanted = vec![Vec::new(); MEMBERS];
        for _ in 0..300 {
            let member = dice(MEMBERS as u64) as usize;
            if dice(3) == 0 {
                let before = wants[member].clone();
                (0..=dice(3)).for_each(|_| {
                    let kind = dice(5);
                    if !wants[member].remove(&kind) {
                        wants[member].insert(kind);
                    }
                });
                if wants[member].is_empty() || wants[member] == before {
                    wants[member] = before;
                    continue;
                }
                let from = (!before.is_empty()).then(|| list(&before));
                let change = Change {
                    filter: list(&wants[member]),
                    was: false,
                    to: Some(Conflation::None),
                    from: from.clone(),
                };
                let (fanout, tally) = (&mut world.fanout, &mut world.tally);
                let conn = member as ConnIndex;
                let cx = &mut OutboxContext::new(tally, &Still);
                let moved =
                    outboxes[member].change(fanout, ENCODING, LagPolicy::DropOldest, &[change], conn, cx);
                edited += u64::from(from.is_some() && fanout.take_rebuilt() == 0);
                if let Some(MovedMember { conn, index }) = moved {
                    outboxes[conn as usize].set_member_index(index);
                }
            } else if dice(4) == 0 {
                pipes[member].room = if dice(3) == 0 { dice(200) as usize } else { usize::MAX / 2 };
                world.seal();
                world.flush(&mut outboxes[member], &mut pipes[member]);
                pipes[member].room = 0;
            } else {
                let kind = dice(5);
                for (wants, wanted) in wants.iter().zip(&mut wanted) {
                    if wants.contains(&kind) {
                        wanted.push(world.published as i64);
                    }
                }
                world.publish(&format!("t{kind}"));
            }
        }
        for member in 0..MEMBERS {
            world.seal();
            pipes[member].room = usize::MAX / 2;
            while !world.flush(&mut outboxes[member], &mut pipes[member]) {}
            assert_eq!(read(&pipes[member]), wanted[member], "seed {seed}, member {member}");
            let (fanout, tally) = (&mut world.fanout, &mut world.tally);
            let moved = outboxes[member].leave(fanout, &mut OutboxContext::new(tally, &Still));
            if let Some(MovedMember { conn, index }) = moved {
                outboxes[conn as usize].set_member_index(index);
            }
        }
        while world.fanout.sweep() {}
        assert_eq!((world.metrics.feeds.get(), world.fanout.distinct()), (0, 0), "seed {seed}");
    }
    assert!(edited > 500, "{edited} were edited in place");
}

/// Members share a feed once their interests are equal, regardless of the order of their changes.
#[test]
fn members_whose_interests_become_equal_share_a_feed() {
    let mut world = World::new(100);
    let mut outboxes: Vec<Outbox> = (0..3).map(|_| Outbox::default()).collect();
    for (conn, order) in [[0, 1, 2], [2, 1, 0], [1, 2, 0]].into_iter().enumerate() {
        for kind in order {
            let filter = Filter::new().types([format!("t{kind}")]);
            let change = Change { filter, was: false, to: Some(Conflation::None), from: None };
            let (fanout, tally) = (&mut world.fanout, &mut world.tally);
            outboxes[conn].change(
                fanout,
                ENCODING,
                LagPolicy::DropOldest,
                &[change],
                conn as ConnIndex,
                &mut OutboxContext::new(tally, &Still),
            );
        }
    }
    assert!(outboxes.iter().all(|outbox| outbox.feed() == outboxes[0].feed()));
    assert_eq!((world.metrics.feeds.get(), world.fanout.distinct()), (1, 3));
}

/// A feed that has conflated reports the frames that it trimmed, and its member keeps its position. A change to another
/// policy reports none of them again, and drops no event that was waiting under the old policy.
#[test]
fn a_lag_policy_holds_for_the_events_after_the_change() {
    let mut world = World::new(8);
    let mut outbox = world.join_as(&[selection("", Conflation::LatestPerKey)], LagPolicy::DropOldest, 0);
    let mut pipe = Pipe::default();
    let change = |world: &mut World, outbox: &mut Outbox, lag_policy| {
        let every = Change { filter: Filter::new(), was: true, to: Some(Conflation::None), from: None };
        let cx = &mut OutboxContext::new(&mut world.tally, &Still);
        outbox.change(&mut world.fanout, ENCODING, lag_policy, &[every], 0, cx);
    };
    let publish = |world: &mut World, outbox: &Outbox, count| {
        for _ in 0..count {
            world.publish("a");
            world.fanout.seal(outbox.feed().expect("it has one"));
        }
    };
    // From here on no event may be left out; the feed stays the one that conflates.
    change(&mut world, &mut outbox, LagPolicy::DropOldest);
    publish(&mut world, &outbox, 1);
    assert_eq!(world.pass(&mut outbox, &mut pipe), Flushed::Blocked);
    publish(&mut world, &outbox, 19);
    assert_eq!(world.pass(&mut outbox, &mut pipe), Flushed::Blocked);
    publish(&mut world, &outbox, 3);
    change(&mut world, &mut outbox, LagPolicy::DropNewest);
    publish(&mut world, &outbox, 2);
    assert_eq!(world.pass(&mut outbox, &mut pipe), Flushed::Blocked);
    assert_eq!(world.difference(&[&outbox]), 0);
    pipe.room = usize::MAX / 2;
    assert_eq!(world.pass(&mut outbox, &mut pipe), Flushed::Done);
    let seen = read(&pipe);
    assert_eq!(seen[..10], [-12, -3, 15, 16, 17, 18, 19, 20, 21, 22], "{seen:?}");
    let missed: i64 = seen.iter().filter(|n| **n < 0).map(|n| -n).sum();
    let events = seen.iter().filter(|n| **n >= 0).count() as i64;
    assert_eq!((missed + events, world.tally.dropped as i64), (25, missed), "{seen:?}");
}
