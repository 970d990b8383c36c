//! Handlers of a lossless bus in threads of their own, with a name, a core and a call at the end of each batch.
//!
//! Always: a following reader sees an item only after the handler was called with it and with the end of its batch.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use super::item::Item;
use super::lossless_subscriber::LosslessSubscriber;
use super::panics::catch_panic;
use super::ring::PIN_SPAN;

/// Thread of a handler: its name, and the core that it stays on.
///
/// ```
/// # use fanwire::bus::HandlerThread;
/// let thread = HandlerThread::new().named("journal").pinned_to(1);
/// # let _ = thread;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it describes a thread, and starts none"]
pub struct HandlerThread {
    name: Option<String>,
    core: Option<usize>,
}

impl HandlerThread {
    /// Returns a thread without a name, on any core.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the thread's name, as debuggers and `top -H` show it.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Pins the thread to this core, by the system's number. Linux only: elsewhere the handler does not start.
    pub fn pinned_to(mut self, core: usize) -> Self {
        self.core = Some(core);
        self
    }
}

/// Argument of a batch handler's next call. No other variant will be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchItem<'a, T> {
    /// The next item that the filter lets through.
    Item(&'a T),
    /// End of a batch of one item or more: time to flush what was collected.
    End,
}

impl<T: Item> LosslessSubscriber<T> {
    /// Starts a thread that calls `handler` with each item, and with [`BatchItem::End`] after each batch: the items
    /// that were available together, at most 64. The thread ends when the bus is closed and everything was handled;
    /// joining it returns the number of panics.
    ///
    /// Publishers, and subscribers that follow, may use the slots of a batch after its end was handled. A panic of the
    /// handler or of the filter's function is caught and counted, and the handler continues with the next item. It
    /// waits as [`with_wait`](Self::with_wait) says.
    ///
    /// ```
    /// use fanwire::bus::{BatchItem, HandlerThread};
    /// use fanwire::{LosslessBus, Predicate};
    ///
    /// let bus = LosslessBus::builder().carrying::<u64>().build_lossless()?;
    /// let journal = bus.subscribe(Predicate::all());
    /// let apply = bus.subscribe_after(Predicate::all(), &[&journal]);
    /// let mut lines = Vec::new();
    /// let journal = journal.handle(HandlerThread::new().named("journal"), move |next| match next {
    ///     BatchItem::Item(n) => lines.push(*n),
    ///     BatchItem::End => lines.clear(), // and write them out
    /// })?;
    /// bus.publish_batch_blocking(0..1000)?;
    /// bus.close();
    /// assert_eq!(apply.into_iter().count(), 1000);
    /// assert_eq!(journal.join().expect("panics are caught"), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The system's, if it can't start the thread or keep it on the core. The subscription ends then.
    pub fn handle(
        self,
        thread: HandlerThread,
        handler: impl FnMut(BatchItem<'_, T>) + Send + 'static,
    ) -> io::Result<JoinHandle<u64>> {
        let HandlerThread { name, core } = thread;
        let builder = name.map_or_else(Builder::new, |name| Builder::new().name(name));
        let (report, started) = mpsc::sync_channel(1);
        let running = builder.spawn(move || match core.map_or(Ok(()), stay_on) {
            Ok(()) => {
                let _ = report.send(Ok(()));
                run(self, handler)
            }
            Err(error) => {
                // Dropped before the error returns, so that the subscription has ended by then.
                drop(self);
                let _ = report.send(Err(error));
                0
            }
        })?;
        // The thread reports the result before it handles anything.
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended")))?;
        Ok(running)
    }
}

/// Calls the handler until the bus is closed and everything was read, and returns the number of panics.
fn run<T: Item>(mut subscriber: LosslessSubscriber<T>, mut handler: impl FnMut(BatchItem<'_, T>)) -> u64 {
    let mut panics = 0;
    loop {
        let (reader, filter, waiting) = subscriber.parts();
        let (first, wants_all) = (reader.next(), T::wants_all(filter));
        let mut wanted = false;
        let mut most = PIN_SPAN;
        // One catch for a batch, begun anew after a panic: around each item it cost a call each, 0.2 ns.
        loop {
            let walk = catch_panic(|| {
                reader.look_at(most, |item| {
                    if wants_all || item.is_wanted(filter) {
                        wanted = true;
                        handler(BatchItem::Item(item));
                    }
                    true
                })
            });
            if walk.is_some() {
                break;
            }
            panics += 1;
            most = PIN_SPAN - (reader.next() - first);
        }
        if wanted {
            panics += u64::from(catch_panic(|| handler(BatchItem::End)).is_none());
        }
        if reader.next() != first {
            reader.pass();
        } else if reader.is_over() {
            break;
        } else {
            waiting.wait(reader, None, || false);
        }
    }
    panics + u64::from(catch_panic(move || drop((handler, subscriber))).is_none())
}

#[cfg(target_os = "linux")]
fn stay_on(core: usize) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

#[cfg(not(target_os = "linux"))]
fn stay_on(_: usize) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
