//! The thin edge: mio's poll, the listening sockets, the clock and the threads, around [`LoopState`].
//!
//! Invariants:
//! - Each loop has one thread, one poll and one state.
//! - No code here depends on a protocol.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use socket2::Socket;

use super::SavedClient;
use super::listener::{Accepted, Listener, adopt, bind};
use super::loop_state::LoopState;
use super::stream::Stream;
use crate::event::Timestamp;
#[cfg(unix)]
use crate::server::handover::Inheritance;
use crate::server::shared::Shared;
use crate::server::shared::adoption::Adoption;
#[cfg(unix)]
use crate::server::shared::barrier::{HandoverBarrier, Parcel};
use crate::server::tick::{TICK_MS, Tick};
use crate::sync::Callback;
use crate::threads;

const WAKER: Token = Token(usize::MAX);

/// Token of a loop's first listening socket; the next ones have the tokens below. Connections' tokens are lower still,
/// because a generation never sets the top bit.
const LISTENERS: usize = usize::MAX - 1;

/// Maximum number of listening sockets of a loop.
const LISTENERS_MAX: usize = 1024;

/// Maximum wait for pending answers before a loop is handed over; the other loops wait too. A client without its answer
/// stays, receives it here, and is asked to reconnect.
#[cfg(unix)]
const ANSWERS_PATIENCE: Duration = Duration::from_millis(500);

const FIRST_LISTENER: usize = LISTENERS - LISTENERS_MAX;

/// Maximum number of connections accepted in one turn, so that a storm does not starve the existing ones.
const ACCEPTS_A_TURN: usize = 64;

type Started = (JoinHandle<()>, Arc<Waker>);

/// Binds one listening socket per loop to this address, and returns the bound address. The kernel spreads connections over
/// the sockets (`SO_REUSEPORT`).
fn listen(shared: &Shared, address: SocketAddr) -> io::Result<(SocketAddr, Vec<Vec<Socket>>)> {
    let several = shared.loops.count > 1;
    let mut first = bind(address, false)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    if several {
        // Sockets that share a port would also share it with another server's. Binding the first socket without sharing
        // has shown that there is none.
        drop(first);
        first = bind(address, true)?;
    }
    let mut sockets = vec![vec![first]];
    for _ in 1..shared.loops.count {
        sockets.push(vec![bind(address, several)?]);
    }
    Ok((address, sockets))
}

/// Spreads inherited listening sockets over the loops. If there are fewer sockets than loops, loops share them: each accepts
/// the connections that it sees first.
fn share_out(loops: usize, sockets: Vec<TcpListener>) -> io::Result<Vec<Vec<Socket>>> {
    let mut shares: Vec<Vec<Socket>> = (0..loops).map(|_| Vec::new()).collect();
    let count = sockets.len();
    for (number, socket) in sockets.into_iter().enumerate() {
        let socket = adopt(socket)?;
        for sharing in (number + count..loops).step_by(count) {
            shares[sharing].push(socket.try_clone()?);
        }
        shares[number % loops].push(socket);
    }
    if shares.iter().any(|share| share.len() > LISTENERS_MAX) {
        return Err(io::Error::other(format!("{count} sockets are too many for {loops} loops")));
    }
    Ok(shares)
}

