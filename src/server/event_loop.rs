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

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};

use super::Shared;
use super::core::Core;
use super::stream::Stream;
use super::wheel::{TICK_MS, Tick};
use crate::event::Timestamp;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// Connections accepted in one turn, so that a storm of them does not starve those that are there.
const ACCEPTS_A_TURN: usize = 256;

/// How long to wait after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections the kernel may hold for us; it cuts this to its own limit.
const BACKLOG: i32 = 4096;

fn bind(address: SocketAddr, shared_port: bool) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

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
        let mut listener = TcpListener::from_std(socket.into());
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
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
            accepts_wait: false,
            accept_after: None,
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
    listener: Option<TcpListener>,
    core: Core<Stream>,
    started: Instant,
    /// The listener has more to accept, and will not say so again.
    accepts_wait: bool,
    /// Accepting failed, for want of descriptors perhaps: not before this time again.
    accept_after: Option<Instant>,
}

impl EventLoop {
    fn tick(&self) -> Tick {
        self.started.elapsed().as_millis() as u64 / TICK_MS
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut deadline: Option<Instant> = None;
        loop {
            if self.accept_after.is_some_and(|time| Instant::now() >= time) {
                self.accept_after = None;
                self.accepts_wait = true;
            }
            let timeout = if self.accepts_wait || self.core.has_work() || !self.core.prepare_sleep() {
                Duration::ZERO
            } else {
                let ticks = self.core.ticks_to_timer().map_or(600, |ticks| ticks.min(600));
                let short = deadline.is_some() || self.accept_after.is_some();
                Duration::from_millis(if short { TICK_MS } else { ticks * TICK_MS })
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            self.core.wake(self.tick(), Timestamp::now());
            for event in &events {
                match event.token() {
                    LISTENER => self.accepts_wait = true,
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
            if self.accepts_wait {
                self.accept();
            }
            self.core.turn();
            if let Some(limit) = self.shared.drain_time() {
                if deadline.is_none() {
                    deadline = Some(Instant::now() + limit);
                    self.listener = None;
                    self.accepts_wait = false;
                    self.core.drain();
                }
                if self.core.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(());
                }
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        for _ in 0..ACCEPTS_A_TURN {
            match listener.accept() {
                Ok((stream, _)) => {
                    // Frames are written whole: waiting to fill a packet would only delay them.
                    let _ = stream.set_nodelay(true);
                    let stream = Stream::new(stream, self.core.config(), &self.shared.metrics);
                    let Some(token) = stream.and_then(|stream| self.core.admit(stream)) else { continue };
                    let Some(socket) = self.core.socket(token) else { continue };
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if self.poll.registry().register(socket.tcp(), Token(token as usize), interest).is_err() {
                        self.core.forget(token);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.accepts_wait = false;
                    return;
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    self.accepts_wait = false;
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }
}
