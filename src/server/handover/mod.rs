//! Hands a running server over to a successor process on the same machine: the listening sockets, the rings, and the clients
//! with their outboxes.
//!
//! The two processes talk over a Unix socket ([`wire`]), in JSON of a version that both know.
//!
//! Invariants:
//! - A client belongs to exactly one process at every moment. Until the message `Serving` that is the predecessor, which
//!   continues unchanged if the successor fails.
//! - Nothing is published, read or written between packing and that message.
//! - Clients wait at most for [`FREEZE`] and the time that their number and pending bytes add to it. All waits for the
//!   successor, from the first loop that stops to the last message, share this limit, even if the successor sends byte by
//!   byte.
//!
//! ```text
//! successor                        predecessor
//! Ready (its files are read)  ──►
//!                                  loops gather, the engine's follower pauses, loops read the bus to its end
//!                             ◄──  Begin, Sockets, Events, Clients ..., Done
//! Taken (all of it stands)    ──►
//!                             ◄──  Go
//! Serving                     ──►
//! its loops start                  drops what moved, asks the other clients (TLS) to reconnect
//! ```

mod wire;

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::{Revocation, SavedSeal};
use super::dedupe::SavedOutcome;
use super::presence::Expected;
use crate::bus::{Bus, BusConfig};
use crate::codec::portable;
use crate::dialect::envelope;
use crate::engine::{Engine, Places};
use crate::event::{Event, EventId, Position, Sequence};
use crate::server::shared::Shared;
use crate::server::shared::barrier::{HandoverBarrier, Parcel};
use crate::sync::atomic::Ordering;
use crate::sync::lock;
use wire::{ANSWER_BYTES_MAX, DESCRIPTORS_MAX, HandoverWire, MESSAGE_BYTES_MAX};

/// Version of the protocol. It changes whenever an older process could misread a newer one.
const VERSION: u32 = 1;

/// Maximum time for a successor to read its files.
const PREPARE: Duration = Duration::from_secs(30);

/// Base of the maximum time that clients wait for a successor before the predecessor takes them back.
const FREEZE: Duration = Duration::from_secs(1);

/// Time added for each connection that has to move. An unoptimized build on a busy machine takes 250 to 500 us for one
/// (1,000 clients: 240 to 515 ms).
const FREEZE_A_CLIENT: Duration = Duration::from_millis(1);

/// Time added for each byte that the successor takes: 5 MB/s, which an unoptimized build on a busy machine reaches.
const FREEZE_A_BYTE: Duration = Duration::from_nanos(200);

/// Maximum freeze, independent of the number of clients, their pending bytes, and the speed of this process.
const FREEZE_MAX: Duration = Duration::from_secs(10);

/// Time added for the successor's last message, which needs no further work.
const LAST_WORD: Duration = Duration::from_millis(250);

/// Maximum time that a successor waits for its predecessor, whose own limits are lower. No client waits during this
/// time.
const PREDECESSOR: Duration = Duration::from_secs(60);

/// Maximum number of events in one message.
const EVENTS_A_MESSAGE: usize = 256;

/// Messages of the predecessor.
#[derive(Serialize, Deserialize)]
enum PredecessorMessage {
    Begin(SharedState),
    /// The listening sockets, as descriptors of the message.
    Sockets,
    Events(Vec<SavedEvent>),
    /// Clients as JSON, with their sockets as descriptors in the same order.
    Clients(Vec<Box<RawValue>>),
    Done,
    Go,
}

/// Answers of the successor.
#[derive(Serialize, Deserialize)]
enum SuccessorReply {
    Ready {
        version: u32,
        /// Whether it continues for clients that catch up; absent from a version that does not.
        #[serde(default)]
        catches_up: bool,
    },
    Taken,
    Serving,
}

/// State that belongs to no client.
#[derive(Debug, Serialize, Deserialize)]
struct SharedState {
    epoch: u64,
    /// First sequence of each shard that follows.
    first: Vec<Sequence>,
    /// Places of the engine's follower.
    places: Option<Places>,
    /// Revocations since the process started.
    revoked: Vec<Revocation>,
    /// Members of each channel.
    #[serde(default)]
    present: Vec<Expected>,
    /// Outcomes of publications with keys or ids; absent from versions without them.
    #[serde(default)]
    once: Vec<SavedOutcome>,
    /// Key that seals places; absent from versions without it.
    #[serde(default)]
    seal: Option<SavedSeal>,
}