/// Starts the loops with these sockets, or at the address if there are none, or without a listening socket if there is no
/// address. Returns the address on which they listen.
pub(crate) fn start(
    shared: &Arc<Shared>,
    address: Option<SocketAddr>,
    sockets: Vec<TcpListener>,
    #[cfg(unix)] inheritance: Option<&mut Inheritance>,
) -> io::Result<(Option<SocketAddr>, Vec<Started>)> {
    let (address, sockets) = match address {
        Some(address) if sockets.is_empty() => {
            let (address, sockets) = listen(shared, address)?;
            (Some(address), sockets)
        }
        // Without sockets each loop gets an empty share.
        address => (address, share_out(shared.loops.count, sockets)?),
    };
    let mut loops = Vec::new();
    for (number, sockets) in sockets.into_iter().enumerate() {
        let poll = Poll::new()?;
        let listeners = (sockets.into_iter().enumerate())
            .map(|(at, socket)| Listener::new(socket, poll.registry(), Token(LISTENERS - at)))
            .collect::<io::Result<Vec<_>>>()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let for_bus = Arc::clone(&waker);
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has a predecessor"))]
        let mut reader = shared.bus.reader(move || {
            // If this fails, the loop still wakes when its poll times out.
            let _ = for_bus.wake();
        });
        #[cfg(unix)]
        if let Some(place) = inheritance.as_ref().and_then(|inheritance| inheritance.place()) {
            // An engine may have published already.
            reader.start_at(place);
        }
        let core = LoopState::new(Arc::clone(shared), reader, RandomState::new().hash_one(number), number);
        let for_mail = Arc::clone(&waker);
        let wake: Callback = Arc::new(move || {
            // As above.
            let _ = for_mail.wake();
        });
        core.on_mail(Arc::clone(&wake));
        shared.loops.adoptions.open(number, wake);
        let event_loop =
            EventLoop { shared: Arc::clone(shared), poll, number, listeners, core, started: Instant::now() };
        loops.push((event_loop, waker));
    }
    #[cfg(unix)]
    if let Some(inheritance) = inheritance {
        let count = loops.len();
        for (number, (client, tcp)) in inheritance.clients.drain(..).enumerate() {
            let client = serde_json::from_str(client.get())?;
            loops[number % count].0.take_over(client, tcp);
        }
        loops[0].0.core.expect_users();
        inheritance.settle()?;
    }
    shared.record_history(Timestamp::now());
    let spawn = |(event_loop, waker): (EventLoop, _)| {
        let name = format!("fanwire-loop-{}", event_loop.number);
        Ok((threads::spawn_fallible(name, &shared.alarm, move || event_loop.run())?, waker))
    };
    let started = loops.into_iter().map(spawn).collect::<io::Result<_>>()?;
    Ok((address, started))
}

struct EventLoop {
    shared: Arc<Shared>,
    poll: Poll,
    number: usize,
    listeners: Vec<Listener>,
    core: LoopState<Stream>,
    started: Instant,
}

impl EventLoop {
    fn tick(&self) -> Tick {
        self.started.elapsed().as_millis() as u64 / TICK_MS
    }

