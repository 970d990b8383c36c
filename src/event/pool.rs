//! Pool of bodies that rings have dropped, for the next events that the same thread builds.
//!
//! A ring drops its oldest event for each new one. So a thread that publishes gets back as many bodies as it needs, and
//! builds events without an allocation. That halves the time to build and publish one (`cargo bench --bench bus`).
//!
//! Always: a thread keeps at most [`BODIES_MAX`] bodies with texts of at most [`TEXT_BYTES_MAX`] bytes; a body is
//! reused only if the pool has its last handle, and its frames are dropped then.

use std::cell::RefCell;

use super::body::EventBody;
use crate::sync::Arc;

/// Maximum number of bodies kept for each thread.
const BODIES_MAX: usize = 256;

/// Maximum size of a kept text, in bytes. Longer ones go back to the allocator: a ring full of short events must not
/// hold the memory of long ones.
const TEXT_BYTES_MAX: usize = 512;

thread_local! {
    static POOL: RefCell<Vec<Arc<EventBody>>> = const { RefCell::new(Vec::new()) };
}

/// Returns whether a body is worth keeping. Called when the body is published, while it is in the cache.
#[inline]
pub(super) fn is_worth_keeping(body: &EventBody) -> bool {
    body.text.capacity() <= TEXT_BYTES_MAX
}

/// Keeps bodies, as many as there is room for, without looking at them: nothing has touched them for a lap of the ring,
/// and each look would wait for memory. [`take_body`] finds out whether another handle is left.
#[inline]
pub(super) fn keep(mut bodies: impl Iterator<Item = Arc<EventBody>>) {
    // Fails in a thread that is ending: its pool is gone.
    let _ = POOL.try_with(|pool| {
        if let Ok(mut pool) = pool.try_borrow_mut() {
            let room = BODIES_MAX.saturating_sub(pool.len());
            pool.extend(bodies.by_ref().take(room));
        }
    });
    bodies.for_each(drop);
}

/// Returns the body that was kept last, and its empty text with the memory that it has; otherwise a new text. No body is
/// returned if another handle of the last one is left. Then no other body is tried, because if events outlive their ring, few
/// bodies are free. No new handle can appear, because the last one is returned here.
pub(super) fn take_body() -> (Option<Arc<EventBody>>, String) {
    let Some(mut pooled) = POOL.try_with(|pool| pool.try_borrow_mut().ok()?.pop()).ok().flatten() else {
        return (None, String::new());
    };
    // Acquires the writes of the threads that held the body.
    let Some(body) = Arc::get_mut(&mut pooled) else { return (None, String::new()) };
    let mut text = std::mem::take(&mut body.text);
    text.clear();
    body.forget_frames();
    (Some(pooled), text)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Bus, Event};

    fn event(n: usize) -> Event {
        Event::builder("a.b").json(n.to_string()).build().expect("valid")
    }

    #[test]
    fn a_body_is_reused_only_when_no_reader_holds_it() {
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
        // Dropped while another event is made from the pool: nothing of the old one may show in the new one.
        let builder = Event::builder("c.d");
        drop(kept);
        let made = builder.build().expect("valid");
        assert_eq!((made.event_type(), made.payload(), made.id()), ("c.d", "{}", None));
        let places = |events: &[Event]| -> Vec<*const EventBody> {
            events.iter().map(|event| Arc::as_ptr(&event.0)).collect()
        };
        // No handle of these is left, so they return to the pool.
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
