//! Threads of a server and of its engine: all are started here, so that no panic in one of them is silent.
//!
//! Invariants:
//! - A panic or an error that ends a thread is logged with its place, and raises the [`Alarm`] of its server.
//! - The first failure counts: it stops the server, and `ServerHandle::join` returns it.
//! - Embedders' code in such a thread is called through a function that catches its panic, which raises no alarm.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Callback, Mutex, lock};

/// Failure that ended a thread of a server before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadFailure {
    thread: String,
    message: String,
    place: Option<String>,
    is_panic: bool,
}

impl ThreadFailure {
    /// Returns the name of the thread, such as `fanwire-loop-0`.
    #[must_use]
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// Returns the message of the panic or of the error.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the source file, line and column of the panic. `None` for an error, and if the program set a panic hook of its
    /// own after the server's first thread was started.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Returns whether the thread panicked. If not, it met an error after which it cannot continue.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        self.is_panic
    }
}

impl fmt::Display for ThreadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thread, message, place, is_panic } = self;
        let what = if *is_panic { "panicked" } else { "failed" };
        write!(f, "thread {thread} {what}")?;
        if let Some(place) = place {
            write!(f, " at {place}")?;
        }
        write!(f, ": {message}")
    }
}

impl std::error::Error for ThreadFailure {}

/// Embedder's function that is called with the first failure.
pub(crate) type OnFailure = Box<dyn Fn(&ThreadFailure) + Send + Sync>;

#[derive(Default)]
struct AlarmState {
    is_raised: AtomicBool,
    first: Mutex<Option<ThreadFailure>>,
    /// Functions that stop the server's parts.
    stops: Mutex<Vec<Callback>>,
    hook: Mutex<Option<OnFailure>>,
    /// Name of the thread that a test wants to panic.
    #[cfg(any(test, debug_assertions))]
    planted: Mutex<String>,
}

/// Record of a thread failure of one server. Clones share the state.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<AlarmState>);

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Alarm").field(&*lock(&self.0.first)).finish()
    }
}

impl Alarm {
    /// Returns whether a thread has failed: the other threads of this server end then.
    pub(crate) fn is_raised(&self) -> bool {
        // Relaxed: a flag on its own; threads are woken after it is set, and a lock guards the failure.
        self.0.is_raised.load(Ordering::Relaxed)
    }

    /// Returns the first failure.
    pub(crate) fn first(&self) -> Option<ThreadFailure> {
        lock(&self.0.first).clone()
    }

    /// Calls `stop` when a thread fails; immediately if one has failed already.
    pub(crate) fn on_raised(&self, stop: Callback) {
        lock(&self.0.stops).push(Arc::clone(&stop));
        // Checked after the push: either this check sees the failure, or `raise` sees the function.
        if self.first().is_some() {
            stop();
        }
    }

    /// Sets the embedder's function for the first failure.
    pub(crate) fn set_hook(&self, hook: OnFailure) {
        *lock(&self.0.hook) = Some(hook);
    }

    fn raise(&self, failure: ThreadFailure) {
        let ThreadFailure { thread, message, place, is_panic } = &failure;
        let place = place.as_deref().unwrap_or("an unknown place");
        if *is_panic {
            tracing::error!(thread, place, message, "a thread panicked: the server stops");
        } else {
            tracing::error!(thread, message, "a thread failed: the server stops");
        }
        {
            let mut first = lock(&self.0.first);
            if first.is_some() {
                return;
            }
            *first = Some(failure.clone());
        }
        // Relaxed: see `is_raised`.
        self.0.is_raised.store(true, Ordering::Relaxed);
        let stops = lock(&self.0.stops).clone();
        for stop in stops {
            stop();
        }
        // Called and dropped after the lock is released.
        let hook = lock(&self.0.hook).take();
        if let Some(hook) = hook
            && let Err(panicked) = catch_panic(move || hook(&failure))
        {
            tracing::error!(message = panicked.message, "the function for failures panicked");
        }
    }

    /// Makes the thread of this name panic at its next [`fault_point`].
    #[cfg(test)]
    pub(crate) fn plant(&self, thread: &str) {
        thread.clone_into(&mut lock(&self.0.planted));
    }
}

thread_local! {
    /// Whether the places of this thread's panics are recorded.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Place of this thread's last panic.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// The alarm of the server that this thread works for.
    static ALARM: RefCell<Option<Alarm>> = const { RefCell::new(None) };
}