    fn run(mut self) -> io::Result<()> {
        super::heap::reserve();
        let mut events = Events::with_capacity(1024);
        let mut deadline: Option<Instant> = None;
        #[cfg(unix)]
        let mut seen_barrier = 0;
        loop {
            self.shared.beat(self.number);
            threads::fault_point();
            if self.shared.alarm.is_raised() {
                // Another loop failed to start. The sockets close here, so that no client waits for half a server.
                return Ok(());
            }
            #[cfg(unix)]
            if let Some((number, barrier)) = self.shared.barrier(seen_barrier) {
                seen_barrier = number;
                self.hand_over(&barrier);
            }
            self.listeners.iter_mut().for_each(Listener::wake);
            let accepts = self.listeners.iter().any(|listener| listener.waits)
                || self.shared.loops.adoptions.has_some(self.number);
            let timeout = if accepts || self.core.has_work() {
                Duration::ZERO
            } else if let Some(held) = self.core.held_for(Timestamp::now()) {
                // Publishers need not wake it: it reads the bus when the flush interval has passed.
                self.core.cancel_sleep();
                held
            } else if !self.core.prepare_sleep() {
                Duration::ZERO
            } else {
                let ticks = self.core.ticks_to_timer().map_or(600, |ticks| ticks.min(600));
                let short = deadline.is_some() || self.listeners.iter().any(Listener::is_paused);
                Duration::from_millis(if short { TICK_MS } else { ticks * TICK_MS })
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let begun = Instant::now();
            self.core.wake(self.tick(), Timestamp::now());
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(token @ FIRST_LISTENER..) => {
                        if let Some(listener) = self.listeners.get_mut(LISTENERS - token) {
                            listener.waits = true;
                        }
                    }
                    Token(token) => {
                        let is_over = event.is_read_closed() || event.is_error();
                        if is_over {
                            self.core.record_end(token as u64);
                        }
                        let readable = event.is_readable() || is_over;
                        let mut writable = event.is_writable();
                        if writable && let Some(socket) = self.core.socket(token as u64) {
                            writable = socket.is_writable();
                        }
                        self.core.ready(token as u64, readable, writable);
                    }
                }
            }
            self.accept();
            self.adopt();
            self.core.turn();
            self.shared.metrics.turn.observe(begun.elapsed().as_micros() as u64, 1);
            if let Some(limit) = self.shared.drain_time() {
                if deadline.is_none() {
                    deadline = Some(Instant::now() + self.core.config().drain_window + limit);
                    self.listeners.clear();
                    self.core.drain();
                }
                if self.core.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    self.core.end_presence();
                    self.shared.loops.adoptions.close(self.number);
                    return Ok(());
                }
            }
        }
    }

    /// Takes over a client of the predecessor. A client that is not allowed to continue here is closed.
    #[cfg(unix)]
    fn take_over(&mut self, client: SavedClient, tcp: TcpStream) {
        self.core.set_time(self.tick(), Timestamp::now());
        let Some(token) = Stream::taken_over(tcp).ok().and_then(|socket| self.core.unpack(socket, client))
        else {
            return;
        };
        self.register(token);
    }

    /// Gives this loop's clients to the successor, together with all other loops. If that fails, the loop continues with
    /// them.
    #[cfg(unix)]
    fn hand_over(&mut self, barrier: &HandoverBarrier) {
        // Pending answers from other threads are delivered first, if they come in time.
        let end = Instant::now() + ANSWERS_PATIENCE;
        while self.core.awaits_answers() && Instant::now() < end {
            self.core.wake(self.tick(), Timestamp::now());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.core.settle_presence();
        let Some(parcels) = barrier.arrive() else { return };
        // Ignore send errors: the successor died then, so this process keeps everything.
        let give = |parcel: io::Result<Parcel>| drop(parcels.send(parcel.unwrap_or_else(Parcel::Failed)));
        for listener in &self.listeners {
            give(listener.descriptor().map(Parcel::Listener));
        }
        self.core.wake(self.tick(), Timestamp::now());
        let packed = self.core.pack(barrier.moves_catch_ups(), |socket, client| {
            let parcel =
                || Ok(Parcel::Client(serde_json::value::to_raw_value(&client)?, socket.descriptor()?));
            give(parcel());
        });
        drop(parcels);
        if barrier.decision() {
            self.listeners.clear();
            self.core.release(packed);
        } else {
            self.core.reclaim(packed);
        }
    }

    /// Registers a connection's socket with the poll.
    fn register(&mut self, token: u64) {
        let Some(socket) = self.core.socket(token) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(socket.source(), Token(token as usize), interest).is_err() {
            self.core.forget(token);
        }
    }

    fn accept(&mut self) {
        let rate = self.core.config().accept_rate.map(|rate| rate.div_ceil(self.shared.loops.count as u32));
        for at in 0..self.listeners.len() {
            self.accept_from(at, rate);
        }
    }

    fn accept_from(&mut self, at: usize, rate: Option<u32>) {
        if !self.listeners[at].waits {
            return;
        }
        for _ in 0..ACCEPTS_A_TURN {
            let listener = &mut self.listeners[at];
            if !listener.is_within_rate(rate) {
                return;
            }
            match listener.accept() {
                Accepted::Connection(stream, peer) => {
                    let stream = Stream::new(stream, peer, self.core.config(), &self.shared.metrics);
                    if let Some(token) = stream.and_then(|stream| self.core.admit(stream)) {
                        self.register(token);
                    }
                }
                Accepted::Refused => self.core.count_refused("no_descriptors"),
                Accepted::Nothing => return,
            }
        }
    }

    /// Admits connections that the embedding program accepted.
    fn adopt(&mut self) {
        if !self.shared.loops.adoptions.has_some(self.number) {
            return;
        }
        for _ in 0..ACCEPTS_A_TURN {
            let Some(Adoption { socket, request }) = self.shared.loops.adoptions.take(self.number) else {
                return;
            };
            match Stream::adopted(socket) {
                Ok(stream) => {
                    if let Some(token) = self.core.adopt(stream, request) {
                        self.register(token);
                    }
                }
                // The peer has already closed.
                Err(error) => tracing::debug!(%error, "an adopted socket is broken"),
            }
        }
    }
}
