//! Bodies of events that their ring let go of, kept for the next events that their thread makes.
//!
//! Imports its siblings. Always: at most so many bodies a thread, of at most so many bytes each; a body is written
//! anew only where the pool's handle is the last, and its frames go then.
//!
//! A ring lets go of the oldest event for each that comes: so a thread that publishes gets back as many bodies
//! as it needs, and makes events without an allocation. Measured with `cargo bench --bench bus`: an event made
//! and published takes half the time.

use std::cell::RefCell;

use super::body::EventBody;
use crate::sync::Arc;

/// Bodies kept for each thread.
const BODIES_MAX: usize = 256;

/// Longer texts go back to the allocator: a ring full of short events must not hold long ones' memory.
const TEXT_BYTES_MAX: usize = 512;

thread_local! {
    static POOL: RefCell<Vec<Arc<EventBody>>> = const { RefCell::new(Vec::new()) };
}

/// Whether a body is worth keeping. Asked where it is written, and near.
#[inline]
pub(super) fn is_wanted(body: &EventBody) -> bool {
    body.text.capacity() <= TEXT_BYTES_MAX
}

/// Keeps bodies that are wanted, as many as have room. Without a look at them: they have not been touched for a lap of
/// the ring, and each look would wait for memory. Whether somebody else holds one is seen when it is taken, and written
/// anew.
#[inline]
pub(super) fn give(mut bodies: impl Iterator<Item = Arc<EventBody>>) {
    // A thread that ends has no pool any more.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let room = BODIES_MAX.saturating_sub(pool.len());
            pool.extend(bodies.by_ref().take(room));
        }
    });
    bodies.for_each(drop);
}

/// The body that was kept last, emptied by `empty`, to be written anew: nobody else holds it, nor can come to, as its one
/// handle is given here. No other is tried: where events are held longer than their ring holds them, there is little to
/// find.
pub(super) fn take<R>(empty: impl FnOnce(&mut EventBody) -> R) -> Option<(Arc<EventBody>, R)> {
    let mut body = POOL.try_with(|pool| pool.try_borrow_mut().ok()?.pop()).ok().flatten()?;
    // Acquires what those who held it did with it.
    let emptied = empty(Arc::get_mut(&mut body)?);
    Some((body, emptied))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Bus, Event};

    fn event(n: usize) -> Event {
        Event::builder("a.b").json(n.to_string()).build().expect("valid")
    }

    #[test]
    fn a_body_serves_again_only_when_nobody_holds_it() {
        let bus = Bus::builder().capacity(1).build().expect("valid");
        let mut publisher = bus.publisher();
        let kept: Vec<Event> = (0..1000)
            .map(|n| {
                let event = event(n);
                let mut all = bus.subscribe(crate::Filter::new());
                publisher.publish(event);
                match all.try_recv() {
                    Ok(crate::Delivery::Event(event)) => event.clone(),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        for (n, event) in kept.iter().enumerate() {
            assert_eq!(event.payload(), n.to_string());
        }
        // Let go of while another is being made of the pool: what it was is not to be seen in that.
        let builder = Event::builder("c.d");
        drop(kept);
        let made = builder.build().expect("valid");
        assert_eq!((made.event_type(), made.payload(), made.id()), ("c.d", "{}", None));
        let places = |events: &[Event]| -> Vec<*const EventBody> {
            events.iter().map(|event| Arc::as_ptr(&event.0)).collect()
        };
        // Nobody holds these, so they come back.
        let first: Vec<Event> = (0..BODIES_MAX).map(event).collect();
        let before = places(&first);
        publisher.publish_batch(first);
        publisher.publish_batch(
            (0..BODIES_MAX)
                .map(|_| {
                    Event::builder("x")
                        .json("\"".to_owned() + &"y".repeat(600) + "\"")
                        .build()
                        .expect("valid")
                })
                .collect::<Vec<_>>(),
        );
        let again = places(&(0..BODIES_MAX).map(event).collect::<Vec<_>>());
        assert!(again.iter().any(|place| before.contains(place)));
    }
}
