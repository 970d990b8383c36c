//! The eventcount under the ring.

use loom::sync::Arc;
use loom::thread;

use crate::bus::park::Wake;
use crate::bus::ring::{Core, Peek, Plain, Reader};

type Ring = Arc<Core<Plain<u64>>>;

fn ring() -> Ring {
    Arc::new(Core::new(1, 2))
}

/// Sleeps until sequence `next` can be read or the bus is closed. Answers how often it lay down.
fn wait(reader: &Reader<Plain<u64>>, next: u64) -> u64 {
    let mut sleeps = 0;
    loop {
        let ready = || reader.core().rings()[0].peek(next) != Peek::NotYet || reader.core().is_closed();
        if ready() {
            return sleeps;
        }
        sleeps += 1;
        reader.announce(Wake::Thread(thread::current()));
        if !ready() {
            thread::park();
        }
        reader.awake();
    }
}

#[test]
fn no_event_is_slept_through() {
    loom::model(|| {
        let core = ring();
        let reader = Reader::new(Arc::clone(&core));
        let publisher = thread::spawn(move || {
            core.publish_plain(0, 1, |_, _| {});
        });
        wait(&reader, 0);
        publisher.join().unwrap();
    });
}

#[test]
fn two_sleepers_are_both_woken() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let core = ring();
        let sleepers: Vec<_> = (0..2)
            .map(|_| {
                let core = Arc::clone(&core);
                // They join at the same time: each has a seat of its own.
                thread::spawn(move || wait(&Reader::new(core), 0))
            })
            .collect();
        core.publish_plain(0, 1, |_, _| {});
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn two_publishers_wake_a_sleeper_once_for_one_sleep() {
    loom::model(|| {
        let core = ring();
        let reader = Reader::new(Arc::clone(&core));
        let publish = || {
            let core = Arc::clone(&core);
            thread::spawn(move || {
                core.publish_plain(0, 1, |_, _| {});
            })
        };
        let publishers = [publish(), publish()];
        let sleeps = wait(&reader, 1);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        assert!(core.wakes() <= sleeps, "{} wakes for {sleeps} sleeps", core.wakes());
    });
}

#[test]
fn the_end_is_not_slept_through() {
    loom::model(|| {
        let core = ring();
        let reader = Reader::new(Arc::clone(&core));
        let closer = thread::spawn(move || core.close());
        wait(&reader, 0);
        closer.join().unwrap();
    });
}