#[derive(Serialize, Deserialize)]
struct SavedEvent {
    #[serde(with = "portable::text")]
    id: EventId,
    event: Box<RawValue>,
}

/// The error of a failed handover. The predecessor keeps all its state.
#[derive(Debug)]
pub struct HandoverError {
    doing: &'static str,
    source: io::Error,
}

impl HandoverError {
    fn new(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { doing, source }
    }
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.kind() {
            io::ErrorKind::UnexpectedEof => write!(f, "{}: the other process has ended", self.doing),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => write!(f, "{}: not in time", self.doing),
            _ => write!(f, "{}: {}", self.doing, self.source),
        }
    }
}

impl std::error::Error for HandoverError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// State from a predecessor: a bus that continues its sequences, and the server's sockets and clients.
pub struct Inheritance {
    wire: HandoverWire,
    state: SharedState,
    events: Vec<(EventId, Event)>,
    place: Option<Sequence>,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) clients: Vec<(Box<RawValue>, TcpStream)>,
}

impl fmt::Debug for Inheritance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inheritance({} clients, {} events)", self.clients.len(), self.events.len())
    }
}

impl Inheritance {
    /// Reports to the predecessor at the other end that this process is ready, and receives its state. Blocks, for at
    /// most a few seconds once the predecessor has begun. The clients wait from then on, so create the [bus](Self::bus)
    /// and the server immediately.
    ///
    /// # Errors
    ///
    /// Fails if the predecessor does not answer in time, is of another version, or the socket breaks. The predecessor then
    /// continues.
    pub fn claim(socket: UnixStream) -> Result<Self, HandoverError> {
        let wire = HandoverWire::new(socket);
        let doing = HandoverError::new("taking over");
        let receive = || wire.receive::<PredecessorMessage>(MESSAGE_BYTES_MAX);
        wire.wait_until(Instant::now() + PREDECESSOR);
        wire.send(&SuccessorReply::Ready { version: VERSION, catches_up: true }, &[]).map_err(&doing)?;
        let (PredecessorMessage::Begin(state), _) = receive().map_err(&doing)? else {
            return Err(doing(io::ErrorKind::InvalidData.into()));
        };
        let (mut events, mut listeners, mut clients) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let (said, descriptors) = receive().map_err(&doing)?;
            match said {
                PredecessorMessage::Sockets => {
                    listeners.extend(descriptors.into_iter().map(TcpListener::from));
                }
                PredecessorMessage::Events(page) => {
                    for SavedEvent { id, event } in page {
                        let event = envelope::read_as_it_stands(event.get()).map_err(io::Error::other);
                        events.push((id, event.map_err(&doing)?));
                    }
                }
                PredecessorMessage::Clients(page) if page.len() == descriptors.len() => {
                    clients.extend(page.into_iter().zip(descriptors.into_iter().map(TcpStream::from)));
                }
                PredecessorMessage::Done => break,
                PredecessorMessage::Begin(_) | PredecessorMessage::Go | PredecessorMessage::Clients(_) => {
                    return Err(doing(io::ErrorKind::InvalidData.into()));
                }
            }
        }
        Ok(Self { wire, state, events, place: None, listeners, clients })
    }

    /// Returns a bus of this size that continues the predecessor's sequences, with its newest events.
    ///
    /// # Errors
    ///
    /// Fails if the number of shards differs from the predecessor's, or the size is out of range.
    pub fn bus(&mut self, config: &BusConfig) -> Result<Bus, HandoverError> {
        let fault = |what: String| HandoverError::new("the bus")(io::Error::other(what));
        let shards = self.state.first.len();
        if config.shards != shards {
            return Err(fault(format!(
                "bus.shards is {}, and the running server has {shards}",
                config.shards
            )));
        }
        let mut first = self.state.first.clone();
        let mut counts = vec![0u64; shards];
        for (id, _) in &self.events {
            counts[usize::from(id.shard).min(shards - 1)] += 1;
        }
        // A smaller ring keeps the newest.
        let excess = |count: u64| count.saturating_sub(config.capacity as u64);
        let mut skip: Vec<u64> = counts.into_iter().map(excess).collect();
        for (first, skip) in first.iter_mut().zip(&skip) {
            *first += skip;
        }
        let bus = Bus::builder()
            .capacity(config.capacity)
            .max_bytes(config.max_bytes)
            .resuming(Position::new(self.state.epoch, first))
            .build();
        let bus = bus.map_err(|error| fault(error.to_string()))?;
        for (id, event) in self.events.drain(..) {
            let skip = &mut skip[usize::from(id.shard).min(shards - 1)];
            if *skip > 0 {
                *skip -= 1;
            } else {
                bus.publish_placed(event, id);
            }
        }
        self.place = (shards == 1).then(|| bus.head(0));
        Ok(bus)
    }

    /// Returns the place of the clients, if the bus has one shard.
    pub(super) fn place(&self) -> Option<Sequence> {
        self.place
    }

    /// Returns the places where the engine's follower continues.
    pub(super) fn places(&self) -> Option<&Places> {
        self.state.places.as_ref()
    }

    /// Takes the revocations that are not in the file.
    pub(super) fn revoked(&mut self) -> Vec<Revocation> {
        std::mem::take(&mut self.state.revoked)
    }

    /// Takes the key that seals places.
    pub(super) fn seal(&mut self) -> Option<SavedSeal> {
        self.state.seal.take()
    }

    /// Takes the outcomes of publications with keys or ids.
    pub(super) fn once(&mut self) -> Vec<SavedOutcome> {
        std::mem::take(&mut self.state.once)
    }

    /// Takes the members of each channel.
    pub(super) fn present(&mut self) -> Vec<Expected> {
        std::mem::take(&mut self.state.present)
    }

    /// Asks the predecessor to release the clients, when this process is ready to serve them. Afterwards they belong to
    /// this process.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.wire.wait_until(Instant::now() + PREDECESSOR);
        self.wire.send(&SuccessorReply::Taken, &[])?;
        let (PredecessorMessage::Go, _) = self.wire.receive(ANSWER_BYTES_MAX)? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.wire.send(&SuccessorReply::Serving, &[])
    }
}

