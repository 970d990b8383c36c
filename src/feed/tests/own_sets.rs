//! Members with overlapping sets of their own: written through, slow, and changing.

use super::changes::dice;
use super::*;

/// A member, its policy, the kinds that it wants, and the numbers of the events that it wanted when they were
/// published.
struct Watcher {
    outbox: Outbox,
    lag_policy: LagPolicy,
    pipe: Pipe,
    wants: std::collections::BTreeSet<u64>,
    wanted: Vec<i64>,
}

impl Watcher {
    fn new(lag_policy: LagPolicy) -> Self {
        Self {
            outbox: Outbox::default(),
            lag_policy,
            pipe: Pipe::default(),
            wants: std::collections::BTreeSet::new(),
            wanted: Vec::new(),
        }
    }
}

/// Adds or removes kinds. Updates the index of the member that moved.
fn change(world: &mut World, watchers: &mut [Watcher], which: usize, kinds: &[u64]) {
    let Watcher { outbox, lag_policy, wants, .. } = &mut watchers[which];
    let mut changes = Vec::new();
    for kind in kinds {
        let was = !wants.insert(*kind);
        if was {
            wants.remove(kind);
        }
        let filter = Filter::new().types([format!("t{kind}")]);
        changes.push(Change { filter, was, to: (!was).then_some(Conflation::None), from: None });
    }
    let mut cx = OutboxContext::new(&mut world.tally, &Still);
    let moved =
        outbox.change(&mut world.fanout, ENCODING, *lag_policy, &changes, which as ConnIndex, &mut cx);
    if let Some(MovedMember { conn, index }) = moved {
        watchers[conn as usize].outbox.set_member_index(index);
    }
}

/// Writes to a member as a loop does. Returns whether everything is written.
fn write(world: &mut World, Watcher { outbox, pipe, .. }: &mut Watcher) -> bool {
    let is_done = world.pass(outbox, pipe) == Flushed::Done;
    if let Some(feed) = outbox.feed().filter(|feed| is_done && world.fanout.feed(*feed).members().len() == 1)
    {
        world.fanout.forget_written(feed);
    }
    is_done
}

/// Each member receives exactly the events that it wanted, in order, or a gap notice in the place of the missing ones,
/// with their number. This holds however its socket accepts bytes, however its set changes, and whether it is written
/// through or from blocks.
#[test]
fn overlapping_sets_that_change_get_their_events_or_exact_gaps() {
    const KINDS: u64 = 12;
    for seed in 1..=60_u64 {
        let mut dice = dice(seed);
        let mut world = World { writes_through: seed % 3 != 0, ..World::new(8) };
        world.fanout.share_frames(seed % 5 == 0);
        let policy = |nth: u64| if nth % 3 == 2 { LagPolicy::DropNewest } else { LagPolicy::DropOldest };
        let mut watchers: Vec<Watcher> = (0..6).map(|nth| Watcher::new(policy(nth))).collect();
        for _ in 0..400 {
            let which = dice(watchers.len() as u64) as usize;
            match dice(8) {
                0 => {
                    let kinds: std::collections::BTreeSet<u64> = (0..=dice(3)).map(|_| dice(KINDS)).collect();
                    change(&mut world, &mut watchers, which, &kinds.into_iter().collect::<Vec<_>>());
                }
                1 => watchers[which].pipe.room = [0, 1, 60, 400, usize::MAX / 2][dice(5) as usize],
                2 | 3 => {
                    world.seal();
                    // Writes all members as a loop does, each as far as its socket accepts bytes.
                    for watcher in &mut watchers {
                        write(&mut world, watcher);
                    }
                }
                _ => {
                    let kind = dice(KINDS);
                    let large = if dice(30) == 0 { "x".repeat(MERGE_FRAME_BYTES_MAX) } else { String::new() };
                    for Watcher { wanted, .. } in watchers.iter_mut().filter(|w| w.wants.contains(&kind)) {
                        wanted.push(world.published as i64);
                    }
                    world.publish_with(&format!("t{kind}"), &large);
                }
            }
            let outboxes: Vec<&Outbox> = watchers.iter().map(|watcher| &watcher.outbox).collect();
            assert_eq!(world.difference(&outboxes), 0, "seed {seed}");
        }
        world.seal();
        for (which, watcher) in watchers.iter_mut().enumerate() {
            watcher.pipe.room = usize::MAX / 2;
            while !write(&mut world, watcher) {}
            let Watcher { pipe, wanted, .. } = watcher;
            let mut at = 0;
            for n in read(pipe) {
                if n < 0 {
                    at += n.unsigned_abs() as usize;
                    continue;
                }
                assert_eq!(Some(&n), wanted.get(at), "seed {seed}, member {which}");
                at += 1;
            }
            assert_eq!(at, wanted.len(), "seed {seed}, member {which}: seen and missed are everything");
        }
        let retains = |watcher: &Watcher| {
            let feed = watcher.outbox.feed().map(|feed| world.fanout.feed(feed));
            feed.is_some_and(|feed| feed.members().len() == 1 && feed.bytes() > 0)
        };
        assert!(
            !watchers.iter().any(retains),
            "seed {seed}: a lone member that has everything leaves nothing"
        );
    }
}

/// A lone member that keeps up leaves no block, no copy and no list in its feed.
#[test]
fn a_lone_member_that_keeps_up_leaves_nothing_in_its_feed() {
    let mut world = World::new(1000);
    let mut outboxes: Vec<Outbox> =
        (0..50).map(|n| world.join(&format!("type=t{n},u{}", n % 7), n)).collect();
    for burst in 1..20_u64 {
        for n in 0..burst * 10 {
            world.publish(&if n % 3 == 0 { format!("u{}", n % 7) } else { format!("t{}", n % 50) });
        }
        world.seal();
        for outbox in &mut outboxes {
            let mut pipe = Pipe { room: usize::MAX, ..Pipe::default() };
            assert!(world.flush(outbox, &mut pipe));
            assert!(pipe.writes <= 1, "one write for a burst");
        }
        assert_eq!((world.fanout.feeds_bytes(), world.fanout.retained_bytes()), (0, 0), "after {burst}");
    }
    let outboxes: Vec<&Outbox> = outboxes.iter().collect();
    assert_eq!((world.difference(&outboxes), world.tally.dropped), (0, 0));
}

/// Measures the memory of a loop's tables per client with an interest of its own, as the slope between two sizes.
#[test]
fn a_private_interest_costs_few_bytes() {
    let bytes = |clients: u32, filter: &dyn Fn(u32) -> Filter| {
        let mut world = World::new(1000);
        for conn in 0..clients {
            let mut outbox = Outbox::default();
            outbox.join(&mut world.fanout, ENCODING, &[filter(conn).into()], conn);
        }
        world.fanout.table_bytes()
    };
    let slope = |filter: &dyn Fn(u32) -> Filter| (bytes(4096, filter) - bytes(2048, filter)) / 2048;
    let channel = slope(&|conn| Filter::new().channels([format!("user-{conn:05}")]));
    assert!(channel <= 300, "{channel} bytes for each client with a channel of its own");
    let watches = slope(&|conn| {
        Filter::new().entities((0..100).map(|n| ("symbol", format!("S{:03}", (conn * 37 + n * 11) % 1000))))
    });
    println!("{channel} bytes of tables for a channel of one's own, {watches} for 100 of 1,000 symbols");
    assert!(watches <= 2600, "{watches} bytes for each client with 100 of 1,000 symbols");
}
