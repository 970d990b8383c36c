//! The eventcount under the ring.

use loom::sync::Arc;
use loom::thread;

use crate::bus::event_count::Wake;
use crate::bus::ring::{Inline, Peek, RingReader, RingSet};
use crate::bus::waitable::{AnyOf, Waitable};

type Ring = Arc<RingSet<Inline<u64>>>;

fn ring() -> Ring {
    Arc::new(RingSet::new(1, 2))
}

/// Sleeps until sequence `next` can be read or the bus is closed, and returns the number of sleeps.
fn wait(reader: &RingReader<Inline<u64>>, next: u64) -> u64 {
    let mut sleeps = 0;
    loop {
        let ready = || reader.rings().shards()[0].peek(next) != Peek::NotYet || reader.rings().is_closed();
        if ready() {
            return sleeps;
        }
        sleeps += 1;
        reader.prepare_sleep(Wake::Thread(thread::current()));
        if !ready() {
            thread::park();
        }
        reader.cancel_sleep();
    }
}

#[test]
fn no_event_is_slept_through() {
    loom::model(|| {
        let rings = ring();
        let reader = RingReader::new(Arc::clone(&rings));
        let publisher = thread::spawn(move || {
            rings.publish_inline(0, 1, |_, _| {}).expect("open");
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
        let rings = ring();
        let event_count: Vec<_> = (0..2)
            .map(|_| {
                let rings = Arc::clone(&rings);
                // The threads join at the same time: each has a participant of its own.
                thread::spawn(move || wait(&RingReader::new(rings), 0))
            })
            .collect();
        rings.publish_inline(0, 1, |_, _| {}).expect("open");
        for sleeper in event_count {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn two_publishers_wake_a_sleeper_once_for_one_sleep() {
    loom::model(|| {
        let rings = ring();
        let reader = RingReader::new(Arc::clone(&rings));
        let publish = || {
            let rings = Arc::clone(&rings);
            thread::spawn(move || {
                rings.publish_inline(0, 1, |_, _| {}).expect("open");
            })
        };
        let publishers = [publish(), publish()];
        let sleeps = wait(&reader, 1);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        assert!(rings.wakes() <= sleeps, "{} wakes for {sleeps} sleeps", rings.wakes());
    });
}

#[test]
fn the_end_is_not_slept_through() {
    loom::model(|| {
        let rings = ring();
        let reader = RingReader::new(Arc::clone(&rings));
        let closer = thread::spawn(move || rings.close());
        wait(&reader, 0);
        closer.join().unwrap();
    });
}

/// Reads until the bus is closed and everything was read, and returns the number of sequences read or passed over.
fn read_to_end(reader: &mut RingReader<Inline<u64>>) -> u64 {
    let mut next = 0;
    loop {
        let rings = Arc::clone(reader.rings());
        let ring = &rings.shards()[0];
        let is_over = || rings.is_closed() && next >= ring.end();
        let ready = || ring.peek(next) != Peek::NotYet || ring.skip(next).is_some() || is_over();
        if !ready() {
            reader.prepare_sleep(Wake::Thread(thread::current()));
            if !ready() {
                thread::park();
            }
            reader.cancel_sleep();
        } else if is_over() {
            return next;
        } else {
            match ring.peek(next) {
                Peek::Ready => _ = reader.visit(0, &mut next, |_| true),
                Peek::Lapped => next = ring.resume(next),
                Peek::NotYet => next = ring.skip(next).unwrap_or(next),
            }
        }
    }
}

#[test]
fn an_event_that_is_published_while_the_bus_is_closed_is_not_slept_through() {
    loom::model(|| {
        let rings = ring();
        let mut reader = RingReader::new(Arc::clone(&rings));
        let publisher = {
            let rings = Arc::clone(&rings);
            thread::spawn(move || rings.publish_inline(0, 1, |_, _| {}).is_ok())
        };
        let closer = thread::spawn(move || rings.close());
        let read = read_to_end(&mut reader);
        closer.join().unwrap();
        assert_eq!(read, u64::from(publisher.join().unwrap()));
    });
}

/// As an event loop sleeps: an announcement stands while the loop is awake, and the loop goes back to sleep on it.
#[test]
fn no_wake_up_is_lost_with_a_standing_announcement() {
    loom::model(|| {
        let rings = ring();
        let reader = RingReader::new(Arc::clone(&rings));
        let ready = || reader.rings().shards()[0].peek(0) != Peek::NotYet;
        reader.prepare_sleep(Wake::Thread(thread::current()));
        let publisher = thread::spawn(move || {
            let _ = rings.publish_inline(0, 1, |_, _| {});
        });
        // A socket woke the loop.
        while !ready() {
            if !reader.is_announced() {
                reader.prepare_sleep(Wake::Thread(thread::current()));
            }
            if !ready() {
                thread::park();
            }
        }
        reader.cancel_sleep();
        publisher.join().unwrap();
    });
}

/// The first sequence of a ring, as a place to wait at.
struct First(RingReader<Inline<u64>>);

impl Waitable for First {
    fn is_ready(&self) -> bool {
        self.0.rings().shards()[0].peek(0) != Peek::NotYet
    }

    fn is_at_end(&self) -> bool {
        true
    }

    fn is_closed(&self) -> bool {
        self.0.rings().is_closed()
    }

    fn is_at_hole(&mut self) -> bool {
        false
    }

    fn passed(&self) -> u64 {
        0
    }

    fn capacity(&self) -> u64 {
        2
    }

    fn prepare_sleep(&mut self, wake: Wake) -> bool {
        self.0.prepare_sleep(wake);
        if self.is_ready() || self.is_closed() {
            self.0.cancel_sleep();
            return false;
        }
        true
    }

    fn cancel_sleep(&mut self) {
        self.0.cancel_sleep();
    }
}

/// Two rings, one of which is published to, or closed, while a reader sleeps at both.
fn one_of_two(second: bool, closes: bool) {
    loom::model(move || {
        let rings = [ring(), ring()];
        let mut places = [0, 1].map(|n: usize| First(RingReader::new(Arc::clone(&rings[n]))));
        let chosen = Arc::clone(&rings[usize::from(second)]);
        let thread = thread::spawn(move || match closes {
            true => chosen.close(),
            false => _ = chosen.publish_inline(0, 1, |_, _| {}),
        });
        let [a, b] = &mut places;
        let mut places: [&mut dyn Waitable; 2] = [a, b];
        let mut any = AnyOf(&mut places);
        while !any.is_ready() && !any.is_closed() {
            if any.prepare_sleep(Wake::Thread(thread::current())) {
                thread::park();
                any.cancel_sleep();
            }
        }
        assert!(any.0[usize::from(second)].is_ready() || closes);
        thread.join().unwrap();
    });
}

#[test]
fn no_event_of_one_of_two_buses_is_slept_through() {
    one_of_two(false, false);
    one_of_two(true, false);
}

#[test]
fn the_end_of_one_of_two_buses_is_not_slept_through() {
    one_of_two(false, true);
    one_of_two(true, true);
}
