//! The thin edge: mio's poll, the listening sockets, the clock and the threads, around [`Core`].
//!
//! Imports its siblings only. Always: one thread, one poll and one core for each loop; nothing here knows a
//! protocol.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::Shared;
use super::core::Core;
use super::listener::{Accepted, Listener, bind};
use super::stream::Stream;
use super::wheel::{TICK_MS, Tick};
use crate::event::Timestamp;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// Connections accepted in one turn, so that a storm of them does not starve those that are there.
const ACCEPTS_A_TURN: usize = 256;

type Started = (JoinHandle<io::Result<()>>, Arc<Waker>);

/// Binds the address and starts the loops; answers where they listen. With several loops the kernel spreads
/// the connections over their sockets (`SO_REUSEPORT`).
pub(crate) fn start(shared: &Arc<Shared>, address: SocketAddr) -> io::Result<(SocketAddr, Vec<Started>)> {
    let several = shared.loops > 1;
    let mut first = bind(address, false)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    if several {
        // Sockets that share a port would share it with another server's too: the one before, which does not,
        // found that there is none.
        drop(first);
        first = bind(address, true)?;
    }
    let mut sockets = vec![first];
    for _ in 1..shared.loops {
        sockets.push(bind(address, several)?);
    }
    let mut started = Vec::new();
    for (number, socket) in sockets.into_iter().enumerate() {
        let poll = Poll::new()?;
        let listener = Listener::new(socket, poll.registry(), LISTENER)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let for_bus = Arc::clone(&waker);
        let reader = shared.bus.reader(move || {
            // The loop polls with a bound where this fails.
            let _ = for_bus.wake();
        });
        let core = Core::new(Arc::clone(shared), reader, RandomState::new().hash_one(number), number);
        let for_mail = Arc::clone(&waker);
        core.on_mail(Arc::new(move || {
            // As above.
            let _ = for_mail.wake();
        }));
        let event_loop = EventLoop {
            shared: Arc::clone(shared),
            poll,
            listener: Some(listener),
            core,
            started: Instant::now(),
        };
        let thread =
            thread::Builder::new().name(format!("fanwire-loop-{number}")).spawn(move || event_loop.run())?;
        started.push((thread, waker));
    }
    Ok((address, started))
}

struct EventLoop {
    shared: Arc<Shared>,
    poll: Poll,
    listener: Option<Listener>,
    core: Core<Stream>,
    started: Instant,
}

impl EventLoop {
    fn tick(&self) -> Tick {
        self.started.elapsed().as_millis() as u64 / TICK_MS
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut deadline: Option<Instant> = None;
        loop {
            if let Some(listener) = &mut self.listener {
                listener.wake();
            }
            let accepts = self.listener.as_ref().is_some_and(|listener| listener.waits);
            let timeout = if accepts || self.core.has_work() {
                Duration::ZERO
            } else if let Some(held) = self.core.held_for(Timestamp::now()) {
                // Publishers need not wake it: it looks at the bus when the time has come.
                held
            } else if !self.core.prepare_sleep() {
                Duration::ZERO
            } else {
                let ticks = self.core.ticks_to_timer().map_or(600, |ticks| ticks.min(600));
                let short = deadline.is_some() || self.listener.as_ref().is_some_and(Listener::is_paused);
                Duration::from_millis(if short { TICK_MS } else { ticks * TICK_MS })
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.core.wake(self.tick(), Timestamp::now());
            for event in &events {
                match event.token() {
                    LISTENER => {
                        if let Some(listener) = &mut self.listener {
                            listener.waits = true;
                        }
                    }
                    WAKER => {}
                    Token(token) => {
                        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                        let mut writable = event.is_writable();
                        if writable && let Some(socket) = self.core.socket(token as u64) {
                            writable = socket.is_writable();
                        }
                        self.core.ready(token as u64, readable, writable);
                    }
                }
            }
            self.accept();
            self.core.turn();
            if let Some(limit) = self.shared.drain_time() {
                if deadline.is_none() {
                    deadline = Some(Instant::now() + self.core.config().drain_window + limit);
                    self.listener = None;
                    self.core.drain();
                }
                if self.core.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(());
                }
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = self.listener.as_mut().filter(|listener| listener.waits) else { return };
        let rate = self.core.config().accept_rate.div_ceil(self.shared.loops as u32);
        for _ in 0..ACCEPTS_A_TURN {
            if !listener.keeps_pace(rate) {
                return;
            }
            match listener.accept() {
                Accepted::Connection(stream) => {
                    let stream = Stream::new(stream, self.core.config(), &self.shared.metrics);
                    let Some(token) = stream.and_then(|stream| self.core.admit(stream)) else { continue };
                    let Some(socket) = self.core.socket(token) else { continue };
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if self.poll.registry().register(socket.tcp(), Token(token as usize), interest).is_err() {
                        self.core.forget(token);
                    }
                }
                Accepted::Refused => self.core.count_refused("no_descriptors"),
                Accepted::Nothing => return,
            }
        }
    }
}