/// Hands all state of a server over to a successor. Returns the number of moved clients.
pub(super) fn hand_over(
    shared: &Shared,
    socket: UnixStream,
    limit: Duration,
    give_up: impl FnOnce(),
) -> Result<usize, HandoverError> {
    if shared.engine.as_ref().is_some_and(Engine::has_one_owner) {
        let what = "belongs to one process: restart the server, which takes epoch and history up again";
        return Err(HandoverError::new("the log in files")(io::Error::other(what)));
    }
    let wire = HandoverWire::new(socket);
    let doing = HandoverError::new("waiting for the successor to be ready");
    wire.wait_until(Instant::now() + PREPARE);
    let (SuccessorReply::Ready { version: VERSION, catches_up }, _) =
        wire.receive(ANSWER_BYTES_MAX).map_err(&doing)?
    else {
        return Err(doing(io::Error::other("it is of a version that can't take over from this one")));
    };
    let begun = Instant::now();
    let until = begun + FREEZE_MAX;
    // With several shards the successor has no past.
    let moves_catch_ups = catches_up && shared.bus.shards() == 1;
    let (barrier, parcels) = HandoverBarrier::new(shared.loops.count, until, moves_catch_ups);
    if !shared.raise_barrier(&barrier) {
        return Err(doing(io::Error::other("another handover is under way")));
    }
    let called = Called { shared, barrier: &barrier };
    wire.wait_in_all(freeze(shared), FREEZE_A_BYTE, until);
    let mut paused = Paused(shared.engine.as_ref());
    let moved = give(shared, &wire, &barrier, parcels);
    if moved.is_err() {
        // Called before the clients are taken back, because no other process may write to them.
        give_up();
    } else {
        paused.0 = None;
    }
    drop(paused);
    // Relaxed: the barrier's lock orders it for the loops.
    shared.lifecycle.handed_over.store(moved.is_ok(), Ordering::Relaxed);
    barrier.decide(moved.is_ok());
    drop(called);
    if moved.is_ok() {
        let milliseconds = begun.elapsed().as_millis() as u64;
        tracing::info!(milliseconds, "clients have waited for the upgrade");
        shared.start_drain(limit);
    }
    moved
}

/// The engine with a paused follower during a handover. Dropping this resumes the follower, also if the caller's `give_up`
/// panics.
struct Paused<'a>(Option<&'a Engine>);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.0 {
            engine.resume();
        }
    }
}

/// The loops that wait at the barrier. Dropping this before a decision leaves them their clients.
struct Called<'a> {
    shared: &'a Shared,
    barrier: &'a HandoverBarrier,
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        self.barrier.decide(false);
        self.shared.lift_barrier();
    }
}