/// Installs a panic hook that records the place of a panic in a watched thread. It calls the previous hook: only a hook
/// knows the place, and the process has one.
fn watch_places() {
    static ONCE: Once = Once::new();
    if thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if IS_WATCHED.try_with(Cell::get).unwrap_or(false) {
                let place = panic.location().map(ToString::to_string);
                let _ = PLACE.try_with(|last| *last.borrow_mut() = place);
            }
            before(panic);
        }));
    });
}

/// A panic that was caught.
pub(crate) struct CaughtPanic {
    pub(crate) message: String,
    pub(crate) place: Option<String>,
}

/// Runs `work`, and catches its panic.
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, CaughtPanic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let message = text_of(&*panic);
        let place = PLACE.with(|place| place.borrow_mut().take());
        // The payload may panic again when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
            std::mem::forget(again);
        }
        CaughtPanic { message, place }
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// Starts a thread of a server. Its panic is logged with its place, raises the alarm, and ends this thread only.
pub(crate) fn spawn(
    name: impl Into<String>,
    alarm: &Alarm,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    spawn_fallible(name, alarm, move || {
        work();
        Ok(())
    })
}

/// Starts a thread as [`spawn`] does; an error that ends the work raises the alarm too.
pub(crate) fn spawn_fallible(
    name: impl Into<String>,
    alarm: &Alarm,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    watch_places();
    let (name, alarm) = (name.into(), alarm.clone());
    thread::Builder::new().name(name.clone()).spawn(move || {
        IS_WATCHED.set(true);
        ALARM.set(Some(alarm.clone()));
        let (message, place, is_panic) = match catch_panic(work) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => (error.to_string(), None, false),
            Err(CaughtPanic { message, place }) => (message, place, true),
        };
        alarm.raise(ThreadFailure { thread: name, message, place, is_panic });
    })
}

/// Panics if a test has planted a panic for this thread, which calls this while it works. Empty in a release build.
#[inline(always)]
pub(crate) fn fault_point() {
    #[cfg(any(test, debug_assertions))]
    faults::look();
}

#[cfg(any(test, debug_assertions))]
mod faults {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use super::{ALARM, lock, thread};

    /// Variable with the path of a file that names the thread to panic; for tests of the built program.
    const VARIABLE: &str = "TEST_THREAD_TO_PANIC_FILE";

    static FILE: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(VARIABLE).map(PathBuf::from));

    pub(super) fn look() {
        let current = thread::current();
        let Some(name) = current.name() else { return };
        let is_planted = |alarm: &super::Alarm| {
            let mut planted = lock(&alarm.0.planted);
            let is_it = *planted == name;
            if is_it {
                planted.clear();
            }
            is_it
        };
        let planted = ALARM.with(|alarm| alarm.borrow().as_ref().is_some_and(is_planted));
        let wanted = || FILE.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        assert!(!planted && wanted().is_none_or(|wanted| wanted.trim() != name), "planted by a test");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_reported_once_with_its_place_and_ends_its_thread_only() {
        let alarm = Alarm::default();
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let (recorder, stopped) = (Arc::clone(&calls), Arc::clone(&calls));
        alarm.set_hook(Box::new(move |failure| {
            lock(&recorder).push(failure.to_string());
            panic!("the hook's own");
        }));
        alarm.on_raised(Arc::new(move || lock(&stopped).push("stop".to_owned())));
        for name in ["first", "second"] {
            let thread = spawn(name, &alarm, || panic!("there is one"));
            thread.expect("a thread").join().expect("its panic stays in it");
        }
        let first = alarm.first().expect("raised");
        assert!(alarm.is_raised() && first.is_panic());
        assert_eq!((first.thread(), first.message()), ("first", "there is one"));
        assert!(first.place().is_some_and(|place| place.contains("threads.rs:")), "{first}");
        let calls = lock(&calls).clone();
        assert_eq!(calls[0], "stop", "parts stop before the embedder is notified");
        assert_eq!(calls[1..], [first.to_string()]);
    }

    #[test]
    fn an_error_raises_the_alarm_too_and_a_later_thread_is_stopped_at_once() {
        let alarm = Alarm::default();
        let ends = || Err(io::Error::other("no more polls"));
        spawn_fallible("loop", &alarm, ends).expect("a thread").join().expect("no panic");
        assert_eq!(alarm.first().expect("raised").to_string(), "thread loop failed: no more polls");
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        // Relaxed: this thread's own.
        alarm.on_raised(Arc::new(move || stop.store(true, Ordering::Relaxed)));
        assert!(stopped.load(Ordering::Relaxed));
    }
}
