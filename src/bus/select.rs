//! Waits in one thread for the first of several subscribers, of one bus or of many.
//!
//! Always: a wait has a limit, and a publication or the end of a bus ends it.

use std::fmt;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::item::Item;
use super::lossless_subscriber::LosslessSubscriber;
use super::subscriber::Subscriber;
use super::wait::{AdaptiveWait, WaitStrategy};
use super::waitable::{AnyOf, Waitable};

/// A subscriber that [`Select`] can wait for: a [`Subscriber`] or a [`LosslessSubscriber`], of any item.
///
/// This trait cannot be implemented outside this crate.
pub trait Selectable {
    #[doc(hidden)]
    fn place(&mut self) -> &mut dyn Waitable;
}

impl<T: Item> Selectable for Subscriber<T> {
    fn place(&mut self) -> &mut dyn Waitable {
        self.parts().0
    }
}

impl<T: Item> Selectable for LosslessSubscriber<T> {
    /// Lets publishers overwrite what was read: they may be waiting for that space.
    fn place(&mut self) -> &mut dyn Waitable {
        self.passed_place()
    }
}

/// Waits in a thread for the first of several subscribers that has something to read. In async code, `select!` over
/// `recv_async` does the same.
///
/// ```
/// use fanwire::bus::Select;
/// use fanwire::{Bus, Delivery, Event, Filter, Predicate};
/// use std::time::Duration;
///
/// let (events, prices) = (Bus::new(), Bus::builder().carrying::<u64>().build()?);
/// let (mut tasks, mut ticks) = (events.subscribe(Filter::new()), prices.subscribe(Predicate::all()));
/// prices.publish(7);
/// let mut select = Select::new();
/// match select.ready(&mut [&mut tasks, &mut ticks], Duration::from_secs(1)) {
///     Some(0) => println!("{:?}", tasks.try_recv()),
///     Some(_) => assert_eq!(ticks.try_recv(), Ok(Delivery::Event(7))),
///     None => println!("nothing for a second"),
/// }
/// # Ok::<(), fanwire::bus::BusConfigError>(())
/// ```
#[derive(Default)]
pub struct Select {
    waiting: AdaptiveWait,
    /// Index to look at first: the one after the last that was ready, so that each gets its turn.
    turn: usize,
}

impl Select {
    /// Creates a `Select` that waits by [`WaitStrategy::SpinThenPark`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the wait strategy.
    #[must_use]
    pub fn with_wait(mut self, strategy: WaitStrategy) -> Self {
        self.waiting = AdaptiveWait::new(strategy);
        self
    }

    /// Blocks for at most `timeout` until one of the subscribers has something to read or has reached the end of its
    /// bus, and returns its index. Returns `None` if time ran out, or there is no subscriber. Ready subscribers take
    /// turns, so a busy one does not starve the others.
    ///
    /// The filter may leave out all events that made a subscriber ready: `try_recv` then skips them and returns
    /// `Empty`. A subscriber at its end is ready each time, so leave it out from then on.
    pub fn ready(&mut self, subscribers: &mut [&mut dyn Selectable], timeout: Duration) -> Option<usize> {
        let mut places: SmallVec<[&mut dyn Waitable; 8]> =
            subscribers.iter_mut().map(|subscriber| subscriber.place()).collect();
        let count = places.len();
        if count == 0 {
            return None;
        }
        // A deadline that the clock cannot represent counts as none.
        let deadline = Instant::now().checked_add(timeout);
        let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let mut waited = false;
        loop {
            for index in (0..count).map(|step| (self.turn + step) % count) {
                let place = &mut places[index];
                if place.is_ready() || place.is_closed() || (waited && place.is_at_hole()) {
                    self.turn = index + 1;
                    return Some(index);
                }
            }
            if is_over() {
                return None;
            }
            self.waiting.wait_without_backoff(&mut AnyOf(&mut places), deadline, || false);
            waited = true;
        }
    }
}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Select")
    }
}