/// Returns the maximum time that the open connections wait for a successor, without the time that each byte adds.
fn freeze(shared: &Shared) -> Duration {
    let open = u32::try_from(shared.open_connections()).unwrap_or(u32::MAX);
    FREEZE_MAX.min(FREEZE.saturating_add(FREEZE_A_CLIENT.saturating_mul(open)))
}

fn give(
    shared: &Shared,
    wire: &HandoverWire,
    barrier: &HandoverBarrier,
    parcels: std::sync::mpsc::Receiver<Parcel>,
) -> Result<usize, HandoverError> {
    let doing = HandoverError::new("gathering the loops");
    shared.wake_loops();
    barrier.wait_for_all().map_err(&doing)?;
    let doing = HandoverError::new("giving to the successor");
    let places = shared.engine.as_ref().and_then(Engine::pause);
    let shards = shared.bus.shards() as u16;
    let mut events: Vec<Event> = Vec::new();
    let first = (0..shards)
        .map(|shard| {
            let head = shared.bus.head(shard);
            if shards > 1 {
                // With several shards, positions are this bus's own, so only live events continue.
                return head;
            }
            shared.bus.read_range(shard, shared.bus.oldest(shard), head, |event| events.push(event.clone()))
        })
        .collect();
    barrier.pack();
    let revoked = shared.auth.save_revoked();
    let present = lock(&shared.clients.presence).save();
    let once = shared.clients.dedupe.save();
    let seal = shared.auth.save_seal();
    let state = SharedState { epoch: shared.bus.epoch(), first, places, revoked, present, once, seal };
    wire.send(&PredecessorMessage::Begin(state), &[]).map_err(&doing)?;
    for page in events.chunks(EVENTS_A_MESSAGE) {
        let page: io::Result<Vec<SavedEvent>> = page.iter().map(SavedEvent::new).collect();
        wire.send(&PredecessorMessage::Events(page.map_err(&doing)?), &[]).map_err(&doing)?;
    }
    let moved = send_parcels(wire, parcels).map_err(&doing)?;
    // An answer before its question breaks the protocol.
    let is_early =
        || wire.has_input().then(|| doing(io::Error::other("the successor speaks out of its turn")));
    is_early().map_or(Ok(()), Err)?;
    wire.send(&PredecessorMessage::Done, &[]).map_err(&doing)?;
    let doing = HandoverError::new("waiting for the successor to take over");
    let (SuccessorReply::Taken, _) = wire.receive(ANSWER_BYTES_MAX).map_err(&doing)? else {
        return Err(doing(io::ErrorKind::InvalidData.into()));
    };
    is_early().map_or(Ok(()), Err)?;
    wire.send(&PredecessorMessage::Go, &[]).map_err(&doing)?;
    wire.wait_longer(LAST_WORD);
    match wire.receive(ANSWER_BYTES_MAX).map_err(&doing)? {
        (SuccessorReply::Serving, _) => Ok(moved),
        _ => Err(doing(io::ErrorKind::InvalidData.into())),
    }
}

/// Sends the loops' parcels, as many together as fit one message.
fn send_parcels(wire: &HandoverWire, parcels: std::sync::mpsc::Receiver<Parcel>) -> io::Result<usize> {
    let mut moved = 0;
    let mut clients = Vec::new();
    let mut sockets: Vec<OwnedFd> = Vec::new();
    let send = |clients: &mut Vec<Box<RawValue>>, sockets: &mut Vec<OwnedFd>| {
        let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(OwnedFd::as_fd).collect();
        wire.send(&PredecessorMessage::Clients(std::mem::take(clients)), &descriptors)?;
        sockets.clear();
        io::Result::Ok(())
    };
    loop {
        let parcel = match parcels.recv_timeout(wire.time_left()?) {
            Ok(parcel) => parcel,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
        };
        match parcel {
            Parcel::Listener(socket) => wire.send(&PredecessorMessage::Sockets, &[socket.as_fd()])?,
            Parcel::Client(client, socket) => {
                moved += 1;
                clients.push(client);
                sockets.push(socket);
                if clients.len() == DESCRIPTORS_MAX {
                    send(&mut clients, &mut sockets)?;
                }
            }
            Parcel::Failed(error) => return Err(error),
        }
    }
    if !clients.is_empty() {
        send(&mut clients, &mut sockets)?;
    }
    Ok(moved)
}

impl SavedEvent {
    fn new(event: &Event) -> io::Result<Self> {
        let id = event.id().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { id, event: RawValue::from_string(event.to_json())? })
    }
}
